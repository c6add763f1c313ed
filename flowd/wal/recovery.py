"""Brings a log back after any end of the process or the machine, and hands out its writer.

Every segment is read and checked, one at a time, before anything is changed. Then, in the last
segment only: a torn tail is copied aside and cut off, and the records that nothing proves to be on
stable storage are written again in place, the same bytes, and synced, because a page cache may show
what the disk never got. Run again, wherever it was stopped, it comes to the same bytes. Damage that
is no torn tail is left exactly as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowd.errors import TornTail, WalError, WalFull, WalPoisoned
from flowd.filesystem import File, FileSystem, write_atomically
from flowd.wal.format import SEAL_BYTES, LogIdentity, LogRecord
from flowd.wal.reader import SegmentReader, corruption, written_end
from flowd.wal.segment import (
    TEMPORARY_SUFFIX,
    LiveSegment,
    OpenSegment,
    is_out_of_space,
    list_segments,
    segment_name,
)
from flowd.wal.writer import LogWriter


@dataclass(frozen=True, slots=True)
class LogRecovery:
    """A log that was recovered.

    Attributes:
        writer: ready for the next record; all records before it are on stable storage.
        records: how many were replayed.
        torn_bytes: how long the torn tail was that was cut off, 0 for none.
        broken_copy: where its bytes were put.
    """

    writer: LogWriter
    records: int
    torn_bytes: int
    broken_copy: Path | None


def recover_log(
    files: FileSystem,
    directory: Path,
    identity: LogIdentity,
    *,
    from_lsn: int,
    proven_lsn: int,
    segment_bytes: int,
    new_segment_id: Callable[[], int],
    replay: Callable[[LogRecord], None],
) -> LogRecovery:
    """Check a whole log, replay its end, repair a torn tail, and open it for writing.

    Args:
        files: the disk.
        directory: the log's own, made when it is missing.
        identity: what the segments must say they belong to.
        from_lsn: the first record to replay, 1 or more; those below it are checked all the same.
        proven_lsn: the highest LSN known to have been synced: that of any manifest or block.
        segment_bytes: how large segments are made.
        new_segment_id: gives a random number, 0 … 2**64 - 1, for each segment.
        replay: called with each record in order, before it is known whether all can be read; a
            record's payload keeps its whole segment in memory for as long as it is held.

    Returns:
        The writer and what was found. Where there is no room for another segment it is returned all
        the same, with `has_room` False.

    Raises:
        WalCorruption: synced records are damaged or missing; no segment was changed.
        WalFull: there is no room for the copy of a torn tail, which was left where it is.
        WalPoisoned: a write or sync failed; the process must exit.
        WalError: a segment could not be read.
    """
    with _writing(directory):
        files.make_dir(directory)
        for name in files.list_dir(directory):
            if name.endswith(TEMPORARY_SUFFIX):
                files.unlink(directory / name)
    log = _LogReading(files, directory, identity, from_lsn, max(proven_lsn, from_lsn - 1))
    log.read(replay)
    broken_copy = current = None
    if log.last is not None:
        broken_copy = _keep_torn_tail(files, log.last)
        current = _restore(files, log.last, segment_bytes)
    try:
        with _writing(directory):
            # A name that the last process gave may not be durable yet.
            files.sync_dir(directory)
        writer = LogWriter(
            files,
            directory,
            identity,
            segment_bytes=segment_bytes,
            new_segment_id=new_segment_id,
            next_lsn=log.next_lsn,
            segments=log.segments,
            current=current,
        )
        if writer.spare_is_due:
            writer.prepare_spare()
    except BaseException:
        if current is not None:
            current.file.close()
        raise
    torn_bytes = log.last.torn_bytes if log.last is not None else 0
    return LogRecovery(writer, log.replayed, torn_bytes, broken_copy)


@dataclass(frozen=True, slots=True)
class _LastSegment:
    """The last segment as it was read, before anything is repaired."""

    live: LiveSegment
    reader: SegmentReader
    content: bytes
    torn_bytes: int


class _LogReading:
    """Reads all segments in order; changes nothing."""

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        identity: LogIdentity,
        from_lsn: int,
        proven_lsn: int,
    ) -> None:
        self._files = files
        self._directory = directory
        self._identity = identity
        self._from_lsn = from_lsn
        self._proven_lsn = proven_lsn
        self.next_lsn = from_lsn
        self.replayed = 0
        self.segments: list[LiveSegment] = []
        self.last: _LastSegment | None = None

    def read(self, replay: Callable[[LogRecord], None]) -> None:
        first_lsns = list_segments(self._files, self._directory)
        if not first_lsns:
            if self._proven_lsn:
                raise corruption(
                    self._directory,
                    0,
                    f"there is no segment, but LSN {self._proven_lsn} was synced",
                )
            return
        if first_lsns[0] > self._from_lsn:
            raise corruption(
                self._directory,
                0,
                f"the log starts at LSN {first_lsns[0]}, but from {self._from_lsn} on it is needed",
            )
        self.next_lsn = first_lsns[0]
        for first_lsn in first_lsns:
            self._read_segment(first_lsn, replay, last=first_lsn == first_lsns[-1])

    def _read_segment(
        self, first_lsn: int, replay: Callable[[LogRecord], None], *, last: bool
    ) -> None:
        path = self._directory / segment_name(first_lsn)
        if first_lsn != self.next_lsn:
            raise corruption(
                path, 0, f"the segment starts where LSN {self.next_lsn} belongs: one is missing"
            )
        try:
            content = self._files.read_bytes(path)
        except OSError as error:
            raise WalError(f"{path}: cannot be read: {error}") from error
        reader = SegmentReader(
            path, content, self._identity, first_lsn, last=last, proven_lsn=self._proven_lsn
        )
        torn_bytes = 0
        try:
            for record in reader:
                if record.lsn >= self._from_lsn:
                    replay(record)
                    self.replayed += 1
        except TornTail:
            torn_bytes = written_end(content, reader.offset) - reader.offset
        self.next_lsn = reader.next_lsn
        live = LiveSegment(path, first_lsn, reader.offset)
        self.segments.append(live)
        if last:
            self.last = _LastSegment(live, reader, content, torn_bytes)


def _keep_torn_tail(files: FileSystem, last: _LastSegment) -> Path | None:
    """Copy a torn tail aside, durably; a copy of the same bytes is enough, another one is kept."""
    if not last.torn_bytes:
        return None
    offset = last.reader.offset
    tail = last.content[offset : offset + last.torn_bytes]
    name = f"{last.live.path.name}.broken-{offset}"
    path, copies = last.live.path.with_name(name), 1
    with _writing(path):
        while files.exists(path):
            if files.read_bytes(path) == tail:
                files.sync_dir(path.parent)
                return path
            copies += 1
            path = path.with_name(f"{name}.{copies}")
        try:
            write_atomically(files, path, [tail])
        except OSError as error:
            if not is_out_of_space(error):
                raise
            raise WalFull(
                f"{path}: no room for a copy of {len(tail):,} torn bytes; nothing was cut off,"
                " free some space and start again"
            ) from error
    return path


def _restore(files: FileSystem, last: _LastSegment, segment_bytes: int) -> OpenSegment | None:
    """Make the last segment whole and durable; give it open for writing, unless it is sealed."""
    reader, live = last.reader, last.live
    with _writing(live.path):
        file = files.open(live.path, writable=True)
        try:
            capacity_bytes = _restore_file(file, last, segment_bytes)
        except BaseException:
            file.close()
            raise
        if reader.sealed:
            file.close()
            return None
    return OpenSegment(live, file, reader.segment_id, capacity_bytes, reader.records)


def _restore_file(file: File, last: _LastSegment, segment_bytes: int) -> int:
    """Cut the torn tail off, write again what is not proven, sync; give what is allocated."""
    reader, size_bytes = last.reader, len(last.content)
    end = capacity_bytes = min(reader.offset, size_bytes)
    if last.torn_bytes:
        file.truncate(end)
    if not reader.sealed:
        wanted_bytes = size_bytes
        if last.torn_bytes or end + SEAL_BYTES > size_bytes:
            wanted_bytes = max(size_bytes, segment_bytes, reader.offset + SEAL_BYTES)
        try:
            # Asked for even where nothing was cut: a copy from a backup may have holes.
            file.allocate(wanted_bytes)
            capacity_bytes = wanted_bytes
        except OSError as error:
            if not is_out_of_space(error):
                raise
    start = reader.unproven_offset()
    if start < end:
        file.write(start, [memoryview(last.content)[start:end]])
    file.sync()
    return capacity_bytes


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WalPoisoned(
            f"{path}: recovery could not write ({error}); a restart tries again"
        ) from (error)
