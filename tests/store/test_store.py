"""A store keeps what it acknowledged, and says so when it cannot."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowd.config import Config, LimitsConfig, WalConfig
from flowd.errors import FrameError, WalCorruption, WalFull, WalPoisoned
from flowd.kernel import BodyFormat
from flowd.protocol import AppendHeader
from tests.faulty_files import Fault, FaultyFileSystem, disk_broken, disk_full
from tests.store.shards import SMALL, Shards, plain_sum

FLOW = {"src_app": "foo", "dest_app": "bar", "vpc_id": "v", "bytes_tx": 1, "bytes_rx": 2, "hour": 9}


def batch(number: int, size: int = 50) -> list[dict[str, Any]]:
    """Flows with long names of their own, so that segments fill quickly."""
    return [
        FLOW | {"src_app": f"{number:04}-{i:04}-{'x' * 200}", "hour": i % 5} for i in range(size)
    ]


def test_a_keyed_batch_counts_once_across_a_restart_and_a_checkpoint(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 3)
    flows = batch(1)
    assert shards.post(flows, batch_id=77) == [False] * 3
    assert shards.post(flows, batch_id=77) == [True] * 3
    shards.open()
    assert shards.post(flows, batch_id=77) == [True] * 3
    for store in shards.stores:
        store.checkpoint()
    shards.open()
    assert shards.post(flows, batch_id=77) == [True] * 3
    assert shards.post(flows, batch_id=78) == [False] * 3
    assert shards.totals() == plain_sum([*flows, *flows])


def test_an_in_flight_id_waits_for_the_first_copys_record(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    store = shards.stores[0]
    frame = _frame(shards, [FLOW])
    first = store.stage(AppendHeader(5, 0, 0, 1), frame)
    second = store.stage(AppendHeader(5, 0, 0, 1), frame)
    assert (second.lsn, second.duplicate) == (first.lsn, True)
    group = store.take()
    assert group is not None
    store.write(group)
    assert store.shard.rows == 0
    store.apply(group)
    assert (store.shard.rows, store.flows_appended) == (1, 1)


def test_a_bad_frame_never_reaches_the_log(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    store = shards.stores[0]
    with pytest.raises(FrameError):
        store.append(AppendHeader(0, 0, 0, 1), b"not a frame at all, whatever its length")
    assert store.take() is None
    shards.post([FLOW])
    shards.open()
    assert shards.totals() == plain_sum([FLOW])


def test_log_segments_go_when_the_older_manifest_needs_them_no_longer(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    store = shards.stores[0]
    sent: list[dict[str, Any]] = []
    counts = []
    for number in range(60):
        sent.extend(flows := batch(number))
        shards.post(flows)
        if number % 15 == 14:
            store.checkpoint()
            counts.append(len(list((tmp_path / "shard-00/wal").glob("*.wal"))))
    assert counts[0] > 2
    assert max(counts[2:]) <= counts[1]
    shards.open()
    assert shards.totals() == plain_sum(sent)


@pytest.mark.parametrize("victim", ["MANIFEST-*", "buckets/*.tbl"])
def test_a_damaged_newer_checkpoint_falls_back_to_the_older_one(
    tmp_path: Path, victim: str
) -> None:
    shards = Shards(tmp_path, 1)
    sent: list[dict[str, Any]] = []
    for number in range(30):
        sent.extend(flows := batch(number))
        shards.post(flows)
        if number % 10 == 9:
            shards.stores[0].checkpoint()
    newest = max((tmp_path / "shard-00").glob(victim), key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    shards.open()
    assert shards.stores[0].recovery.damaged[0].path == str(newest)
    assert shards.totals() == plain_sum(sent)
    shards.post(sent[:3])
    shards.stores[0].checkpoint()
    shards.open()
    assert shards.totals() == plain_sum([*sent, *sent[:3]])


def test_with_both_checkpoints_damaged_the_shard_refuses_and_names_the_causes(
    tmp_path: Path,
) -> None:
    shards = Shards(tmp_path, 1)
    for number in range(30):
        shards.post(batch(number))
        if number % 10 == 9:
            shards.stores[0].checkpoint()
    manifests = sorted((tmp_path / "shard-00").glob("MANIFEST-*"))
    assert len(manifests) == 2
    for path in manifests:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WalCorruption) as caught:
        shards.open()
    assert all(path.name in str(caught.value) for path in manifests)
    assert all(path.exists() for path in manifests)


def test_a_full_disk_stops_appends_and_they_go_on_when_there_is_room(tmp_path: Path) -> None:
    disk = FaultyFileSystem()
    shards = Shards(tmp_path, 1, files=disk)
    store = shards.stores[0]
    disk.fault = Fault("create", 1, disk_full(), lasting=True)
    sent: list[dict[str, Any]] = []
    number = 0
    while store.writable:
        sent.extend(flows := batch(number))
        shards.post(flows)
        number += 1
    assert shards.totals() == plain_sum(sent)
    disk.fault = None
    assert store.check_space()
    shards.post(sent[:10])
    assert shards.totals() == plain_sum([*sent, *sent[:10]])


def test_a_group_refused_by_a_full_disk_is_written_later_and_counted_once(tmp_path: Path) -> None:
    disk = FaultyFileSystem()
    shards = Shards(tmp_path, 1, files=disk)
    store = shards.stores[0]
    disk.fault = Fault("create", 1, disk_full(), lasting=True)
    sent: list[dict[str, Any]] = []
    group = None
    for number in range(100):
        flows = batch(number)
        sent.extend(flows)
        frame = _frame(shards, flows)
        store.stage(AppendHeader(0, 0, 0, 1), frame)
        group = store.take()
        assert group is not None
        try:
            store.write(group)
        except WalFull:
            break
        store.apply(group)
    assert group is not None
    disk.fault = None
    store.write(group)
    store.apply(group)
    assert shards.totals() == plain_sum(sent)
    shards.open()
    assert shards.totals() == plain_sum(sent)


def test_a_failed_sync_poisons_for_good_and_is_never_retried(tmp_path: Path) -> None:
    disk = FaultyFileSystem()
    shards = Shards(tmp_path, 1, files=disk)
    shards.post([FLOW])
    disk.fault = Fault("sync", 1, disk_broken())
    with pytest.raises(WalPoisoned):
        shards.post([FLOW])
    calls = len(disk.calls)
    with pytest.raises(WalPoisoned):
        shards.post([FLOW])
    assert len(disk.calls) == calls
    assert shards.totals() == plain_sum([FLOW])


def test_little_free_disk_makes_a_store_read_only(tmp_path: Path) -> None:
    config = Config(
        wal=WalConfig(segment_bytes=64 * 1024), limits=LimitsConfig(free_disk_bytes=2**62)
    )
    shards = Shards(tmp_path, 1, config=config)
    assert not shards.stores[0].writable
    assert Shards(tmp_path / "other", 1, config=SMALL).stores[0].writable


def test_recovery_tells_its_progress_and_what_it_did(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    shards.post(batch(1))
    shards.stores[0].checkpoint()
    shards.post(batch(2))
    shards.open()
    report = shards.stores[0].recovery
    assert (report.rows_loaded, report.records, report.flows) == (50, 1, 50)
    assert report.torn_bytes == 0
    assert report.seconds > 0


def test_interval_sync_makes_a_checkpoint_sync_the_log_first(tmp_path: Path) -> None:
    config = Config(
        wal=WalConfig(sync="interval", segment_bytes=64 * 1024),
        limits=LimitsConfig(free_disk_bytes=0),
    )
    shards = Shards(tmp_path, 1, config=config)
    shards.post(batch(1))
    shards.stores[0].checkpoint()
    shards.open()
    assert shards.totals() == plain_sum(batch(1))
    assert shards.stores[0].recovery.rows_loaded == 50


def _frame(shards: Shards, flows: list[dict[str, Any]]) -> bytes:
    split = shards.kernel.split(
        msgspec.json.encode(flows),
        BodyFormat.JSON,
        shard_count=1,
        seed=1,
        flows_max=1000,
        skip_bad=False,
    )
    return split.frames[0]


def test_a_log_cut_below_a_blocks_lsn_is_refused_because_its_numbers_were_used(
    tmp_path: Path,
) -> None:
    shards = Shards(tmp_path, 1)
    store = shards.stores[0]
    shards.post([FLOW])
    run = store.begin_checkpoint()
    segment = next((tmp_path / "shard-00/wal").glob("*.wal"))
    before = segment.read_bytes()
    shards.post([FLOW])
    while (dump := run.next_block()) is not None:
        run.write_block(dump)
    run.finish()
    segment.write_bytes(before)
    with pytest.raises(WalCorruption):
        shards.open()


def test_the_next_checkpoint_never_overwrites_a_damaged_manifest(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    for _ in range(2):
        shards.post([FLOW])
        shards.stores[0].checkpoint()
    damaged = max((tmp_path / "shard-00").glob("MANIFEST-*"))
    damaged.write_bytes(evidence := damaged.read_bytes()[:-1])
    shards.open()
    shards.post([FLOW])
    shards.stores[0].checkpoint()
    assert damaged.read_bytes() == evidence
    shards.open()
    assert shards.totals() == plain_sum([FLOW] * 3)


def test_after_a_clean_end_damage_to_the_last_record_is_no_torn_tail(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    shards.post([FLOW])
    shards.close()
    segment = next((tmp_path / "shard-00/wal").glob("*.wal"))
    assert segment.stat().st_size < 1_000
    content = bytearray(segment.read_bytes())
    content[content.index(b"foo")] ^= 1
    segment.write_bytes(content)
    with pytest.raises(WalCorruption):
        shards.open()


def test_many_short_lives_come_to_a_checkpoint(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    for number in range(20):
        shards.post(batch(number))
        if shards.stores[0].checkpoint_due:
            break
        shards.close()
        shards.open()
    assert shards.stores[0].checkpoint_due
    shards.stores[0].checkpoint()
    assert not shards.stores[0].checkpoint_due


def test_a_checkpoint_given_up_leaves_no_file_behind(tmp_path: Path) -> None:
    disk = FaultyFileSystem()
    shards = Shards(tmp_path, 1, files=disk)
    shards.post(batch(1))
    disk.fault = Fault("create", 3, disk_full(), match=".tbl.tmp")
    with pytest.raises(OSError, match="No space"):
        shards.stores[0].checkpoint()
    assert list((tmp_path / "shard-00/buckets").iterdir()) == []
    shards.stores[0].checkpoint()
    shards.open()
    assert shards.stores[0].recovery.rows_loaded == 50


def test_an_id_of_this_life_is_in_the_checkpoint(tmp_path: Path) -> None:
    """Without a replay in between: what is remembered when a batch is applied is what counts."""
    shards = Shards(tmp_path, 1)
    shards.post([FLOW], batch_id=5)
    shards.stores[0].checkpoint()
    shards.open()
    assert shards.stores[0].recovery.records == 0
    assert shards.post([FLOW], batch_id=5) == [True]
