import os
import subprocess
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from flowd.errors import WalCorruption, WalError, WalFull, WalPoisoned
from flowd.filesystem import LocalFileSystem
from flowd.wal import LogIdentity, recover_log
from flowd.wal.format import SEAL_BYTES, SEGMENT_HEADER, SegmentHeader, record_bytes
from tests.faulty_files import Fault, FaultyFileSystem, Killed, disk_broken, disk_full
from tests.lossy_files import LossyFileSystem
from tests.wal.logs import (
    IDENTITY,
    SEGMENT_BYTES,
    Read,
    append,
    append_groups,
    as_read,
    contents,
    entry,
    open_log,
    segment_ids,
    segments,
    write_log,
)

FIRST = "00000000000000000001.wal"


def prefix_lengths(written: list[Read]) -> list[list[Read]]:
    return [written[:count] for count in range(len(written) + 1)]


def recovered_twice(directory: Path, **settings):
    """Recover a log, check that recovering it again changes no byte, and give what was replayed."""
    log = open_log(directory, **settings)
    log.writer.close()
    after_first = contents(directory)
    again = open_log(directory, **settings)
    again.writer.close()
    assert again.replayed == log.replayed
    assert again.recovery.torn_bytes == 0
    assert again.recovery.broken_copy is None
    assert contents(directory) == after_first
    return log


def test_a_missing_directory_is_made_into_an_empty_log(tmp_path):
    log = open_log(tmp_path / "shard" / "wal")
    assert (log.replayed, log.recovery.records, log.writer.next_lsn) == ([], 0, 1)
    append_groups(log.writer, [[20]])
    assert open_log(tmp_path / "shard" / "wal").lsns == [1]


def test_recovery_gives_back_all_records_and_changes_no_byte(tmp_path):
    written = write_log(tmp_path, [[200], [20, 200], [200] * 4, [30]])
    before = contents(tmp_path)
    log = recovered_twice(tmp_path)
    assert log.replayed == written
    assert contents(tmp_path) == before


def test_a_log_goes_on_where_recovery_left_it(tmp_path):
    written = write_log(tmp_path, [[20], [200]])
    writer = open_log(tmp_path).writer
    assert writer.synced_lsn == writer.written_lsn == 2
    written += append_groups(writer, [[20, 300], [400]])
    writer.close()
    assert len(segments(tmp_path)) == 2
    assert recovered_twice(tmp_path).replayed == written


@pytest.mark.parametrize("from_lsn", range(1, 9))
def test_records_below_from_lsn_are_not_replayed(tmp_path, from_lsn):
    written = write_log(tmp_path, [[200]] * 7)
    log = open_log(tmp_path, from_lsn=from_lsn)
    assert log.replayed == written[from_lsn - 1 :]
    assert log.recovery.records == 8 - from_lsn
    assert log.writer.next_lsn == 8


def test_records_below_from_lsn_are_checked_all_the_same(tmp_path):
    write_log(tmp_path, [[200]] * 7)
    damage(segments(tmp_path)[0], 200)
    with pytest.raises(WalCorruption, match="a later segment exists"):
        open_log(tmp_path, from_lsn=7)


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def test_a_log_that_starts_too_late_is_refused(tmp_path):
    write_log(tmp_path, [[200]] * 7)
    segments(tmp_path)[0].unlink()
    with pytest.raises(WalCorruption, match="starts at LSN 4, but from 3 on it is needed"):
        open_log(tmp_path, from_lsn=3)
    assert open_log(tmp_path, from_lsn=4).lsns == [4, 5, 6, 7]


@pytest.mark.parametrize("from_lsn", [1, 4, 7])
def test_a_missing_segment_in_the_middle_is_refused(tmp_path, from_lsn):
    write_log(tmp_path, [[200]] * 7)
    segments(tmp_path)[1].unlink()
    with pytest.raises(WalCorruption, match="starts where LSN 4 belongs: one is missing"):
        open_log(tmp_path, from_lsn=from_lsn)


def test_a_log_that_ends_before_the_manifest_is_refused(tmp_path):
    write_log(tmp_path, [[200]] * 3)
    assert open_log(tmp_path, from_lsn=4).lsns == []
    with pytest.raises(WalCorruption, match="before LSN 4, but LSN 4 was synced"):
        open_log(tmp_path, from_lsn=5)


def test_a_log_that_ends_before_what_was_proven_is_refused(tmp_path):
    write_log(tmp_path, [[200]] * 3)
    assert open_log(tmp_path, proven_lsn=3).lsns == [1, 2, 3]
    with pytest.raises(WalCorruption, match="before LSN 4, but LSN 4 was synced"):
        open_log(tmp_path, proven_lsn=4)


def test_a_directory_without_segments_is_new_only_where_nothing_was_synced(tmp_path):
    with pytest.raises(WalCorruption, match="there is no segment, but LSN 6 was synced"):
        open_log(tmp_path, from_lsn=7)
    with pytest.raises(WalCorruption, match="there is no segment, but LSN 1 was synced"):
        open_log(tmp_path, proven_lsn=1)


def test_a_missing_last_segment_is_noticed_by_the_manifest(tmp_path):
    write_log(tmp_path, [[200]] * 7)
    segments(tmp_path)[2].unlink()
    assert open_log(tmp_path).lsns == [1, 2, 3, 4, 5, 6]
    with pytest.raises(WalCorruption, match="before LSN 7, but LSN 7 was synced"):
        open_log(tmp_path, proven_lsn=7)


def test_a_segment_whose_first_lsn_is_not_its_name_is_refused(tmp_path):
    write_log(tmp_path, [[200]])
    (tmp_path / FIRST).rename(tmp_path / "00000000000000000002.wal")
    with pytest.raises(WalCorruption, match="says that it starts at LSN 1"):
        open_log(tmp_path, from_lsn=2)


@pytest.mark.parametrize(
    "name", ["1.wal", "copy of 00000000000000000001.wal", "\u0660" * 20 + ".wal"]
)
def test_a_file_that_may_be_a_renamed_segment_is_not_passed_over(tmp_path, name):
    write_log(tmp_path, [[200]])
    (tmp_path / FIRST).rename(tmp_path / name)
    with pytest.raises(WalCorruption, match="not the name of a segment"):
        open_log(tmp_path)


def test_a_segment_of_another_shard_is_refused(tmp_path):
    write_log(tmp_path, [[200]])
    other = LogIdentity(IDENTITY.directory_id, 1, shard=0, shard_count=3)
    with pytest.raises(WalCorruption, match="belongs to shard 2 of 3"):
        open_log(tmp_path, identity=other)


def test_a_segment_without_its_header_is_refused_although_it_is_the_last(tmp_path):
    write_log(tmp_path, [[200]] * 4)
    segments(tmp_path)[-1].write_bytes(bytes(SEGMENT_BYTES))
    with pytest.raises(WalCorruption, match="checksum of the segment's header"):
        open_log(tmp_path)


def test_an_older_segment_without_its_seal_is_refused(tmp_path):
    write_log(tmp_path, [[200]] * 4)
    first = segments(tmp_path)[0]
    end = SEGMENT_HEADER.size + 3 * record_bytes(200)
    first.write_bytes(first.read_bytes()[:end] + bytes(SEGMENT_BYTES - end))
    with pytest.raises(WalCorruption, match="ends without a seal"):
        open_log(tmp_path)


def test_a_log_cut_at_every_byte_gives_an_exact_prefix(tmp_path):
    written = write_log(tmp_path, [[20], [33], [41]], 512)
    content = (tmp_path / FIRST).read_bytes()
    directory = Path("/wal")
    lengths = set()
    for size in range(len(content)):
        files = LossyFileSystem()
        files.load(directory, {FIRST: content[:size]})
        if size < SEGMENT_HEADER.size:
            with pytest.raises(WalCorruption):
                open_log(directory, files=files, segment_bytes=512)
            assert files.contents(directory) == {FIRST: content[:size]}
            continue
        log = open_log(directory, files=files, segment_bytes=512)
        assert log.replayed == written[: len(log.replayed)]
        lengths.add(len(log.replayed))
        torn = content[log.writer.size_bytes : size].rstrip(b"\0")
        assert log.recovery.torn_bytes == len(torn)
        before = files.contents(directory)
        again = open_log(directory, files=files, segment_bytes=512)
        assert (again.replayed, again.recovery.torn_bytes) == (log.replayed, 0)
        assert files.contents(directory) == before
        more = append_groups(again.writer, [[20], [20]])
        reopened = open_log(directory, files=files, segment_bytes=512)
        assert reopened.replayed == log.replayed + more
    assert lengths == {0, 1, 2, 3}


@pytest.mark.parametrize("size", [64, 70, 136, 190, 216, 290, 312, 313, 400])
def test_a_real_file_that_was_cut_gets_its_space_back(tmp_path, size):
    written = write_log(tmp_path, [[20], [33], [41]], 512)
    os.truncate(tmp_path / FIRST, size)
    log = recovered_twice(tmp_path, segment_bytes=512)
    assert log.replayed == written[: len(log.replayed)]
    assert len(log.replayed) == (size >= 132) + (size >= 217) + (size >= 313)
    assert (tmp_path / FIRST).stat().st_size == (size if size == 400 else 512)


def test_a_torn_tail_is_copied_aside_cut_off_and_counted(tmp_path):
    written = write_log(tmp_path, [[20], [30, 40]])
    path = tmp_path / FIRST
    before = path.read_bytes()
    offset = SEGMENT_HEADER.size + record_bytes(20) + record_bytes(30)
    end = offset + 48 + 40
    damage(path, offset + 50)
    torn = path.read_bytes()[offset:end]
    log = open_log(tmp_path)
    assert log.replayed == written[:2]
    assert log.recovery.torn_bytes == len(torn.rstrip(b"\0"))
    assert log.recovery.broken_copy == tmp_path / f"{FIRST}.broken-{offset}"
    assert log.recovery.broken_copy.read_bytes() == torn.rstrip(b"\0")
    assert path.read_bytes() == before[:offset] + bytes(SEGMENT_BYTES - offset)
    written[2:] = append_groups(log.writer, [[25]])
    log.writer.close()
    assert recovered_twice(tmp_path).replayed == written


def test_another_torn_tail_at_the_same_offset_does_not_replace_the_first_copy(tmp_path):
    write_log(tmp_path, [[20]])
    copies = []
    for size in (30, 31, 31, 32):
        writer = open_log(tmp_path).writer
        append(writer, [size])
        writer.close()
        damage(tmp_path / FIRST, SEGMENT_HEADER.size + record_bytes(20) + 50)
        copies.append(open_log(tmp_path).recovery.broken_copy)
    name = f"{FIRST}.broken-136"
    assert [copy.name for copy in copies] == [name, f"{name}.2", f"{name}.2", f"{name}.3"]
    assert len({copy.read_bytes() for copy in copies}) == 3


def test_a_record_behind_a_lost_one_of_the_same_group_goes_with_it(tmp_path):
    written = write_log(tmp_path, [[20], [30, 40, 50]])
    offset = SEGMENT_HEADER.size + record_bytes(20)
    content = bytearray((tmp_path / FIRST).read_bytes())
    content[offset : offset + record_bytes(30)] = bytes(record_bytes(30))
    (tmp_path / FIRST).write_bytes(content)
    log = recovered_twice(tmp_path)
    assert log.replayed == written[:1]
    assert log.recovery.torn_bytes == sum(map(record_bytes, [30, 40])) + 48 + 50
    # LSNs 2 and 3 are given again; nothing of the old ones may come back behind them.
    writer = open_log(tmp_path).writer
    written[1:] = append(writer, [30])
    writer.close()
    assert recovered_twice(tmp_path).replayed == written


def test_every_zeroed_sector_of_the_last_group_gives_an_exact_prefix(tmp_path):
    groups = [[300, 500], [200, 900, 700, 40, 1200]]
    written = write_log(tmp_path / "whole", groups, 8192)
    content = (tmp_path / "whole" / FIRST).read_bytes()
    group_start = SEGMENT_HEADER.size + record_bytes(300) + record_bytes(500)
    lengths = set()
    for start in range(group_start // 512 * 512, len(content.rstrip(b"\0")), 512):
        for filler in (0, 0xA5):
            directory = tmp_path / f"{start}-{filler}"
            directory.mkdir()
            damaged = bytearray(content)
            first = max(start, group_start)
            damaged[first : start + 512] = bytes([filler]) * (start + 512 - first)
            (directory / FIRST).write_bytes(damaged)
            log = recovered_twice(directory, segment_bytes=8192)
            assert log.replayed in prefix_lengths(written)[2:]
            lengths.add(len(log.replayed))
    assert {2, 3, 4, 6} <= lengths


def read_damaged(written: list[Read], contents: dict[str, bytes], name: str, damaged: bytes) -> str:
    """Say what becomes of a log of 7 records, of which 6 are proven, with one segment damaged."""
    files = LossyFileSystem()
    directory = Path("/wal")
    files.load(directory, contents | {name: damaged})
    try:
        log = open_log(directory, files=files, segment_bytes=320)
    except WalCorruption as refusal:
        untouched = files.contents(directory) == contents | {name: damaged}
        named = refusal.path == str(directory / name)
        return "refused" if untouched and named else "refused, but changed or not named"
    prefix = log.replayed == written[: len(log.replayed)]
    if not prefix or len(log.replayed) < 6:
        return f"wrong answer: {log.lsns}"
    if log.recovery.torn_bytes:
        kept = log.recovery.broken_copy in (directory / n for n in files.list_dir(directory))
        return "torn" if kept and name == max(contents) else "torn where it cannot be"
    return "harmless" if len(log.replayed) == 7 else "lost and not reported"


def test_every_flipped_bit_of_a_small_log_is_refused_or_costs_only_what_nothing_proves(tmp_path):
    written = write_log(tmp_path, [[9], [20], [5, 12], [7], [16], [3]], 320)
    originals = contents(tmp_path)
    assert len(originals) == 3
    outcomes = Counter()
    for name, original in originals.items():
        for bit in range(8 * len(original)):
            damaged = bytearray(original)
            damaged[bit // 8] ^= 1 << bit % 8
            outcomes[read_damaged(written, originals, name, bytes(damaged))] += 1
    assert set(outcomes) == {"refused", "torn", "harmless"}, outcomes


def kill_everywhere(tmp_path: Path, prepare, action, check) -> None:
    """Stop `action` at every call that changes the disk and check what recovery makes of it."""
    nth = 0
    while True:
        nth += 1
        directory = tmp_path / f"kill-{nth}"
        prepare(directory)
        files = FaultyFileSystem(Fault("any", nth, Killed(), written=nth * 37 % 400))
        acknowledged: list[Read] = []
        try:
            action(directory, files, acknowledged)
        except Killed:
            check(directory, acknowledged)
        else:
            break
    assert nth > 5


def test_a_process_killed_at_any_call_keeps_all_that_was_synced(tmp_path):
    def action(directory, files, acknowledged):
        writer = open_log(directory, files=files).writer
        for sizes in ([20], [300, 300], [200, 300], [700, 20], [5000], [30]):
            acknowledged += append_groups(writer, [sizes])
        writer.drop_before(6)
        writer.close()

    def check(directory, acknowledged):
        first_lsn = int(segments(directory)[0].stem) if segments(directory) else 1
        log = recovered_twice(directory, from_lsn=first_lsn)
        kept = [record for record in acknowledged if record.lsn >= first_lsn]
        assert log.replayed[: len(kept)] == kept
        assert log.lsns == list(range(first_lsn, log.writer.next_lsn))

    kill_everywhere(tmp_path, lambda directory: None, action, check)


def test_a_recovery_killed_at_any_call_is_done_again_with_the_same_outcome(tmp_path):
    def prepare(directory):
        write_log(directory, [[200], [200], [200], [50], [30, 40]])
        damage(segments(directory)[-1], SEGMENT_HEADER.size + record_bytes(50) + 20)
        (directory / "spare.tmp").write_bytes(bytes(100))

    prepare(tmp_path / "expected")
    expected = recovered_twice(tmp_path / "expected")
    assert expected.recovery.torn_bytes

    def action(directory, files, acknowledged):
        open_log(directory, files=files)

    def check(directory, acknowledged):
        log = recovered_twice(directory)
        assert log.replayed == expected.replayed
        assert contents(directory) == contents(tmp_path / "expected")

    kill_everywhere(tmp_path, prepare, action, check)


def test_a_log_sealed_without_a_next_segment_goes_on_in_a_new_one(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    written = append_groups(writer, [[200, 200, 200]])
    files.fault = Fault("rename", 1, Killed())
    with pytest.raises(Killed):
        append(writer, [200])
    assert len(segments(tmp_path)) == 1
    log = recovered_twice(tmp_path)
    assert log.replayed == written
    log = open_log(tmp_path)
    assert (tmp_path / "spare.tmp").exists()
    assert log.writer.size_bytes == SEGMENT_HEADER.size + 3 * record_bytes(200) + SEAL_BYTES
    log.writer.drop_before(99)
    written += append_groups(log.writer, [[200]])
    log.writer.drop_before(1)
    log.writer.close()
    assert len(segments(tmp_path)) == 2
    assert recovered_twice(tmp_path).replayed == written


def test_a_torn_seal_is_cut_off_and_the_segment_written_on(tmp_path):
    files = FaultyFileSystem()
    writer = open_log(tmp_path, files=files).writer
    written = append_groups(writer, [[200, 200, 200]])
    files.fault = Fault("write", 2, Killed(), written=30)  # the first is the spare's header
    with pytest.raises(Killed):
        append(writer, [200])
    log = recovered_twice(tmp_path)
    assert log.replayed == written
    assert log.recovery.torn_bytes
    writer = open_log(tmp_path).writer
    written += append_groups(writer, [[5], [200]])
    writer.close()
    assert recovered_twice(tmp_path).replayed == written


def test_leftover_temporary_files_are_removed(tmp_path):
    written = write_log(tmp_path, [[20]])
    header = SegmentHeader(IDENTITY, 1, 2).pack()
    for name in ("spare.tmp", "other.tmp"):
        (tmp_path / name).write_bytes(header)
    assert open_log(tmp_path).replayed == written
    assert [path.name for path in tmp_path.iterdir()] == [FIRST]


def test_files_that_are_no_segments_are_left_alone(tmp_path):
    written = write_log(tmp_path, [[20]])
    (tmp_path / "notes.txt").write_text("the operator's")
    (tmp_path / f"{FIRST}.broken-136").write_bytes(b"evidence")
    recovered_twice(tmp_path)
    assert open_log(tmp_path).replayed == written
    assert (tmp_path / "notes.txt").read_text() == "the operator's"
    assert (tmp_path / f"{FIRST}.broken-136").read_bytes() == b"evidence"


def test_the_unproven_tail_is_written_again_in_place_and_synced(tmp_path):
    write_log(tmp_path, [[20], [30], [40, 50]])
    files = FaultyFileSystem()
    open_log(tmp_path, files=files, new_segment_id=segment_ids(99))
    calls = [call for call in files.calls if call[1] in (FIRST, tmp_path.name)]
    assert calls[-4:] == [
        ("allocate", FIRST),
        ("write", FIRST),
        ("sync", FIRST),
        ("sync_dir", tmp_path.name),
    ]


@pytest.mark.parametrize(
    ("operation", "match"),
    [("write", FIRST), ("sync", FIRST), ("allocate", FIRST), ("sync_dir", ""), ("unlink", "")],
)
def test_a_broken_disk_in_recovery_is_told(tmp_path, operation, match):
    write_log(tmp_path, [[20]])
    (tmp_path / "spare.tmp").touch()
    files = FaultyFileSystem(Fault(operation, 1, disk_broken(), match=match))
    with pytest.raises(WalPoisoned, match="a restart tries again"):
        open_log(tmp_path, files=files)
    assert open_log(tmp_path).lsns == [1]


def test_a_spare_that_cannot_be_made_on_a_broken_disk_is_told_at_once(tmp_path):
    files = FaultyFileSystem(Fault("create", 1, disk_broken()))
    with pytest.raises(WalPoisoned, match="making of a segment"):
        open_log(tmp_path, files=files)


def test_a_segment_that_cannot_be_read_is_not_taken_for_a_torn_one(tmp_path):
    write_log(tmp_path, [[20]])
    before = contents(tmp_path)
    files = FaultyFileSystem(Fault("read_bytes", 1, disk_broken()))
    with pytest.raises(WalError, match="cannot be read"):
        open_log(tmp_path, files=files)
    assert contents(tmp_path) == before


def torn_log(directory: Path) -> list[Read]:
    written = write_log(directory, [[20], [30]])
    damage(directory / FIRST, SEGMENT_HEADER.size + record_bytes(20) + 50)
    return written[:1]


def test_a_torn_tail_stays_where_it_is_while_there_is_no_room_for_its_copy(tmp_path):
    written = torn_log(tmp_path)
    before = contents(tmp_path)
    for operation in ("create", "write", "sync"):
        fault = Fault(operation, 1, disk_full(), match=".tmp")
        with pytest.raises(WalFull, match="no room for a copy of"):
            open_log(tmp_path, files=FaultyFileSystem(fault))
        assert contents(tmp_path) == before
    assert recovered_twice(tmp_path).replayed == written


def test_a_broken_disk_under_the_copy_of_a_torn_tail_is_told(tmp_path):
    torn_log(tmp_path)
    before = contents(tmp_path)
    fault = Fault("sync", 1, disk_broken(), match=".tmp")
    with pytest.raises(WalPoisoned):
        open_log(tmp_path, files=FaultyFileSystem(fault))
    assert contents(tmp_path) == before


def test_a_cut_segment_that_finds_no_space_is_read_only_until_there_is_some(tmp_path):
    written = torn_log(tmp_path)
    files = FaultyFileSystem(Fault("allocate", 1, disk_full(), lasting=True))
    log = open_log(tmp_path, files=files)
    assert log.replayed == written
    assert not log.writer.has_room
    with pytest.raises(WalFull):
        append(log.writer, [20])
    assert not log.writer.prepare_spare()
    assert (tmp_path / FIRST).stat().st_size == SEGMENT_HEADER.size + record_bytes(20)
    files.fault = None
    assert log.writer.prepare_spare()
    written += append_groups(log.writer, [[20], [900]])
    log.writer.close()
    assert recovered_twice(tmp_path).replayed == written


def test_a_cut_segment_grows_by_itself_when_the_next_record_finds_space(tmp_path):
    written = torn_log(tmp_path)
    files = FaultyFileSystem(Fault("allocate", 1, disk_full(), lasting=True))
    log = open_log(tmp_path, files=files)
    files.fault = None
    written += append_groups(log.writer, [[2000]])
    log.writer.close()
    assert len(segments(tmp_path)) == 1
    assert recovered_twice(tmp_path).replayed == written


def test_a_log_opens_for_reading_although_there_is_no_room_for_a_segment(tmp_path):
    files = FaultyFileSystem(Fault("allocate", 1, disk_full(), lasting=True))
    log = open_log(tmp_path, files=files)
    assert not log.writer.has_room
    with pytest.raises(WalFull):
        append(log.writer, [20])
    files.fault = None
    append_groups(log.writer, [[20]])
    assert log.writer.has_room
    log.writer.close()
    assert recovered_twice(tmp_path).lsns == [1]


def test_changing_the_size_of_segments_changes_those_to_come(tmp_path):
    written = write_log(tmp_path, [[20]], 1024)
    for size in (4096, 512, 2048):
        writer = open_log(tmp_path, segment_bytes=size).writer
        written += append_groups(writer, [[400, 400]])
        writer.close()
    assert [path.stat().st_size for path in segments(tmp_path)] == [1024, 4096]
    assert recovered_twice(tmp_path).replayed == written


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_real_full_disk_is_read_only_and_resumes_when_there_is_space(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no mounts here: {mounted.stderr}")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(512 * 1024))
        writer = open_log(disk / "wal", segment_bytes=256 * 1024).writer
        entries = [entry(lsn, 60_000) for lsn in range(1, 17)]
        with pytest.raises(WalFull, match="No space left"):
            writer.append(entries)
        assert not writer.has_room
        assert 4 <= writer.written_lsn < 16
        writer.sync()
        held = open_log(disk / "wal", segment_bytes=256 * 1024)
        assert held.lsns == list(range(1, writer.written_lsn + 1))
        assert not held.writer.has_room

        ballast.unlink()
        assert held.writer.prepare_spare()
        held.writer.append(entries[held.writer.written_lsn :])
        held.writer.sync()
        assert held.writer.written_lsn == 16
        with pytest.raises(WalFull):
            held.writer.append([entry(17, 60_000)])
        held.writer.drop_before(13)
        assert held.writer.prepare_spare()
        held.writer.append([entry(17, 60_000)])
        held.writer.close()
        log = open_log(disk / "wal", from_lsn=13, segment_bytes=256 * 1024)
        assert log.replayed == as_read([*entries[12:], entry(17, 60_000)])
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(disk)], check=True)


def test_reading_holds_one_segment_at_a_time(tmp_path):
    segment_bytes = 1 << 20
    write_log(tmp_path, [[300_000]] * 15, segment_bytes)
    assert len(segments(tmp_path)) == 5
    tracemalloc.start()
    try:
        recovery = recover_log(
            LocalFileSystem(),
            tmp_path,
            IDENTITY,
            from_lsn=1,
            proven_lsn=0,
            segment_bytes=segment_bytes,
            new_segment_id=segment_ids(),
            replay=lambda record: None,
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert recovery.records == 15
    assert segment_bytes < peak_bytes < 2 * segment_bytes
