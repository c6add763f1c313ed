"""The harness that starts a real flowd: it finds all processes and leaves none behind."""

import os
import signal
from pathlib import Path

import pytest

from loadtest import procfs
from loadtest.processes import FlowdFailure, running_flowd


def test_every_process_is_found_by_name_and_accounted_for(tmp_path: Path) -> None:
    with running_flowd(tmp_path, shards=2, routers=1) as flowd:
        assert sorted(flowd.pids()) == ["router-0", "supervisor", "worker-0", "worker-1"]
        by_role = flowd.cpu_seconds_by_role()
        assert sorted(by_role) == ["router", "supervisor", "worker"]
        assert all(seconds > 0 for seconds in by_role.values())
        assert flowd.resident_bytes("worker") > 2 * 5_000_000
        assert flowd.request("GET", "/-/healthy").status == 200
        assert flowd.stop() == 0
        assert flowd.pids() == {}


def test_kill_all_leaves_nothing_and_the_next_flowd_takes_up_the_data(tmp_path: Path) -> None:
    body = b'[{"src_app":"a","dest_app":"b","vpc_id":"v","bytes_tx":1,"bytes_rx":2,"hour":91}]'
    headers = {"Content-Type": "application/json"}
    with running_flowd(tmp_path, shards=3) as flowd:
        assert flowd.request("POST", "/flows", body, headers).status == 204
        before = flowd.request("GET", "/flows?hour=91").body
        pids = list(flowd.pids().values())
        flowd.kill_all()
        assert len(pids) == 5
        assert not any(procfs.is_running(pid) for pid in pids)
    with running_flowd(tmp_path, shards=None) as flowd:
        assert len(flowd.pids()) == 5
        assert flowd.request("GET", "/flows?hour=91").body == before


def test_a_killed_child_is_seen_to_come_back(tmp_path: Path) -> None:
    with running_flowd(tmp_path, shards=1) as flowd:
        killed = flowd.kill("worker-0")
        flowd.wait_for(
            lambda: flowd.pids().get("worker-0", killed) != killed, "another process has the shard"
        )
        flowd.wait_ready()


def test_a_flowd_that_cannot_start_fails_with_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(FlowdFailure, match=r"exited with 78[\s\S]*nonesuch"),
        running_flowd(tmp_path, config={"nonesuch": 1}),
    ):
        pytest.fail("it is running")


def test_leaving_the_block_without_a_stop_leaves_nothing_running(tmp_path: Path) -> None:
    with running_flowd(tmp_path, shards=1) as flowd:
        pids = flowd.pids()
    assert len(pids) == 3
    assert not any(procfs.is_running(pid) for pid in pids.values())
    assert not flowd.runtime_dir.exists()


def test_a_process_that_is_gone_reads_as_nothing() -> None:
    gone = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(gone, 0)
    assert procfs.cpu_seconds(gone) is None
    assert procfs.resident_bytes(gone) is None
    assert procfs.command_line(gone) == []
    assert procfs.is_stopped(gone)
    assert not procfs.is_running(gone)


def test_the_highest_memory_since_a_reset_is_seen() -> None:
    own = os.getpid()
    procfs.reset_resident_max(own)
    before = procfs.resident_bytes_max(own)
    assert before is not None
    block = bytearray(os.urandom(1)) * 50_000_000
    del block
    after = procfs.resident_bytes_max(own)
    now = procfs.resident_bytes(own)
    assert after is not None
    assert now is not None
    assert after - before > 40_000_000
    assert now < after


def test_a_process_that_stands_still_is_seen_to(tmp_path: Path) -> None:
    with running_flowd(tmp_path, shards=1) as flowd:
        pid = flowd.kill("router-0", signal.SIGSTOP)
        flowd.wait_for(lambda: procfs.is_stopped(pid), "the router stands still")
        assert procfs.is_running(pid)
        flowd.kill("router-0", signal.SIGCONT)
        flowd.wait_for(lambda: not procfs.is_stopped(pid), "the router runs again")
