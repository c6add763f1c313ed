"""Small logs for tests, and what to say of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowd.filesystem import FileSystem
from flowd.wal import (
    LogEntry,
    LogIdentity,
    LogRecord,
    LogRecovery,
    LogWriter,
    RecordType,
    recover_log,
)
from flowd.wal.format import SEAL_BYTES, SEGMENT_HEADER, record_bytes
from tests.faulty_files import FaultyFileSystem

IDENTITY = LogIdentity(bytes(range(16)), generation=1, shard=2, shard_count=3)
SEGMENT_BYTES = 1024


@dataclass(frozen=True)
class Read:
    """A record that was replayed, with its bytes copied out of the segment."""

    lsn: int
    type: RecordType
    shards: int
    payload: bytes


@dataclass
class Log:
    """A log that was recovered, and what its recovery replayed."""

    recovery: LogRecovery
    replayed: list[Read]

    @property
    def writer(self) -> LogWriter:
        return self.recovery.writer

    @property
    def lsns(self) -> list[int]:
        return [record.lsn for record in self.replayed]


def segment_ids(first: int = 0x1122334455667701) -> Callable[[], int]:
    """Number segments, so that the same calls give the same bytes."""
    last = first - 1

    def new_segment_id() -> int:
        nonlocal last
        last += 1
        return last

    return new_segment_id


def open_log(
    directory: Path,
    *,
    files: FileSystem | None = None,
    from_lsn: int = 1,
    proven_lsn: int = 0,
    segment_bytes: int = SEGMENT_BYTES,
    new_segment_id: Callable[[], int] | None = None,
    identity: LogIdentity = IDENTITY,
) -> Log:
    replayed: list[Read] = []

    def replay(record: LogRecord) -> None:
        replayed.append(Read(record.lsn, record.type, record.shards, bytes(record.payload)))

    recovery = recover_log(
        files or FaultyFileSystem(),
        directory,
        identity,
        from_lsn=from_lsn,
        proven_lsn=proven_lsn,
        segment_bytes=segment_bytes,
        new_segment_id=new_segment_id or segment_ids(),
        replay=replay,
    )
    return Log(recovery, replayed)


def payload(lsn: int, size: int = 20) -> bytes:
    """Give bytes that tell where they belong."""
    text = f"record {lsn} ".encode()
    return (text * (size // len(text) + 1))[:size]


def entry(lsn: int, size: int = 20) -> LogEntry:
    content = payload(lsn, size)
    return LogEntry(lsn, RecordType.BATCH, lsn % 8, (content[:7], memoryview(content)[7:]))


def as_read(entries: Iterable[LogEntry]) -> list[Read]:
    return [Read(e.lsn, e.type, e.shards, b"".join(e.payload)) for e in entries]


def append(writer: LogWriter, sizes: Sequence[int]) -> list[Read]:
    """Append a group of records with payloads of these sizes, without a sync."""
    entries = [entry(lsn, size) for lsn, size in enumerate(sizes, writer.next_lsn)]
    writer.append(entries)
    return as_read(entries)


def append_groups(writer: LogWriter, groups: Sequence[Sequence[int]]) -> list[Read]:
    """Append groups, each followed by a sync."""
    records = []
    for sizes in groups:
        records += append(writer, sizes)
        writer.sync()
    return records


def write_log(
    directory: Path, groups: Sequence[Sequence[int]], segment_bytes: int = SEGMENT_BYTES
) -> list[Read]:
    """Make a log of groups of records and close it."""
    writer = open_log(directory, segment_bytes=segment_bytes).writer
    records = append_groups(writer, groups)
    writer.close()
    return records


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.wal"))


def contents(directory: Path) -> dict[str, bytes]:
    """Give all files of a log but the spare, which holds nothing."""
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != "spare.tmp"}


def room_for(sizes: Sequence[int]) -> int:
    """Tell the size of a segment that payloads of these sizes fill to the last byte."""
    return SEGMENT_HEADER.size + sum(map(record_bytes, sizes)) + SEAL_BYTES
