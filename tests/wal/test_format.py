import struct

import google_crc32c
import pytest

from flowd.wal.format import (
    RECORD_HEADER,
    RECORD_SEGMENT_ID_OFFSET,
    SEAL_BYTES,
    SEGMENT_HEADER,
    LogEntry,
    LogIdentity,
    RecordType,
    SegmentHeader,
    checksum,
    pack_record,
    record_bytes,
    seal_entry,
)
from tests.wal.logs import IDENTITY

HEADER = SegmentHeader(IDENTITY, segment_id=0x1122334455667788, first_lsn=9)


def packed(entry: LogEntry) -> bytes:
    buffers: list[bytes | memoryview] = []
    size = sum(map(len, entry.payload))
    pack_record(buffers, entry, size, segment_id=7, synced_lsn=3)
    return b"".join(buffers)


def test_a_segment_header_reads_back_as_it_was_packed():
    content = HEADER.pack()
    assert len(content) == SEGMENT_HEADER.size == 64
    assert SegmentHeader.unpack(content + bytes(100)) == HEADER


def test_every_flipped_bit_of_a_segment_header_is_found():
    content = HEADER.pack()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="checksum"):
            SegmentHeader.unpack(bytes(damaged))


def test_a_header_of_zeros_is_no_header():
    with pytest.raises(ValueError, match="checksum"):
        SegmentHeader.unpack(bytes(64))


def test_a_header_that_is_too_short_says_so():
    with pytest.raises(ValueError, match="63 bytes"):
        SegmentHeader.unpack(HEADER.pack()[:63])


@pytest.mark.parametrize(("offset", "value"), [(0, b"FLOWDTBL"), (8, b"\2\0\0\0")])
def test_a_sound_header_of_another_format_is_refused_with_its_version(offset, value):
    content = bytearray(HEADER.pack()[:60])
    content[offset : offset + len(value)] = value
    content += struct.pack("<I", google_crc32c.value(bytes(content)))
    with pytest.raises(ValueError, match="this flowd reads b'FLOWDWAL' version 1"):
        SegmentHeader.unpack(bytes(content))


def test_an_identity_reads_back_as_it_was_packed():
    assert len(IDENTITY.pack()) == 28
    assert LogIdentity.unpack(IDENTITY.pack()) == IDENTITY
    assert str(IDENTITY) == (
        "shard 2 of 3 in generation 1 of data directory 000102030405060708090a0b0c0d0e0f"
    )


@pytest.mark.parametrize("size", range(18))
def test_a_record_takes_a_multiple_of_eight_bytes_and_ends_in_zeros(size):
    content = packed(LogEntry(5, RecordType.FLOOR, 0, (b"x" * size,)))
    assert len(content) == record_bytes(size)
    assert len(content) % 8 == 0
    assert content[48:] == b"x" * size + bytes(-size % 8)


def test_a_records_header_has_its_fields_and_a_checksum_over_all_that_follows():
    content = packed(LogEntry(5, RecordType.BATCH, 2**63, (b"abc", memoryview(b"defgh"))))
    stored, size, record_type, lsn, segment_id, synced_lsn, shards = RECORD_HEADER.unpack_from(
        content
    )
    assert (size, record_type, lsn, segment_id, synced_lsn, shards) == (8, 1, 5, 7, 3, 2**63)
    assert stored == google_crc32c.value(content[4:56])
    assert content[RECORD_SEGMENT_ID_OFFSET:][:8] == struct.pack("<Q", 7)


def test_a_checksum_does_not_depend_on_where_the_parts_are_cut():
    assert checksum(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert checksum(b"1234", memoryview(b"56"), b"", b"789") == 0xE3069283


def test_a_seal_carries_the_next_lsn_and_the_count_of_records():
    content = packed(seal_entry(6, records=4))
    assert len(content) == SEAL_BYTES == 56
    assert RECORD_HEADER.unpack_from(content)[1:4] == (8, 255, 6)
    assert content[48:] == struct.pack("<Q", 4)
