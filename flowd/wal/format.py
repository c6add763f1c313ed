"""What the bytes of a log are: segment headers, record headers, seals.

Pure: packs and unpacks, decides nothing. Every integer is little-endian. `docs/wal-format.md` shows
the same in tables of offsets, and a test compares the two. `LogIdentity` is also what bucket files
and manifests say they belong to.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Self

import google_crc32c
import msgspec

FORMAT_VERSION: Final = 1
SEGMENT_MAGIC: Final = b"FLOWDWAL"
ALIGNMENT: Final = 8
"""Records start at multiples of this; zeros fill the gap behind a payload."""

PAYLOAD_BYTES_MAX: Final = 2**32 - 1

IDENTITY: Final = struct.Struct("<IHH4x16s")
SEGMENT_HEADER: Final = struct.Struct("<8sI28sQQ4xI")
RECORD_HEADER: Final = struct.Struct("<IIB7xQQQQ")
SEAL_PAYLOAD: Final = struct.Struct("<Q")

RECORD_SEGMENT_ID_OFFSET: Final = 24
"""Where a record header has its segment's id; damage is searched past by looking for it."""

CHECKSUM: Final = struct.Struct("<I")
_RECORD_HEADER_REST: Final = struct.Struct("<IB7xQQQQ")
_PADDING: Final = [bytes(-size % ALIGNMENT) for size in range(ALIGNMENT)]


class RecordType(IntEnum):
    """What a record says; 0 is never one, so that zeros are no record."""

    BATCH = 1
    ROLLUP = 2
    DROP = 3
    PURGE = 4
    ARCHIVE = 5
    FLOOR = 6
    SEAL = 255


class LogIdentity(msgspec.Struct, frozen=True):
    """Which shard of which data directory a file belongs to.

    Attributes:
        directory_id: 16 random bytes, the data directory's.
        generation: which division into shards, 1 … 2**32 - 1.
        shard: 0 … 63.
        shard_count: 1 … 64.
    """

    directory_id: bytes
    generation: int
    shard: int
    shard_count: int

    def pack(self) -> bytes:
        """Give the 28 bytes that stand for this in every header."""
        return IDENTITY.pack(self.generation, self.shard, self.shard_count, self.directory_id)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Read the 28 bytes that `pack` gave."""
        generation, shard, shard_count, directory_id = IDENTITY.unpack(content)
        return cls(directory_id, generation, shard, shard_count)

    def __str__(self) -> str:
        return (
            f"shard {self.shard} of {self.shard_count} in generation {self.generation} of"
            f" data directory {self.directory_id.hex()}"
        )


class LogEntry(NamedTuple):
    """A record to write.

    lsn: its number, one above the record before it.
    shards: bitmap of the shards that its batch touches, 0 for control records.
    payload: its parts, written one behind the other; opaque here.
    """

    lsn: int
    type: RecordType
    shards: int
    payload: tuple[bytes | memoryview, ...]


class LogRecord(NamedTuple):
    """A record as it was read; the payload is a view that keeps its whole segment in memory."""

    lsn: int
    type: RecordType
    shards: int
    payload: memoryview


class SegmentHeader(NamedTuple):
    """What a segment says of itself in its first 64 bytes."""

    identity: LogIdentity
    segment_id: int
    first_lsn: int

    def pack(self) -> bytes:
        """Give the 64 bytes."""
        content = SEGMENT_HEADER.pack(
            SEGMENT_MAGIC, FORMAT_VERSION, self.identity.pack(), self.segment_id, self.first_lsn, 0
        )[: -CHECKSUM.size]
        return content + CHECKSUM.pack(checksum(content))

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Read the header at the start of a segment's bytes.

        Raises:
            ValueError: it is damaged, or of another version; the text says which.
        """
        if len(content) < SEGMENT_HEADER.size:
            raise ValueError(
                f"the file has {len(content)} bytes, fewer than the {SEGMENT_HEADER.size} of"
                " a segment's header"
            )
        magic, version, identity, segment_id, first_lsn, stored = SEGMENT_HEADER.unpack_from(
            content
        )
        if checksum(content[: SEGMENT_HEADER.size - CHECKSUM.size]) != stored:
            raise ValueError("the checksum of the segment's header is wrong")
        if magic != SEGMENT_MAGIC or version != FORMAT_VERSION:
            raise ValueError(
                f"it says {magic!r} version {version}; this flowd reads {SEGMENT_MAGIC!r}"
                f" version {FORMAT_VERSION}"
            )
        return cls(LogIdentity.unpack(identity), segment_id, first_lsn)


class RecordHeader(NamedTuple):
    """What stands before a payload: the fields of `RECORD_HEADER`.

    synced_lsn: the last LSN that was on stable storage when the record was written.
    """

    checksum: int
    payload_bytes: int
    type: int
    lsn: int
    segment_id: int
    synced_lsn: int
    shards: int


def checksum(*parts: bytes | memoryview) -> int:
    """CRC32C of the parts, one behind the other."""
    value: int = 0
    for part in parts:
        # The extension takes nothing but bytes.
        value = google_crc32c.extend(value, part if isinstance(part, bytes) else bytes(part))
    return value


def record_bytes(payload_bytes: int) -> int:
    """Tell what a record takes in a segment: header, payload and padding."""
    return RECORD_HEADER.size + payload_bytes + -payload_bytes % ALIGNMENT


SEAL_BYTES: Final = record_bytes(SEAL_PAYLOAD.size)
"""What a seal takes; a segment always keeps this much free."""


def pack_record(
    buffers: list[bytes | memoryview],
    entry: LogEntry,
    payload_bytes: int,
    segment_id: int,
    synced_lsn: int,
) -> None:
    """Add a record's bytes to `buffers`, without copying its payload.

    Args:
        buffers: what is to be written at one go.
        entry: the record.
        payload_bytes: the sum of the lengths of its payload's parts.
        segment_id: of the segment it goes into.
        synced_lsn: the last LSN known to be on stable storage.
    """
    lsn, record_type, shards, payload = entry
    rest = _RECORD_HEADER_REST.pack(payload_bytes, record_type, lsn, segment_id, synced_lsn, shards)
    buffers.append(CHECKSUM.pack(checksum(rest, *payload)) + rest)
    buffers.extend(payload)
    if padding := _PADDING[payload_bytes % ALIGNMENT]:
        buffers.append(padding)


def seal_entry(next_lsn: int, records: int) -> LogEntry:
    """Give the footer that ends a segment of `records` records; it takes no LSN of its own."""
    return LogEntry(next_lsn, RecordType.SEAL, 0, (SEAL_PAYLOAD.pack(records),))
