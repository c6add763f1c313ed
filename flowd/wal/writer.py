"""Appends records to a log, syncs it, and starts new segments.

Invariants: records are numbered without a gap; `synced_lsn` moves only after an fdatasync that was
started with those records written; a segment is synced, sealed and synced again before the next one
gets its name. A failed write or sync poisons: the kernel may have dropped the dirty pages and would
call a second sync a success, so that this writer does nothing more, ever. Only the making of a
segment may run out of space and be tried again. All calls come from one thread.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowd.errors import WalFull, WalPoisoned
from flowd.filesystem import FileSystem
from flowd.wal.format import (
    PAYLOAD_BYTES_MAX,
    SEAL_BYTES,
    SEGMENT_HEADER,
    LogEntry,
    LogIdentity,
    SegmentHeader,
    pack_record,
    record_bytes,
    seal_entry,
)
from flowd.wal.segment import LiveSegment, OpenSegment, SpareSegment, is_out_of_space


class LogWriter:
    """The writing end of a log; `recover_log` makes it.

    Args:
        files: the disk.
        directory: where the segments are.
        identity: what new segments say they belong to.
        segment_bytes: how large a segment is made, if its first record needs no more.
        new_segment_id: gives a random number, 0 … 2**64 - 1, for each segment.
        next_lsn: the first record's; all before it are on stable storage.
        segments: the segments there are, oldest first.
        current: the last one of those, if it is not sealed.

    Attributes:
        written_lsn: the last record that was written.
        synced_lsn: the last record that is on stable storage.
        has_room: False from the moment that space for a segment could not be had until it could;
            what fits the current segment is written all the same.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        identity: LogIdentity,
        *,
        segment_bytes: int,
        new_segment_id: Callable[[], int],
        next_lsn: int,
        segments: Sequence[LiveSegment],
        current: OpenSegment | None,
    ) -> None:
        self._files = files
        self._directory = directory
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._new_segment_id = new_segment_id
        self._segments = list(segments)
        self._current = current
        self._spare: SpareSegment | None = None
        self._poison: str | None = None
        self._closed = False
        self.written_lsn = next_lsn - 1
        self.synced_lsn = next_lsn - 1
        self.has_room = True

    @property
    def next_lsn(self) -> int:
        """The LSN of the next record to append."""
        return self.written_lsn + 1

    @property
    def size_bytes(self) -> int:
        """What the segments hold, without the space that is only reserved."""
        return sum(segment.used_bytes for segment in self._segments)

    @property
    def spare_is_due(self) -> bool:
        """Whether less than half of the current segment is left and there is no spare."""
        if self._spare is not None:
            return False
        current = self._current
        return current is None or current.live.used_bytes * 2 > current.capacity_bytes

    def append(self, entries: Sequence[LogEntry]) -> int:
        """Write records; they are durable after the next `sync`.

        Args:
            entries: numbered one behind the other from `next_lsn`.

        Returns:
            How many bytes they take in the log.

        Raises:
            WalFull: no segment could be made for the record after `written_lsn`. Those up to there
                are written; append the others again when there is space.
            WalPoisoned: the disk failed; the process must exit.
            ValueError: an LSN is out of turn or a payload is too long; nothing was written.
        """
        self._check()
        payload_sizes = self._payload_sizes(entries)
        written_bytes = start = 0
        while start < len(entries):
            stop, run_bytes, room_bytes = start, 0, self._room_bytes()
            while stop < len(entries):
                size_bytes = record_bytes(payload_sizes[stop])
                if run_bytes + size_bytes > room_bytes:
                    break
                run_bytes += size_bytes
                stop += 1
            if stop == start:
                self._make_room(record_bytes(payload_sizes[start]))
                continue
            self._write(entries[start:stop], payload_sizes[start:stop])
            written_bytes += run_bytes
            start = stop
        # Once there was no room it is the owner who tries again, not every append.
        if self.has_room and self.spare_is_due:
            self.prepare_spare()
        return written_bytes

    def sync(self) -> None:
        """Make all records up to the present `written_lsn` durable; that becomes `synced_lsn`.

        Raises:
            WalPoisoned: the disk failed; the process must exit.
        """
        self._check()
        lsn = self.written_lsn
        if self._current is None or self.synced_lsn == lsn:
            return
        with self._poisoning("sync", self._current.live.path):
            self._current.file.sync()
        self.synced_lsn = lsn

    def prepare_spare(self) -> bool:
        """See to it that the next rotation finds its space reserved.

        Returns:
            `has_room`: False when the disk is full.

        Raises:
            WalPoisoned: the disk failed; the process must exit.
        """
        self._check()
        try:
            if self._current is not None and self._is_short(self._current):
                self._grow(self._current, self._segment_bytes)
            self._take_spare(self._segment_bytes)
        except WalFull:
            return False
        self.has_room = True
        return True

    def drop_before(self, lsn: int) -> None:
        """Remove the segments that hold nothing but records below `lsn`; the last one stays.

        Raises:
            WalPoisoned: the disk failed; the process must exit.
        """
        self._check()
        while len(self._segments) > 1 and self._segments[1].first_lsn <= lsn:
            path = self._segments[0].path
            with self._poisoning("removal", path):
                self._files.unlink(path)
                # One by one, oldest first: no crash may leave a hole behind.
                self._files.sync_dir(self._directory)
            del self._segments[0]

    def seal(self) -> None:
        """End the current segment before a clean end, and give the space behind the seal back.

        Every record is proven then: damage to the last ones cannot pass for a torn tail.

        Raises:
            WalPoisoned: the disk failed; the process must exit.
        """
        self._check()
        current = self._current
        # An empty one stays as it is: the next one would start at the same LSN.
        if current is not None and current.records and not self._is_short(current):
            self._seal(give_back=True)

    def close(self) -> None:
        """Sync what is written and let go of the files; a poisoned writer just lets go.

        Raises:
            WalPoisoned: the disk failed.
        """
        if self._closed:
            return
        try:
            if self._poison is None:
                self.sync()
                if self._spare is not None:
                    with self._poisoning("removal", self._directory):
                        self._spare.discard()
        finally:
            self._closed = True
            if self._spare is not None:
                self._spare.close()
            if self._current is not None:
                self._current.file.close()

    def _check(self) -> None:
        if self._poison is not None:
            raise WalPoisoned(self._poison)
        if self._closed:
            raise ValueError("the log is closed")

    def _payload_sizes(self, entries: Sequence[LogEntry]) -> list[int]:
        sizes = []
        for lsn, entry in enumerate(entries, self.next_lsn):
            size_bytes = sum(map(len, entry.payload))
            if entry.lsn != lsn:
                raise ValueError(f"a record with LSN {entry.lsn} where {lsn} is next")
            if size_bytes > PAYLOAD_BYTES_MAX:
                raise ValueError(f"a payload of {size_bytes} bytes; {PAYLOAD_BYTES_MAX} fit")
            sizes.append(size_bytes)
        return sizes

    def _room_bytes(self) -> int:
        """Tell how much the current segment can take and still be sealed."""
        current = self._current
        if current is None:
            return 0
        return current.capacity_bytes - current.live.used_bytes - SEAL_BYTES

    def _is_short(self, current: OpenSegment) -> bool:
        """Tell whether not even a seal fits: recovery cut a tail and could not reserve again."""
        return current.live.used_bytes + SEAL_BYTES > current.capacity_bytes

    def _make_room(self, size_bytes: int) -> None:
        current = self._current
        # An empty segment grows: the next one would start at the same LSN and have the same name.
        if current is not None and (self._is_short(current) or current.records == 0):
            self._grow(current, current.live.used_bytes + size_bytes + SEAL_BYTES)
        else:
            self._rotate(SEGMENT_HEADER.size + size_bytes + SEAL_BYTES)

    def _write(self, entries: Sequence[LogEntry], payload_sizes: Sequence[int]) -> None:
        """Write records that fit the current segment, at one go."""
        current = self._current
        assert current is not None
        buffers: list[bytes | memoryview] = []
        for entry, payload_bytes in zip(entries, payload_sizes, strict=True):
            pack_record(buffers, entry, payload_bytes, current.segment_id, self.synced_lsn)
        with self._poisoning("write", current.live.path):
            current.file.write(current.live.used_bytes, buffers)
        current.live.used_bytes += sum(map(record_bytes, payload_sizes))
        current.records += len(entries)
        self.written_lsn = entries[-1].lsn

    def _rotate(self, need_bytes: int) -> None:
        """Seal the current segment and start the next, which has room for `need_bytes`."""
        spare = self._take_spare(max(self._segment_bytes, need_bytes))
        header = SegmentHeader(self._identity, self._new_segment_id(), self.next_lsn)
        with self._making_segment():
            try:
                spare.write_header(header)
            except OSError:
                self._spare = None
                spare.discard()
                raise
        self._seal()
        with self._making_segment():
            current = spare.put_in_force(header)
        self._spare = None
        self._current = current
        self._segments.append(current.live)
        with self._poisoning("sync of the directory", current.live.path):
            self._files.sync_dir(self._directory)
        self.has_room = True

    def _seal(self, *, give_back: bool = False) -> None:
        """End the current segment; its records are synced first, so that a seal proves them."""
        current = self._current
        if current is None:
            return
        self.sync()
        buffers: list[bytes | memoryview] = []
        entry = seal_entry(self.next_lsn, current.records)
        pack_record(buffers, entry, len(entry.payload[0]), current.segment_id, self.synced_lsn)
        with self._poisoning("seal", current.live.path):
            current.file.write(current.live.used_bytes, buffers)
            if give_back:
                current.file.truncate(current.live.used_bytes + SEAL_BYTES)
            current.file.sync()
        current.live.used_bytes += SEAL_BYTES
        current.file.close()
        self._current = None

    def _take_spare(self, size_bytes: int) -> SpareSegment:
        """Give a spare with at least that much space."""
        with self._making_segment():
            if self._spare is None:
                self._spare = SpareSegment(self._files, self._directory, size_bytes)
            self._spare.grow(size_bytes)
        return self._spare

    def _grow(self, current: OpenSegment, size_bytes: int) -> None:
        size_bytes = max(size_bytes, self._segment_bytes, current.live.used_bytes + SEAL_BYTES)
        with self._making_segment():
            current.file.allocate(size_bytes)
        current.capacity_bytes = size_bytes

    @contextmanager
    def _making_segment(self) -> Iterator[None]:
        """Raise WalFull when it is space that is missing, else poison."""
        with self._poisoning("making of a segment", self._directory):
            try:
                yield
            except OSError as error:
                if not is_out_of_space(error):
                    raise
                self.has_room = False
                raise WalFull(
                    f"{self._directory}: no room for a log segment ({error.strerror}); free at"
                    f" least {self._segment_bytes:,} bytes, and flowd goes on by itself"
                ) from error

    @contextmanager
    def _poisoning(self, action: str, path: Path) -> Iterator[None]:
        try:
            yield
        except WalFull:
            raise
        except BaseException as error:
            # Whatever cut a write short, nobody knows what is in the file now.
            self._poison = (
                f"{path}: {action} failed ({error}); nothing more is acknowledged, a restart finds"
                " out what is on disk"
            )
            if isinstance(error, OSError):
                raise WalPoisoned(self._poison) from error
            raise
