import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flowd.runtime_directory import RuntimeDirectory
from flowd.sdnotify import Notifier
from tests.supervisor.harness import (
    DEADLINE_SECONDS,
    HANGS_SOON,
    QUICK,
    Harness,
    notify_socket,
    short_directory,
)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    with short_directory() as short:
        runtime = RuntimeDirectory.open(str(short / "run"), tmp_path)
        made: list[Harness] = []

        def build(**options: object) -> Harness:
            made.append(Harness(tmp_path, runtime, **options))
            return made[-1]

        yield build
        for harness in made:
            harness.listener.close()
            for _, pid, _ in harness.events():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        runtime.close()


async def test_says_where_it_listens_once_all_children_are_ready(make, capsys):
    harness = make(workers=2, routers=2)
    await harness.start()
    await harness.until(harness.is_ready)
    address = (harness.runtime.path / "listen").read_text()
    assert all(harness.is_up(name) for name in ("worker-0", "worker-1", "router-0", "router-1"))
    assert await harness.stop() == 0
    assert address == harness.listener_address + "\n"
    assert f"listening address=http://{harness.listener_address}" in capsys.readouterr().err


async def test_sigterm_stops_routers_before_workers(make):
    harness = make(workers=2, routers=2)
    await harness.start()
    await harness.until(harness.is_ready)
    assert await harness.stop() == 0
    stops = [name for name, _, step in harness.events() if step == "stopped"]
    assert sorted(stops[:2]) == ["router-0", "router-1"]
    assert sorted(stops[2:]) == ["worker-0", "worker-1"]
    assert not harness.is_ready()  # nobody is sent to a port that is closed


@pytest.mark.parametrize("name", ["worker-0", "router-0"])
async def test_a_killed_child_is_started_again_and_counted(make, name):
    harness = make()
    await harness.start()
    await harness.until(harness.is_ready)
    os.kill(harness.pid(name), signal.SIGKILL)
    await harness.until(lambda: harness.steps(name) == ["started", "ready"] * 2)
    await harness.until(lambda: harness.is_up(name))
    assert harness.restarts(name) == 1
    assert await harness.stop() == 0


async def test_a_child_that_crashes_within_its_budget_is_kept(make):
    harness = make()
    harness.script("worker-0", "crash 3")
    await harness.start()
    await harness.until(harness.is_ready)
    assert harness.steps("worker-0") == ["started"] * 4 + ["ready"]
    assert await harness.stop() == 0


async def test_a_worker_that_spends_its_budget_has_failed_and_is_tried_again_later(make, capsys):
    harness = make(workers=2)
    harness.script("worker-1", "crash 5")
    await harness.start()
    await harness.until(harness.is_ready)  # ready without it
    assert not harness.is_up("worker-1")
    await harness.until(lambda: harness.is_up("worker-1"))
    assert harness.steps("worker-1") == ["started"] * 6 + ["ready"]
    assert await harness.stop() == 0
    assert "child_failed child=worker-1 reason=SIGKILL" in capsys.readouterr().err


async def test_a_worker_with_a_bad_configuration_fails_for_good_and_the_rest_serves(make, capsys):
    harness = make(workers=2, timing=replace(QUICK, retry_seconds=0.01, backoff_seconds=0.001))
    harness.script("worker-0", "exit 78")
    await harness.start()
    await harness.until(harness.is_ready)
    os.kill(harness.pid("worker-1"), signal.SIGKILL)  # to see that others are still restarted
    await harness.until(lambda: harness.steps("worker-1") == ["started", "ready"] * 2)
    assert harness.steps("worker-0") == ["started"]
    assert await harness.stop() == 0
    assert 'child_failed child=worker-0 reason="the script says so"' in capsys.readouterr().err


async def test_a_router_with_a_bad_configuration_stops_everything_with_78(make):
    harness = make()
    harness.script("router-0", "exit 78")
    await harness.start()
    assert await harness.finish() == 78
    assert harness.steps("router-0") == ["started"]


async def test_a_router_that_spends_its_budget_stops_everything_with_1(make):
    harness = make(routers=2)
    harness.script("router-0", "exit 3")
    await harness.start()
    assert await harness.finish() == 1
    assert harness.steps("router-0") == ["started"] * 4
    assert harness.steps("router-1")[-1] == "stopped"


async def test_a_hung_child_is_aborted_and_started_again(make, capsys):
    harness = make(timing=HANGS_SOON)
    harness.script("worker-0", "hang 1")
    await harness.start()
    await harness.until(lambda: harness.steps("worker-0") == ["started", "started", "ready"])
    assert await harness.stop() == 0
    log = capsys.readouterr().err
    assert "child_hung child=worker-0" in log
    assert "how=SIGABRT" in log


async def test_a_hung_child_that_survives_sigabrt_is_killed(make, capsys):
    harness = make(timing=HANGS_SOON)
    harness.script("worker-0", "hang_hard 1")
    await harness.start()
    await harness.until(
        lambda: harness.steps("worker-0") == ["started", "aborted", "started", "ready"]
    )
    assert await harness.stop() == 0
    assert "how=SIGKILL" in capsys.readouterr().err


async def test_a_stopped_process_counts_as_hung(make):
    harness = make(timing=HANGS_SOON)
    await harness.start()
    await harness.until(harness.is_ready)
    os.kill(harness.pid("router-0"), signal.SIGSTOP)
    await harness.until(lambda: harness.steps("router-0") == ["started", "ready"] * 2)
    assert await harness.stop() == 0


async def test_a_long_replay_is_no_hang(make):
    harness = make(timing=HANGS_SOON)
    harness.script("worker-0", "replay")
    await harness.start()
    await harness.until(lambda: harness.steps("worker-0") == ["started"])
    started = time.monotonic()
    await harness.until(lambda: time.monotonic() > started + 2 * HANGS_SOON.hang_seconds)
    assert not harness.is_ready()
    (harness.directory / "go").touch()
    await harness.until(harness.is_ready)
    assert harness.steps("worker-0") == ["started", "ready"]
    assert await harness.stop() == 0


async def test_a_child_that_is_not_understood_is_replaced(make, capsys):
    harness = make(timing=HANGS_SOON)
    harness.script("worker-0", "babble 1")
    await harness.start()
    await harness.until(lambda: harness.steps("worker-0") == ["started", "started", "ready"])
    assert await harness.stop() == 0
    assert "child_not_understood child=worker-0" in capsys.readouterr().err


async def test_a_child_that_does_not_stop_in_time_is_killed(make, capsys):
    harness = make(timing=replace(QUICK, drain_seconds=0.3))
    harness.script("worker-0", "stubborn")
    await harness.start()
    await harness.until(harness.is_ready)
    assert await harness.stop() == 1
    assert harness.steps("worker-0")[-1] == "told to stop"
    assert "child_killed child=worker-0" in capsys.readouterr().err


async def test_the_second_signal_kills(make):
    harness = make()
    harness.script("router-0", "stubborn")
    await harness.start()
    await harness.until(harness.is_ready)
    os.kill(os.getpid(), signal.SIGINT)
    await harness.until(lambda: harness.steps("router-0")[-1] == "told to stop")
    os.kill(os.getpid(), signal.SIGINT)
    assert await harness.finish() == 1
    assert "stopped" not in harness.steps("worker-0")


async def test_a_signal_during_start_stops_children_that_are_not_up_yet(make, capsys):
    harness = make(workers=3)
    await harness.start()
    await asyncio.sleep(0)
    assert await harness.stop() == 0
    assert "child_killed" not in capsys.readouterr().err
    assert all(not _is_alive(pid) for _, pid, _ in harness.events())


async def test_sighup_changes_nothing(make, capsys):
    harness = make()
    await harness.start()
    await harness.until(harness.is_ready)
    os.kill(os.getpid(), signal.SIGHUP)
    seen = ""

    def is_logged() -> bool:
        nonlocal seen
        seen += capsys.readouterr().err
        return "nothing_to_reload" in seen

    await harness.until(is_logged)
    assert await harness.stop() == 0
    assert harness.restarts("worker-0") == 0


async def test_a_program_that_cannot_be_started_is_a_failure_like_any_other(make, capsys):
    harness = make()
    harness.supervisor._keepers[0]._command = ("/nonexistent/flowd",)
    await harness.start()
    await harness.until(harness.is_ready)
    assert not harness.is_up("worker-0")
    assert await harness.stop() == 0
    assert "child_not_started child=worker-0" in capsys.readouterr().err


async def test_systemd_is_told_ready_status_and_stopping(make):
    with short_directory() as short, notify_socket(short) as manager:
        harness = make(workers=2, notifier=Notifier(str(short / "notify")))
        harness.script("worker-1", "exit 78")
        await harness.start()
        seen = await _messages_until(harness, manager, "READY=1")
        assert "STATUS=0/2 shards and 0/1 routers ready on " + harness.listener_address in seen
        status = f"STATUS=1/2 shards and 1/1 routers ready on {harness.listener_address}"
        assert f"{status}; failed: worker-1" in seen
        assert await harness.stop() == 0
        rest = _messages(manager)
        assert rest.index("STOPPING=1") < rest.index("STATUS=stopping")


async def test_systemd_is_asked_for_time_while_a_log_is_replayed_and_not_after(make):
    with short_directory() as short, notify_socket(short) as manager:
        harness = make(notifier=Notifier(str(short / "notify")))
        harness.script("worker-0", "replay")
        await harness.start()
        seen = await _messages_until(harness, manager, "EXTEND_TIMEOUT_USEC=60000000")
        assert "READY=1" not in seen
        (harness.directory / "go").touch()
        seen = await _messages_until(harness, manager, "READY=1")
        (harness.directory / "go").unlink()
        os.kill(harness.pid("worker-0"), signal.SIGKILL)
        keeper = harness.supervisor._keepers[0]
        progress = keeper.progress
        rest = seen[seen.index("READY=1") :]

        def has_progressed() -> bool:
            rest.extend(_messages(manager))
            return keeper.progress > progress + 5

        await harness.until(has_progressed)
        await harness.stop()
        rest += _messages(manager)
        assert "STATUS=stopping" in rest
        assert not [message for message in rest if message.startswith("EXTEND")]


async def test_the_watchdog_is_fed_by_beats_and_starves_with_a_hung_child(make):
    with short_directory() as short, notify_socket(short) as manager:
        notifier = Notifier(str(short / "notify"), watchdog_seconds=0.2)
        # Nobody ends the hung child here, so that the watchdog must.
        timing = replace(QUICK, hang_seconds=0.5, abort_seconds=600.0)
        harness = make(notifier=notifier, timing=timing)
        harness.script("worker-0", "hang_hard 99")
        await harness.start()
        await _messages_until(harness, manager, "WATCHDOG=1")
        await harness.until(lambda: "aborted" in harness.steps("worker-0"))
        _messages(manager)
        quiet_since = time.monotonic()
        await harness.until(lambda: time.monotonic() > quiet_since + 0.3)
        assert "WATCHDOG=1" not in _messages(manager)
        os.kill(harness.pid("worker-0"), signal.SIGKILL)
        await _messages_until(harness, manager, "WATCHDOG=1")
        harness.supervisor._ask_to_stop(signal.SIGTERM)
        harness.supervisor._ask_to_stop(signal.SIGTERM)
        assert await harness.finish() == 1


def test_children_of_a_killed_supervisor_exit_within_a_second(tmp_path):
    with short_directory() as short, (tmp_path / "log").open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "tests.supervisor.harness", str(tmp_path), str(short / "run")],
            cwd=Path(__file__).parents[2],
            stderr=log,
        )
        try:
            _wait_until((short / "run" / "listen").exists)
            pids = [int(line.split()[1]) for line in (tmp_path / "events").read_text().splitlines()]
        finally:
            supervisor.kill()
            supervisor.wait()
        killed = time.monotonic()
        _wait_until(lambda: not any(_is_alive(pid) for pid in pids))
        assert time.monotonic() - killed < 1.0
        assert (tmp_path / "events").read_text().count("orphaned") == 3


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _messages(manager) -> list[str]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(manager.recv(4096).decode())
    return found


async def _messages_until(harness: Harness, manager, wanted: str) -> list[str]:
    found: list[str] = []

    def is_there() -> bool:
        found.extend(_messages(manager))
        return wanted in found

    await harness.until(is_there, wanted)
    return found
