import errno

import pytest

from flowd.errors import WalFull, WalPoisoned
from flowd.wal.format import LogEntry, RecordType, record_bytes
from tests.faulty_files import Fault, FaultyFileSystem, Killed, disk_broken, disk_full
from tests.wal.logs import (
    SEGMENT_BYTES,
    append,
    append_groups,
    as_read,
    entry,
    open_log,
    payload,
    room_for,
    segments,
    write_log,
)

NEAR_FULL = [200, 200, 200]  # leaves room for a seal and little else in a segment of 1,024


def test_records_come_back_as_they_were_appended(tmp_path):
    written = write_log(tmp_path, [[20], [0, 8, 300], [5]])
    log = open_log(tmp_path)
    assert log.replayed == written
    assert log.recovery.records == 5
    assert log.writer.next_lsn == 6


def test_append_tells_how_many_bytes_the_records_take(tmp_path):
    writer = open_log(tmp_path).writer
    assert writer.append([entry(1, 20), entry(2, 0)]) == record_bytes(20) + record_bytes(0)
    assert writer.append([]) == 0
    assert writer.size_bytes == 64 + record_bytes(20) + record_bytes(0)


def test_a_run_of_records_is_one_write(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append(writer, [1])
    files.calls.clear()
    append(writer, [20, 30, 40])
    assert [call for call in files.calls if call[0] == "write"] == [
        ("write", "00000000000000000001.wal")
    ]


def test_lsns_move_with_writes_and_syncs(tmp_path):
    writer = open_log(tmp_path).writer
    assert (writer.next_lsn, writer.written_lsn, writer.synced_lsn) == (1, 0, 0)
    append(writer, [20, 20])
    assert (writer.next_lsn, writer.written_lsn, writer.synced_lsn) == (3, 2, 0)
    writer.sync()
    assert (writer.next_lsn, writer.written_lsn, writer.synced_lsn) == (3, 2, 2)


def test_a_sync_with_nothing_new_does_not_touch_the_disk(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append_groups(writer, [[20]])
    files.calls.clear()
    writer.sync()
    assert files.calls == []


@pytest.mark.parametrize("lsns", [[2], [0], [1, 3], [1, 1]])
def test_an_lsn_out_of_turn_is_refused_and_nothing_is_written(tmp_path, lsns):
    writer = open_log(tmp_path).writer
    with pytest.raises(ValueError, match="is next"):
        writer.append([entry(lsn) for lsn in lsns])
    assert writer.written_lsn == 0
    append(writer, [20])
    writer.close()
    assert open_log(tmp_path).lsns == [1]


def test_a_payload_that_no_length_field_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("flowd.wal.writer.PAYLOAD_BYTES_MAX", 100)
    writer = open_log(tmp_path).writer
    with pytest.raises(ValueError, match="a payload of 101 bytes"):
        writer.append([entry(1, 100), entry(2, 101)])
    assert writer.written_lsn == 0


def test_a_log_goes_on_in_another_segment_when_one_is_full(tmp_path):
    written = write_log(tmp_path, [[200]] * 12)
    assert [path.name for path in segments(tmp_path)] == [
        "00000000000000000001.wal",
        "00000000000000000004.wal",
        "00000000000000000007.wal",
        "00000000000000000010.wal",
    ]
    assert {path.stat().st_size for path in segments(tmp_path)} == {SEGMENT_BYTES}
    assert open_log(tmp_path).replayed == written


def test_one_group_may_span_segments(tmp_path):
    written = write_log(tmp_path, [[200] * 12])
    assert len(segments(tmp_path)) == 4
    assert open_log(tmp_path).replayed == written


def test_a_segment_is_filled_to_the_byte_that_its_seal_needs(tmp_path):
    sizes = [100, 50, 7]
    write_log(tmp_path / "fits", [sizes], room_for(sizes))
    write_log(tmp_path / "over", [sizes], room_for(sizes) - 8)
    assert len(segments(tmp_path / "fits")) == 1
    assert len(segments(tmp_path / "over")) == 2
    assert open_log(tmp_path / "fits", segment_bytes=room_for(sizes)).lsns == [1, 2, 3]
    assert open_log(tmp_path / "over").lsns == [1, 2, 3]


def test_a_record_larger_than_a_segment_gets_one_of_its_own(tmp_path):
    written = write_log(tmp_path, [[20, 5000, 20], [20]])
    assert [path.stat().st_size for path in segments(tmp_path)] == [1024, room_for([5000]), 1024]
    assert open_log(tmp_path).replayed == written


def test_a_record_too_large_for_a_segment_that_is_still_empty_makes_it_grow(tmp_path):
    files = FaultyFileSystem(Fault("write", 1, Killed(), match=".wal"))
    with pytest.raises(Killed):
        append(open_log(tmp_path, files=files).writer, [20])
    assert [path.name for path in segments(tmp_path)] == ["00000000000000000001.wal"]
    writer = open_log(tmp_path).writer
    written = append_groups(writer, [[5000], [20]])
    writer.drop_before(1)
    writer.close()
    assert [path.stat().st_size for path in segments(tmp_path)] == [room_for([5000]), 1024]
    assert open_log(tmp_path).replayed == written


def test_a_segment_never_replaces_another(tmp_path):
    writer = open_log(tmp_path).writer
    append(writer, [200])
    write_log(tmp_path / "other", [[20]])
    (tmp_path / "other" / "00000000000000000001.wal").rename(tmp_path / f"{2:020}.wal")
    with pytest.raises(WalPoisoned, match="there is a segment by this name"):
        append(writer, [900])


def test_a_spare_is_made_once_half_of_the_segment_is_used(tmp_path):
    writer = open_log(tmp_path).writer
    append(writer, [200])
    assert not (tmp_path / "spare.tmp").exists()
    append(writer, [200])
    assert (tmp_path / "spare.tmp").stat().st_size == SEGMENT_BYTES


def test_a_closed_log_leaves_no_spare_and_takes_no_records(tmp_path):
    writer = open_log(tmp_path).writer
    append(writer, [20])
    writer.prepare_spare()
    writer.close()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["00000000000000000001.wal"]
    with pytest.raises(ValueError, match="closed"):
        append(writer, [20])


def test_a_log_is_synced_when_it_is_closed(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append(writer, [20])
    files.calls.clear()
    writer.close()
    assert ("sync", "00000000000000000001.wal") in files.calls


def test_a_log_that_was_never_written_to_can_be_closed_and_opened(tmp_path):
    open_log(tmp_path).writer.close()
    log = open_log(tmp_path)
    assert (log.replayed, log.writer.next_lsn, log.writer.size_bytes) == ([], 1, 0)


def test_a_rotation_seals_and_syncs_the_old_segment_before_the_next_has_its_name(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append(writer, [200])
    writer.prepare_spare()
    append(writer, [200, 200])
    files.calls.clear()
    append(writer, [200])
    old, new = "00000000000000000001.wal", "00000000000000000004.wal"
    assert files.calls == [
        ("write", "spare.tmp"),
        ("sync", "spare.tmp"),
        ("sync", old),
        ("write", old),
        ("sync", old),
        ("rename", new),
        ("sync_dir", tmp_path.name),
        ("write", new),
    ]
    assert writer.synced_lsn == 3


def test_dropping_removes_the_segments_wholly_below_an_lsn_oldest_first(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append_groups(writer, [[200]] * 12)
    size_bytes = writer.size_bytes
    files.calls.clear()
    writer.drop_before(9)
    assert files.calls == [
        ("unlink", "00000000000000000001.wal"),
        ("sync_dir", tmp_path.name),
        ("unlink", "00000000000000000004.wal"),
        ("sync_dir", tmp_path.name),
    ]
    assert writer.size_bytes < size_bytes / 2 + 200
    writer.close()
    log = open_log(tmp_path, from_lsn=9)
    assert log.lsns == [9, 10, 11, 12]


@pytest.mark.parametrize(
    ("lsn", "first_kept"), [(1, 1), (3, 1), (4, 4), (6, 4), (7, 7), (13, 10), (99, 10)]
)
def test_a_segment_is_kept_for_its_last_record_and_the_last_segment_always(
    tmp_path, lsn, first_kept
):
    writer = open_log(tmp_path).writer
    append_groups(writer, [[200]] * 12)
    writer.drop_before(lsn)
    assert int(segments(tmp_path)[0].stem) == first_kept
    append(writer, [20])
    writer.close()
    assert open_log(tmp_path, from_lsn=max(first_kept, min(lsn, 13))).lsns[-1] == 13


@pytest.mark.parametrize("operation", ["create", "allocate"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_when_a_segment_is_made_and_passes(tmp_path, operation, number):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    written = append_groups(writer, [[20]])
    files.fault = Fault(operation, 1, OSError(number, "no room"), lasting=True)
    entries = [entry(lsn, 200) for lsn in range(2, 10)]
    with pytest.raises(WalFull, match="no room for a log segment"):
        writer.append(entries)
    assert not writer.has_room
    assert not writer.prepare_spare()
    assert writer.written_lsn == 4
    writer.sync()
    assert writer.synced_lsn == 4
    assert not (tmp_path / "spare.tmp").exists()

    files.fault = None
    assert writer.prepare_spare()
    assert writer.has_room
    writer.append([e for e in entries if e.lsn > writer.written_lsn])
    writer.close()
    assert open_log(tmp_path).replayed == written + as_read(entries)


def test_the_space_of_a_spare_is_missed_before_the_segment_is_full(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append(writer, [20])
    files.fault = Fault("allocate", 1, disk_full(), lasting=True)
    append(writer, [500])
    assert not writer.has_room
    calls = len(files.calls)
    append(writer, [20])
    assert len(files.calls) == calls + 1  # one write, and no other try to make a spare


def test_what_fits_is_written_although_there_is_no_room_for_another_segment(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append(writer, [20])
    files.fault = Fault("create", 1, disk_full(), lasting=True)
    assert not writer.prepare_spare()
    append_groups(writer, [[100]])
    assert writer.synced_lsn == 2


@pytest.mark.parametrize(
    ("operation", "match"), [("write", "spare.tmp"), ("sync", "spare.tmp"), ("rename", ".wal")]
)
def test_a_disk_that_fills_up_late_in_a_rotation_loses_nothing(tmp_path, operation, match):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    written = append_groups(writer, [NEAR_FULL])
    files.fault = Fault(operation, 1, disk_full(), written=5, match=match)
    with pytest.raises(WalFull):
        writer.append([entry(4, 200)])
    assert writer.written_lsn == 3
    written += append_groups(writer, [[200], [20]])
    assert writer.has_room
    writer.close()
    assert open_log(tmp_path).replayed == written


def test_a_record_too_large_for_the_disk_can_wait_for_room(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append(writer, [600])
    assert (tmp_path / "spare.tmp").exists()
    files.fault = Fault("allocate", 1, disk_full())
    with pytest.raises(WalFull):
        writer.append([entry(2, 5000)])
    writer.append([entry(2, 5000)])
    writer.close()
    assert open_log(tmp_path).lsns == [1, 2]


POISONS = [
    ("write", ".wal", "append"),
    ("sync", ".wal", "sync"),
    ("create", "spare.tmp", "prepare_spare"),
    ("allocate", "spare.tmp", "prepare_spare"),
    ("write", "spare.tmp", "rotate"),
    ("sync", "spare.tmp", "rotate"),
    ("sync", ".wal", "rotate"),
    ("write", ".wal", "rotate"),
    ("rename", ".wal", "rotate"),
    ("sync_dir", "", "rotate"),
    ("unlink", ".wal", "drop"),
    ("sync_dir", "", "drop"),
    ("sync", ".wal", "close"),
]


@pytest.mark.parametrize(("operation", "match", "action"), POISONS)
def test_a_broken_disk_poisons_for_good_and_is_not_asked_again(tmp_path, operation, match, action):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    written = append_groups(writer, [NEAR_FULL, [200]] if action == "drop" else [[100], [20]])
    if action == "close":
        append(writer, [20])
    actions = {
        "append": lambda: writer.append([entry(writer.next_lsn)]),
        "sync": lambda: (writer.append([entry(writer.next_lsn)]), writer.sync()),
        "rotate": lambda: writer.append([entry(writer.next_lsn, 900)]),
        "prepare_spare": writer.prepare_spare,
        "drop": lambda: writer.drop_before(4),
        "close": writer.close,
    }
    files.fault = Fault(operation, 1, disk_broken(), match=match)
    synced_lsn = writer.synced_lsn
    with pytest.raises(WalPoisoned, match="Input/output error"):
        actions[action]()
    assert writer.synced_lsn == synced_lsn
    calls = list(files.calls)
    for call in (
        lambda: writer.append([]),
        lambda: writer.append([entry(writer.next_lsn)]),
        writer.sync,
        writer.prepare_spare,
        lambda: writer.drop_before(99),
    ):
        with pytest.raises(WalPoisoned, match="a restart finds out"):
            call()
    writer.close()
    assert files.calls == calls
    files.fault = None
    first_lsn = int(segments(tmp_path)[0].stem)
    log = open_log(tmp_path, from_lsn=first_lsn)
    assert log.replayed[: len(written)] == written[first_lsn - 1 :]


def test_a_spare_that_cannot_be_removed_is_told_after_the_sync(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append(writer, [20])
    writer.prepare_spare()
    files.fault = Fault("unlink", 1, disk_broken())
    with pytest.raises(WalPoisoned, match="removal failed"):
        writer.close()
    assert writer.synced_lsn == 1
    assert open_log(tmp_path).lsns == [1]


@pytest.mark.parametrize("error", [disk_full(), OSError(errno.EFBIG, "File too large")])
@pytest.mark.parametrize("operation", ["write", "sync"])
def test_no_space_in_a_write_or_sync_of_records_poisons_as_well(tmp_path, operation, error):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append_groups(writer, [[20]])
    files.fault = Fault(operation, 1, error, written=30, match=".wal")
    with pytest.raises(WalPoisoned):  # noqa: PT012 - which of the two fails is the parameter
        append(writer, [20])
        writer.sync()
    with pytest.raises(WalPoisoned):
        writer.sync()


def test_a_write_that_anything_interrupts_poisons(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    append_groups(writer, [[20]])
    files.fault = Fault("write", 1, KeyboardInterrupt(), written=30)
    with pytest.raises(KeyboardInterrupt):
        append(writer, [20])
    with pytest.raises(WalPoisoned):
        append(writer, [20])


@pytest.mark.parametrize("written", [*range(0, 240, 7), 239])
def test_a_short_write_leaves_a_prefix_of_its_records(tmp_path, written):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    durable = append_groups(writer, [[20], [30]])
    files.fault = Fault("write", 1, Killed(), written=written)
    with pytest.raises(Killed):
        append(writer, [20, 33, 40])
    log = open_log(tmp_path)
    whole = (written >= 68) + (written >= 149) + (written >= 240)
    assert log.lsns == [1, 2, 3, 4, 5][: 2 + whole]
    assert log.replayed[:2] == durable


def test_payloads_may_come_in_any_number_of_parts(tmp_path):
    writer = open_log(tmp_path).writer
    parts = tuple(memoryview(payload(1, 300))[i : i + 1] for i in range(300))
    writer.append([LogEntry(1, RecordType.PURGE, 0, parts)])
    writer.append([LogEntry(2, RecordType.ARCHIVE, 0, ())])
    writer.close()
    replayed = open_log(tmp_path).replayed
    assert [(r.type, r.payload) for r in replayed] == [
        (RecordType.PURGE, payload(1, 300)),
        (RecordType.ARCHIVE, b""),
    ]
