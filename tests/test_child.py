import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowd import child
from flowd.child import ControlChannel, lock_shard, run
from flowd.cli import CHILD_COMMAND
from flowd.config import Config
from flowd.control import Assignment, ChildEvent, Role, decode_event, encode_line
from flowd.data_directory import Identity, shard_directory
from flowd.errors import FlowdError, ProtocolError
from flowd.filesystem import DirectoryLock
from tests.supervisor.harness import short_directory

DEADLINE_SECONDS = 20.0
IDENTITY = Identity(generation=1, shards=1, seed="0123456789abcdef", directory_id="00" * 16)


class Child:
    """A real child process, with the test as its supervisor."""

    def __init__(self, directory: Path, line: bytes, *inherited: int) -> None:
        self.log = directory / "log"
        ours, theirs = socket.socketpair()
        with theirs, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*CHILD_COMMAND, "worker", "0", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *inherited),
                stderr=log,
                cwd=Path(__file__).parents[1],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.channel = ours
        self.channel.settimeout(DEADLINE_SECONDS)
        self.channel.sendall(line)
        self._lines = self.channel.makefile("rb")

    def next(self, event: str) -> ChildEvent:
        """Read events up to one of a kind."""
        while line := self._lines.readline():
            told = decode_event(line)
            if told.event == event:
                return told
        raise AssertionError(f"no {event}: {self.log.read_text()}")

    def wait(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def hang_up(self) -> None:
        """Do what a killed supervisor does."""
        self._lines.close()
        self.channel.close()

    def close(self) -> None:
        self.hang_up()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_directory() as short:
        yield short


@pytest.fixture
def start(tmp_path: Path, runtime: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def begin(assignment: Assignment | bytes, *inherited: int) -> Child:
        line = assignment if isinstance(assignment, bytes) else encode_line(assignment)
        children.append(Child(tmp_path, line, *inherited))
        return children[-1]

    yield begin
    for one in children:
        one.close()


def assign(tmp_path: Path, runtime: Path, role: Role = "worker", **changes: object) -> Assignment:
    shard_directory(tmp_path / "data", 1, 0).mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {
        "role": role,
        "index": 0,
        "config": Config(),
        "data_dir": str(tmp_path / "data"),
        "identity": IDENTITY,
        "runtime_dir": str(runtime),
        "boot": "boot",
        "kernel": "reference",
    }
    return Assignment(**(settings | changes))


def test_a_worker_recovers_says_ready_beats_and_stops_when_told(tmp_path, runtime, start):
    worker = start(assign(tmp_path, runtime))
    worker.next("ready")
    assert (runtime / "worker-0.sock").is_socket()
    worker.next("beat")
    worker.next("beat")
    worker.process.send_signal(signal.SIGINT)  # Ctrl-C is the supervisor's business
    worker.process.send_signal(signal.SIGHUP)
    worker.next("beat")
    worker.process.terminate()
    assert worker.wait() == 0
    assert "Traceback" not in worker.log.read_text()
    lock = DirectoryLock.acquire(shard_directory(tmp_path / "data", 1, 0) / "LOCK")
    assert lock is not None
    lock.release()


def test_a_worker_whose_directory_is_missing_is_no_empty_shard(tmp_path, runtime, start):
    assignment = assign(tmp_path, runtime)
    shard_directory(tmp_path / "data", 1, 0).rmdir()
    worker = start(assignment)
    assert "is a disk not mounted?" in worker.next("failed").detail
    assert worker.wait() == 78


def test_a_router_serves_on_the_socket_it_inherits(tmp_path, runtime, start):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assignment = assign(tmp_path, runtime, role="router", listen_descriptor=listening.fileno())
        router = start(assignment, listening.fileno())
        router.next("ready")  # although its worker is not there
        with socket.create_connection(listening.getsockname(), DEADLINE_SECONDS) as client:
            client.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert (runtime / "router-0.sock").is_socket()
        router.process.terminate()
        assert router.wait() == 0


def test_a_child_exits_within_a_second_of_its_supervisor(tmp_path, runtime, start):
    worker = start(assign(tmp_path, runtime))
    worker.next("ready")
    hung_up = time.monotonic()
    worker.hang_up()
    assert worker.wait() == 1
    assert time.monotonic() - hung_up < 1.0


def test_a_child_that_never_yields_to_its_loop_exits_with_its_supervisor_too(
    tmp_path, runtime, start
):
    directory = shard_directory(tmp_path / "data", 1, 0)
    directory.mkdir(parents=True)
    lock = DirectoryLock.acquire(directory / "LOCK")
    assert lock is not None
    worker = start(assign(tmp_path, runtime))
    assert worker.next("progress").detail == "waiting for the shard's lock"
    worker.hang_up()
    assert worker.wait() == 1
    lock.release()


def test_a_worker_waits_for_its_predecessor_to_let_go_of_the_shard(tmp_path, runtime, start):
    directory = shard_directory(tmp_path / "data", 1, 0)
    directory.mkdir(parents=True)
    lock = DirectoryLock.acquire(directory / "LOCK")
    assert lock is not None
    worker = start(assign(tmp_path, runtime))
    worker.next("progress")
    worker.next("progress")
    lock.release()
    worker.next("ready")


def test_a_damaged_log_is_not_worth_a_restart(tmp_path, runtime, start):
    directory = shard_directory(tmp_path / "data", 1, 0) / "wal"
    directory.mkdir(parents=True)
    (directory / f"{1:020}.wal").write_bytes(b"garbage" * 1_000)
    worker = start(assign(tmp_path, runtime))
    reason = worker.next("failed").detail
    assert worker.wait() == 78
    assert f"{1:020}.wal" in reason
    log = worker.log.read_text()
    assert len(log.splitlines()) == 1
    assert "cannot_run" in log
    assert "Traceback" not in log


def test_a_disk_that_fails_is_worth_a_restart(tmp_path, runtime, start):
    assignment = assign(tmp_path, runtime)
    (shard_directory(tmp_path / "data", 1, 0) / "wal").touch()  # not a directory
    worker = start(assignment)
    assert "Not a directory" in worker.next("failed").detail
    assert worker.wait() == 1
    assert "Traceback" not in worker.log.read_text()


@pytest.mark.parametrize("line", [b"", b"{}\n", b"x" * 100_000])
def test_without_an_assignment_a_child_exits_in_silence(tmp_path, start, line):
    worker = start(line)
    with contextlib.suppress(OSError):
        worker.channel.shutdown(socket.SHUT_WR)
    assert worker.wait() == 1
    assert worker.log.read_text() == ""


def test_a_hung_child_says_where_it_hangs_when_it_is_aborted(tmp_path, runtime, start):
    worker = start(assign(tmp_path, runtime))
    worker.next("ready")
    worker.process.send_signal(signal.SIGABRT)
    assert worker.wait() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in worker.log.read_text()
    assert "child.py" in worker.log.read_text()


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path):
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_WR)
        outcome = subprocess.run(
            [*CHILD_COMMAND, "worker", "0", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=False,
        )
    assert (outcome.returncode, outcome.stderr) == (1, b"")


def test_a_worker_starts_without_aiohttp():
    script = (
        "import sys, flowd.child, flowd.worker, flowd.store\n"
        "print([name for name in ('aiohttp', 'rich', 'click') if name in sys.modules])"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert outcome.stdout == "[]\n"


@pytest.fixture
def channel() -> Iterator[tuple[ControlChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours:
        control = ControlChannel(theirs.detach())
        yield control, ours
        control._socket.close()


def stop_once_ready(ours: socket.socket, seen: list[str], use: Callable[[], None]) -> None:
    """Play the supervisor in a thread: use the child when it is ready, then stop it."""

    def watch() -> None:
        with ours.makefile("rb") as lines:
            for line in lines:
                seen.append(decode_event(line).event)
                if seen[-1] == "ready":
                    use()
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    threading.Thread(target=watch).start()


def test_a_worker_gives_its_shard_back_when_it_stops(tmp_path, runtime, channel):
    control, ours = channel
    seen: list[str] = []
    stop_once_ready(ours, seen, lambda: None)
    assert run(assign(tmp_path, runtime), control) == 0
    assert seen[-1] == "ready"
    lock_shard(shard_directory(tmp_path / "data", 1, 0), print, 0.0).release()


def test_a_router_answers_for_all_processes_until_it_stops(tmp_path, runtime, channel):
    control, ours = channel
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()

        def scrape() -> None:
            with socket.create_connection(address, DEADLINE_SECONDS) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                with client.makefile("rb") as content:
                    answers.append(content.read())

        stop_once_ready(ours, [], scrape)
        descriptor = os.dup(listening.fileno())
        assignment = assign(tmp_path, runtime, role="router", listen_descriptor=descriptor)
        assert run(assignment, control) == 0
    assert answers[0].startswith(b"HTTP/1.1 200 ")
    assert b'flowd_build_info{process="router-0",' in answers[0]


def test_a_bad_configuration_is_told_as_such(tmp_path, runtime, channel):
    control, ours = channel
    wal = shard_directory(tmp_path / "data", 1, 0) / "wal"
    wal.mkdir(parents=True)
    (wal / f"{1:020}.wal").write_bytes(b"garbage" * 1_000)
    assert run(assign(tmp_path, runtime), control) == 78
    assert b'{"event":"failed","detail":"' in ours.recv(65_536)


def test_an_assignment_may_come_in_pieces(tmp_path, runtime, channel):
    control, ours = channel
    assignment = assign(tmp_path, runtime)
    line = encode_line(assignment)
    ours.sendall(line[:100])
    ours.sendall(line[100:])
    assert control.receive() == assignment


def test_no_assignment_is_a_protocol_error(channel):
    control, ours = channel
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolError):
        control.receive()


def test_a_supervisor_that_reads_nothing_holds_nobody_up(channel):
    control, ours = channel
    for _ in range(100_000):
        control.ready()
    assert json.loads(ours.recv(1_000).splitlines()[0]) == {"event": "ready"}


def test_progress_is_not_told_more_often_than_it_matters(channel):
    control, ours = channel
    for step in range(10_000):
        control.progress(f"step {step}")
    told = ours.recv(1_000_000).splitlines()
    assert json.loads(told[0]) == {"event": "progress", "detail": "step 0"}
    assert len(told) < 10


async def test_the_loop_beats(channel):
    control, ours = channel
    beating = asyncio.create_task(control.beat())
    await asyncio.sleep(0)
    assert decode_event(ours.recv(1_000)) == ChildEvent("beat")
    beating.cancel()


def test_the_lock_of_a_shard_is_not_waited_for_for_ever(tmp_path: Path):
    lock = lock_shard(tmp_path, print, 1.0)
    seen: list[str] = []
    with pytest.raises(FlowdError, match=r"another worker has had the lock for 0\.1 s"):
        lock_shard(tmp_path, seen.append, 0.1)
    assert seen
    lock.release()


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (FlowdError("what went wrong"), 1, "what went wrong"),
        (OSError(5, "Input/output error"), 1, "[Errno 5] Input/output error"),
        (ValueError("a bug"), 1, "ValueError('a bug')"),
    ],
)
def test_whatever_ends_a_child_is_told(
    tmp_path, runtime, channel, monkeypatch, error, status, told
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(child, "run_router", fail)
    control, ours = channel
    assert run(assign(tmp_path, runtime, role="router"), control) == status
    assert decode_event(ours.recv(1_000)) == ChildEvent("failed", told)
