import os
import sys
from pathlib import Path

import pytest

from flowd.config import Config
from flowd.control import LINE_BYTES_MAX, Assignment
from flowd.data_directory import Identity
from flowd.errors import ProtocolError
from flowd.supervisor.child_process import ChildProcess, child_environment, describe_exit

ASSIGNMENT = Assignment(
    role="worker",
    index=3,
    config=Config(),
    data_dir="/data",
    identity=Identity(generation=1, shards=4, seed="0" * 16, directory_id="0" * 32),
    runtime_dir="/run",
    boot="boot",
    kernel="reference",
)


async def run(script: str, assignment: Assignment = ASSIGNMENT) -> ChildProcess:
    """Start a child that has a socket `channel`."""
    head = "import socket, sys; channel = socket.socket(fileno=int(sys.argv[3])); "
    return await ChildProcess.start((sys.executable, "-S", "-c", head + script), assignment, {})


async def test_a_child_is_told_what_to_be_twice_for_people_and_for_itself(tmp_path: Path):
    seen = tmp_path / "seen"
    child = await run(
        f"open({str(seen)!r}, 'wb').write(repr(sys.argv[1:3]).encode() + channel.recv(65536))"
    )
    assert await child.wait() == 0
    child.close()
    assert seen.read_text().startswith('[\'worker\', \'3\']{"role":"worker","index":3,')
    assert seen.read_text().endswith("\n")


async def test_events_end_with_the_child():
    child = await run(
        'channel.recv(65536); channel.sendall(b\'{"event":"beat"}\\n{"event":"unfinis\')'
    )
    assert [event.event async for event in child.events()] == ["beat"]
    assert await child.wait() == 0
    child.close()


async def test_a_child_that_dies_before_it_reads_has_said_nothing():
    assignment = Assignment(
        **{name: getattr(ASSIGNMENT, name) for name in ASSIGNMENT.__struct_fields__}
        | {"data_dir": "x" * 50_000}
    )
    child = await run("sys.exit(5)", assignment)
    assert await child.wait() == 5
    assert [event async for event in child.events()] == []
    child.close()


async def test_a_line_without_end_is_a_protocol_error_before_it_fills_memory():
    child = await run(
        f"channel.recv(65536); channel.sendall(b'x' * {2 * LINE_BYTES_MAX}); channel.recv(1)"
    )
    with pytest.raises(ProtocolError, match=f"a line of over {LINE_BYTES_MAX} bytes"):
        [event async for event in child.events()]
    child.close()
    await child.wait()


async def test_a_child_has_a_session_of_its_own_and_no_input():
    child = await run("import os; sys.exit(os.getsid(0) == os.getpid() and sys.stdin.read() == '')")
    assert await child.wait() == 1
    child.close()


async def test_a_program_that_is_not_there_leaves_no_descriptor_open():
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all that is wanted
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            await ChildProcess.start(("/nonexistent/flowd",), ASSIGNMENT, {})
    assert len(os.listdir("/proc/self/fd")) <= len(before)  # noqa: PTH208  # as above


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exit status 0"), (78, "exit status 78"), (-9, "SIGKILL")]
)
def test_an_end_is_described_for_people(status: int, text: str):
    assert describe_exit(status) == text


def test_a_signal_without_a_name_is_a_number():
    assert describe_exit(-100) == "signal 100"


def test_a_child_imports_from_where_its_supervisor_did_and_knows_nothing_of_systemd():
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "HOME": "/root", "PYTHONPATH": "x"}
    assert child_environment(environ, ["", "/a", "/b"]) == {
        "HOME": "/root",
        "PYTHONPATH": "/a:/b",
    }
