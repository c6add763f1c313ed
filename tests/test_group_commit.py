"""Appends share a sync, and nobody is told of a success that is not on disk."""

import asyncio
import threading
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from flowd.config import CheckpointConfig, Config, LimitsConfig, WalConfig
from flowd.errors import FrameError, WalPoisoned
from flowd.filesystem import LocalFile, LocalFileSystem
from flowd.group_commit import GroupCommit
from flowd.kernel import BodyFormat, load_kernel
from flowd.metrics import WorkerMetrics
from flowd.protocol import AppendHeader
from flowd.store import Staged, Store
from flowd.wal import LogIdentity
from tests.faulty_files import Fault, FaultyFileSystem, disk_broken, disk_full
from tests.peer import until

IDENTITY = LogIdentity(bytes(16), 1, 0, 1)
KERNEL = load_kernel("reference")
SMALL = Config(
    wal=WalConfig(segment_bytes=64 * 1024),
    checkpoint=CheckpointConfig(log_bytes=64 * 1024),
    limits=LimitsConfig(free_disk_bytes=0),
)


class GatedFiles(LocalFileSystem):
    """The real disk; a sync of the log waits at the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.log_syncs = 0
        self.at_gate = 0

    def create(self, path: Path) -> LocalFile:
        inner = super().create(path)
        return _GatedFile(self, inner) if path.name == "spare.tmp" else inner


class _GatedFile(LocalFile):
    def __init__(self, files: GatedFiles, inner: LocalFile) -> None:
        super().__init__(inner._descriptor)
        self._files = files

    def sync(self) -> None:
        self._files.at_gate += 1
        assert self._files.gate.wait(10)
        self._files.log_syncs += 1
        super().sync()


class Bench:
    """A store and its group commit, and what it was told."""

    def __init__(
        self, directory: Path, files: LocalFileSystem | None = None, config: Config = SMALL
    ) -> None:
        self.files = files or LocalFileSystem()
        self.store = Store.open(self.files, directory, IDENTITY, KERNEL, config)
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.fatal: list[BaseException] = []
        self.done: list[Staged] = []
        interval = config.wal.sync_interval_seconds if config.wal.sync == "interval" else None
        self.commits = GroupCommit(
            self.store,
            self.metrics,
            sync_interval_seconds=interval,
            on_fatal=self.fatal.append,
        )

    def submit(self, number: int, batch_id: int = 0, size: int = 1) -> None:
        self.commits.submit(AppendHeader(batch_id, 0, 0, 1), frame(number, size), self.done.append)

    async def answered(self, appends: int) -> None:
        await until(lambda: len(self.done) == appends)

    def sample(self, name: str) -> float:
        value = self.registry.get_sample_value(name)
        assert value is not None, name
        return value


def frame(number: int, size: int = 1) -> bytes:
    flows = [
        {
            "src_app": f"{number}-{i}-{'x' * 100}",
            "dest_app": "d",
            "vpc_id": "v",
            "bytes_tx": 1,
            "bytes_rx": 1,
            "hour": 3,
        }
        for i in range(size)
    ]
    split = KERNEL.split(
        msgspec.json.encode(flows),
        BodyFormat.JSON,
        shard_count=1,
        seed=1,
        flows_max=10_000,
        skip_bad=False,
    )
    return split.frames[0]


async def test_appends_that_come_during_a_sync_share_the_next_one(tmp_path: Path) -> None:
    files = GatedFiles()
    bench = Bench(tmp_path, files)
    bench.commits.start()
    bench.submit(0)
    await until(lambda: len(bench.done) == 1)
    files.gate.clear()
    at_gate = files.at_gate
    bench.submit(1)
    await until(lambda: files.at_gate > at_gate)
    before = files.log_syncs
    for number in range(2, 12):
        bench.submit(number)
    await asyncio.sleep(0)
    assert len(bench.done) == 1
    assert bench.store.shard.rows == 1
    files.gate.set()
    await until(lambda: len(bench.done) == 12)
    assert files.log_syncs - before == 2
    assert bench.store.shard.rows == 12
    assert [staged.lsn for staged in bench.done] == list(range(1, 13))
    assert bench.sample("flowd_group_commit_batches_count") == 3
    assert bench.sample("flowd_flows_appended_total") == 12
    await bench.commits.drain()


async def test_a_duplicate_in_flight_is_answered_with_the_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.commits.start()
    bench.submit(1, batch_id=9)
    bench.submit(1, batch_id=9)
    await until(lambda: len(bench.done) == 2)
    bench.submit(1, batch_id=9)
    assert [staged.duplicate for staged in bench.done] == [False, True, True]
    assert bench.store.flows_appended == 1
    await bench.commits.drain()


async def test_a_failed_sync_ends_the_process_and_answers_nobody(tmp_path: Path) -> None:
    files = FaultyFileSystem()
    bench = Bench(tmp_path, files)
    bench.commits.start()
    bench.submit(1)
    await until(lambda: len(bench.done) == 1)
    files.fault = Fault("sync", 1, disk_broken())
    bench.submit(2)
    await until(lambda: bool(bench.fatal))
    assert isinstance(bench.fatal[0], WalPoisoned)
    assert len(bench.done) == 1
    assert bench.store.shard.rows == 1


async def test_appends_on_a_full_disk_wait_until_there_is_room(tmp_path: Path) -> None:
    files = FaultyFileSystem()
    bench = Bench(tmp_path, files)
    bench.commits.start()
    bench.submit(0)
    await until(lambda: len(bench.done) == 1)
    files.fault = Fault("create", 1, disk_full(), lasting=True)
    sent = 1
    while bench.store.writable:
        bench.submit(sent, size=100)
        sent += 1
        await bench.answered(sent)
    for _ in range(10):
        bench.submit(sent, size=100)
        sent += 1
    await until(lambda: files.fault is not None and files.fault.seen >= 3)
    assert len(bench.done) < sent
    files.fault = None
    await until(lambda: len(bench.done) == sent)
    assert not bench.fatal
    await bench.commits.drain()


async def test_a_bad_frame_is_refused_before_it_is_logged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.commits.start()
    with pytest.raises(FrameError):
        bench.commits.submit(AppendHeader(0, 0, 0, 1), b"no frame", bench.done.append)
    bench.submit(1)
    await until(lambda: len(bench.done) == 1)
    assert bench.done[0].lsn == 1
    await bench.commits.drain()


async def test_a_checkpoint_is_taken_when_the_log_has_grown(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.commits.start()
    for number in range(12):
        bench.submit(number, size=100)
    await until(lambda: bench.sample("flowd_checkpoint_seconds_count") >= 1)
    await bench.commits.drain()
    store = Store.open(LocalFileSystem(), tmp_path, IDENTITY, KERNEL, SMALL)
    assert store.recovery.rows_loaded > 0
    assert store.shard.rows == 1200
    store.close()


async def test_a_checkpoint_on_a_full_disk_is_given_up_and_appends_go_on(tmp_path: Path) -> None:
    files = FaultyFileSystem(Fault("create", 1, disk_full(), lasting=True, match=".tbl.tmp"))
    bench = Bench(tmp_path, files)
    bench.commits.start()
    for number in range(12):
        bench.submit(number, size=100)
    await until(lambda: files.fault is not None and files.fault.seen > 0)
    bench.submit(99)
    await until(lambda: len(bench.done) == 13)
    assert not bench.fatal
    assert bench.sample("flowd_checkpoint_seconds_count") == 0
    assert bench.store.shard.dirty_rows == 1201
    await bench.commits.drain()


async def test_interval_sync_acknowledges_before_the_sync_and_syncs_soon(tmp_path: Path) -> None:
    config = msgspec.structs.replace(
        SMALL, wal=WalConfig(sync="interval", sync_interval_seconds=0.01, segment_bytes=64 * 1024)
    )
    files = GatedFiles()
    bench = Bench(tmp_path, files, config)
    bench.commits.start()
    bench.submit(1)
    await until(lambda: len(bench.done) == 1)
    await until(lambda: bench.sample("flowd_wal_sync_seconds_count") >= 2)
    bench.submit(2)
    await bench.commits.drain()
    assert len(bench.done) == 2
