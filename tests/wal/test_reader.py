import struct
from pathlib import Path

import google_crc32c
import pytest

from flowd.errors import TornTail, WalCorruption
from flowd.wal.format import (
    RECORD_HEADER,
    SEGMENT_HEADER,
    LogEntry,
    LogIdentity,
    RecordType,
    SegmentHeader,
    pack_record,
    record_bytes,
    seal_entry,
)
from flowd.wal.reader import SegmentReader, written_end
from tests.wal.logs import IDENTITY, as_read, entry

PATH = Path("00000000000000000001.wal")
SEGMENT_ID = 0x0123456789ABCDEF
SIZES = (20, 33, 0, 8, 41)
SYNCED = (0, 1, 1, 3, 3)  # groups of LSNs 1 | 2, 3 | 4, 5: the last one is proven by nothing
OFFSETS = [SEGMENT_HEADER.size]
for _size in SIZES:
    OFFSETS.append(OFFSETS[-1] + record_bytes(_size))
END = OFFSETS[-1]


def record(entry: LogEntry, synced_lsn: int, segment_id: int = SEGMENT_ID) -> bytes:
    buffers: list[bytes | memoryview] = []
    pack_record(buffers, entry, sum(map(len, entry.payload)), segment_id, synced_lsn)
    return b"".join(buffers)


def segment(*, sealed: bool = False) -> bytearray:
    """Give a segment of five records and 200 bytes that were not written yet."""
    content = SegmentHeader(IDENTITY, SEGMENT_ID, 1).pack()
    for lsn, (size, synced_lsn) in enumerate(zip(SIZES, SYNCED, strict=True), 1):
        content += record(entry(lsn, size), synced_lsn)
    if sealed:
        content += record(seal_entry(6, 5), 5)
    return bytearray(content + bytes(200))


def reader(content: bytes, *, last: bool = True, proven_lsn: int = 0, first_lsn: int = 1):
    return SegmentReader(
        PATH, bytes(content), IDENTITY, first_lsn, last=last, proven_lsn=proven_lsn
    )


def survivors(reader: SegmentReader) -> tuple[list[int], str]:
    """Read all that can be read, and tell how that ended."""
    lsns = []
    try:
        for record in reader:
            lsns.append(record.lsn)  # noqa: PERF401 - what came before an error counts
    except TornTail:
        return lsns, "torn"
    except WalCorruption:
        return lsns, "corrupt"
    return lsns, "sealed" if reader.sealed else "open"


def test_reader_gives_back_what_was_written():
    whole = reader(segment())
    records = list(whole)
    assert [r.lsn for r in records] == [1, 2, 3, 4, 5]
    assert as_read(LogEntry(r.lsn, r.type, r.shards, (r.payload,)) for r in records) == as_read(
        entry(lsn, size) for lsn, size in enumerate(SIZES, 1)
    )
    assert (whole.offset, whole.next_lsn, whole.records, whole.proven_lsn) == (END, 6, 5, 3)
    assert not whole.sealed


def test_reader_stops_at_a_seal_and_takes_it_as_a_proof():
    whole = reader(segment(sealed=True), last=False)
    assert survivors(whole) == ([1, 2, 3, 4, 5], "sealed")
    assert whole.proven_lsn == 5
    assert whole.unproven_offset() == END


def test_bytes_behind_a_seal_mean_nothing():
    content = segment(sealed=True)
    content[-1] = 1
    assert survivors(reader(content)) == ([1, 2, 3, 4, 5], "sealed")


def flip(offset: int):
    def damage(content: bytearray) -> None:
        content[offset] ^= 1

    return damage


def zero(start: int, stop: int):
    def damage(content: bytearray) -> None:
        content[start:stop] = bytes(stop - start)

    return damage


def cut(size: int):
    def damage(content: bytearray) -> None:
        del content[size:]

    return damage


def put(offset: int, data: bytes):
    def damage(content: bytearray) -> None:
        content[offset : offset + len(data)] = data

    return damage


def length(index: int, value: int):
    return put(OFFSETS[index] + 4, struct.pack("<I", value))


# name, damage, survivors, how reading ends in the last segment
DAMAGES = [
    ("none", lambda content: None, 5, "open"),
    ("a flipped bit of the first record", flip(OFFSETS[0] + 50), 0, "corrupt"),
    ("a flipped bit of a proven payload", flip(OFFSETS[1] + 60), 1, "corrupt"),
    ("a flipped checksum of a proven record", flip(OFFSETS[2]), 2, "corrupt"),
    ("a proven length that is too long for the file", length(1, 2**32 - 1), 1, "corrupt"),
    ("a proven length that runs into the next record", length(1, 41), 1, "corrupt"),
    ("a proven length of nothing", length(1, 0), 1, "corrupt"),
    ("a proven segment id flipped", flip(OFFSETS[1] + 24), 1, "corrupt"),
    ("a proven record of zeros", zero(OFFSETS[2], OFFSETS[3]), 2, "corrupt"),
    ("everything but the last record zeros", zero(OFFSETS[0], OFFSETS[4]), 0, "corrupt"),
    ("everything from a proven record on zeros", zero(OFFSETS[1], END), 1, "open"),
    ("a flipped bit of the last record", flip(END - 8), 4, "torn"),
    ("a flipped bit of the last group's first record", flip(OFFSETS[3] + 48), 3, "torn"),
    ("the last group's first header zeros", zero(OFFSETS[3], OFFSETS[3] + 48), 3, "torn"),
    ("an unproven length that is too long", length(4, 2**31), 4, "torn"),
    ("an unproven length of nothing", length(4, 0), 4, "torn"),
    ("the last payload zeros", zero(OFFSETS[4] + 48, END), 4, "torn"),
    ("the last record zeros", zero(OFFSETS[4], END), 4, "open"),
    ("cut between records", cut(OFFSETS[4]), 4, "open"),
    ("cut in a header", cut(OFFSETS[4] + 20), 4, "torn"),
    ("cut in a payload", cut(END - 9), 4, "torn"),
    ("cut in the padding", cut(END - 1), 5, "open"),
    ("cut behind the segment's header", cut(64), 0, "open"),
    ("stale bytes behind the end", put(END + 8, b"stale"), 5, "torn"),
    ("garbage at the end", put(END, b"\xff" * 48), 5, "torn"),
    ("a sound record of another segment", put(END, record(entry(6), 5, 99)), 5, "torn"),
    ("a sound record with an LSN too high", put(END, record(entry(7), 5)), 5, "corrupt"),
    ("a sound record with an LSN too low", put(END, record(entry(5), 4)), 5, "corrupt"),
    ("a sound record of a type to come", put(END, record(LogEntry(6, 9, 0, ()), 5)), 5, "corrupt"),
    ("a seal that counts otherwise", put(END, record(seal_entry(6, 4), 5)), 5, "corrupt"),
    (
        "a seal of another length",
        put(END, record(LogEntry(6, RecordType.SEAL, 0, (bytes(9),)), 5)),
        5,
        "corrupt",
    ),
    (
        "a sound record behind a gap that proves nothing",
        put(END + 48, record(entry(7), 5)),
        5,
        "torn",
    ),
    (
        "a sound record behind a gap that proves it",
        put(END + 48, record(entry(7), 6)),
        5,
        "corrupt",
    ),
    ("a proof that is not at a multiple of 8", put(END + 49, record(entry(7), 6)), 5, "torn"),
    (
        "a proof behind two records that prove nothing",
        put(END + 8, record(entry(7, 3), 5) + record(entry(8, 5), 5) + record(entry(9), 6)),
        5,
        "corrupt",
    ),
]


@pytest.mark.parametrize(
    ("damage", "lsns", "outcome"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES]
)
def test_reader_tells_a_torn_tail_from_corruption_in_the_last_segment(damage, lsns, outcome):
    content = segment()
    damage(content)
    assert survivors(reader(content)) == (list(range(1, lsns + 1)), outcome)


@pytest.mark.parametrize(
    ("damage", "lsns"), [(d[1], d[2]) for d in DAMAGES], ids=[d[0] for d in DAMAGES]
)
def test_every_damage_is_corruption_where_a_later_segment_exists(damage, lsns):
    content = segment()
    damage(content)
    assert survivors(reader(content, last=False)) == (list(range(1, lsns + 1)), "corrupt")


@pytest.mark.parametrize(
    ("damage", "lsns"), [(d[1], d[2]) for d in DAMAGES], ids=[d[0] for d in DAMAGES]
)
def test_every_damage_is_corruption_where_the_caller_knows_of_a_later_sync(damage, lsns):
    content = segment()
    damage(content)
    assert survivors(reader(content, proven_lsn=6)) == (list(range(1, lsns + 1)), "corrupt")


@pytest.mark.parametrize("proven_lsn", range(7))
def test_a_log_may_end_behind_what_the_caller_knows_to_be_synced_and_not_before(proven_lsn):
    ending = "open" if proven_lsn <= 5 else "corrupt"
    assert survivors(reader(segment(), proven_lsn=proven_lsn)) == ([1, 2, 3, 4, 5], ending)


def test_a_seal_does_not_hide_that_the_log_ends_too_early():
    content = segment(sealed=True)
    assert survivors(reader(content, proven_lsn=5)) == ([1, 2, 3, 4, 5], "sealed")
    assert survivors(reader(content, proven_lsn=6)) == ([1, 2, 3, 4, 5], "corrupt")
    assert survivors(reader(content, proven_lsn=6, last=False)) == ([1, 2, 3, 4, 5], "sealed")


def test_a_seal_whose_records_were_synced_proves_them_all():
    content = segment(sealed=True)
    content[OFFSETS[4] + 50] ^= 1
    assert survivors(reader(content)) == ([1, 2, 3, 4], "corrupt")


def test_an_error_names_file_offset_and_what_to_do():
    content = segment()
    content[OFFSETS[1] + 60] ^= 1
    with pytest.raises(WalCorruption) as caught:
        list(reader(content))
    assert caught.value.path == str(PATH)
    assert caught.value.offset == OFFSETS[1]
    assert caught.value.reason.startswith(
        "no sound record where LSN 2 belongs, and LSN 3 was synced. This shard does not start"
    )
    assert "restore it from a backup" in str(caught.value)


@pytest.mark.parametrize(
    ("identity", "first_lsn", "reason"),
    [
        (IDENTITY, 2, "says that it starts at LSN 2"),
        (LogIdentity(bytes(16), 1, 2, 3), 1, "belongs to shard 2 of 3 in generation 1 of data"),
        (LogIdentity(IDENTITY.directory_id, 2, 2, 3), 1, "in generation 2 of data"),
        (LogIdentity(IDENTITY.directory_id, 1, 1, 3), 1, "belongs to shard 1 of 3"),
        (LogIdentity(IDENTITY.directory_id, 1, 2, 4), 1, "belongs to shard 2 of 4"),
    ],
)
def test_a_segment_that_belongs_elsewhere_is_refused(identity, first_lsn, reason):
    content = SegmentHeader(identity, SEGMENT_ID, first_lsn).pack() + bytes(100)
    with pytest.raises(WalCorruption, match=reason):
        reader(content)


@pytest.mark.parametrize("size", [0, 1, 63])
def test_a_segment_without_a_whole_header_is_corrupt_even_as_the_last_one(size):
    with pytest.raises(WalCorruption, match="fewer than the 64"):
        reader(segment()[:size])


@pytest.mark.parametrize(
    ("proven_lsn", "offset"),
    [(0, OFFSETS[3]), (2, OFFSETS[3]), (3, OFFSETS[3]), (4, OFFSETS[4]), (5, END)],
)
def test_what_is_unproven_starts_behind_the_last_record_known_to_be_synced(proven_lsn, offset):
    whole = reader(segment(), proven_lsn=proven_lsn)
    assert survivors(whole)[1] == "open"
    assert whole.unproven_offset() == offset


def test_the_header_is_unproven_as_long_as_no_record_is_proven():
    content = SegmentHeader(IDENTITY, SEGMENT_ID, 1).pack() + record(entry(1), 0) + bytes(64)
    whole = reader(content)
    assert survivors(whole) == ([1], "open")
    assert whole.unproven_offset() == 0


def test_a_record_costs_no_more_memory_than_the_segment_has():
    content = segment()
    view = next(iter(reader(content))).payload
    assert view.nbytes == SIZES[0]
    assert isinstance(view.obj, bytes)
    assert len(view.obj) == len(content)


def test_a_record_header_is_checked_before_its_length_is_used():
    content = segment()
    rest = RECORD_HEADER.pack(0, 2**32 - 1, 1, 6, SEGMENT_ID, 5, 0)[4:]
    stored = google_crc32c.value(rest + bytes(content[END + 48 :]))
    content[END : END + 48] = struct.pack("<I", stored) + rest
    assert survivors(reader(content)) == ([1, 2, 3, 4, 5], "torn")


@pytest.mark.parametrize("zeros", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_the_end_of_what_was_written_is_found_however_many_zeros_follow(zeros):
    assert written_end(b"abc\0d" + bytes(zeros), 1) == 5
    assert written_end(b"abc" + bytes(zeros), 3) == 3
    assert written_end(b"abc" + bytes(zeros), 4 + zeros) == 4 + zeros
