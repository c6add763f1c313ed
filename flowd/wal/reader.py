"""Reads one segment's bytes, record by record, and tells how it ends.

Pure: works on bytes in memory, changes nothing. Every record is checked before it is handed out. A
segment ends with a seal, or with zeros where nothing was written yet. Anything else is damage, and
the reader says which kind: `WalCorruption` where something proves that the damaged record had been
synced, `TornTail` where nothing does. Bit rot in the very last group of records therefore looks
like a torn tail. What counts as proof is in `docs/wal-format.md`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flowd.errors import TornTail, WalCorruption
from flowd.wal.format import (
    CHECKSUM,
    RECORD_HEADER,
    RECORD_SEGMENT_ID_OFFSET,
    SEAL_PAYLOAD,
    SEGMENT_HEADER,
    LogIdentity,
    LogRecord,
    RecordHeader,
    RecordType,
    SegmentHeader,
    checksum,
    record_bytes,
)

WHAT_TO_DO: Final = (
    "This shard does not start and nothing was changed: restore it from a backup, or see"
    " 'When a shard refuses its log' in docs/wal-format.md"
)

_TYPES: Final = {int(record_type): record_type for record_type in RecordType}
_ZEROS: Final = bytes(1 << 20)


class SegmentReader:
    """Iterate over it once for its records; the attributes tell how far that came.

    Args:
        path: the segment, for error messages.
        content: all of its bytes.
        identity: what it must say it belongs to.
        first_lsn: what its name says.
        last: whether no later segment exists; only then a torn tail is possible.
        proven_lsn: the highest LSN known from elsewhere to have been synced, 0 for none.

    Attributes:
        segment_id: from its header.
        offset: the end of the last sound record.
        next_lsn: one above that record's LSN.
        proven_lsn: the highest LSN known to have been synced, from records too.
        records: how many were read.
        sealed: whether a seal was reached.

    Raises:
        WalCorruption: the header is damaged or another one's; it was durable before the segment got
            its name.
    """

    def __init__(
        self,
        path: Path,
        content: bytes,
        identity: LogIdentity,
        first_lsn: int,
        *,
        last: bool,
        proven_lsn: int,
    ) -> None:
        self._path = path
        self._content = content
        self._first_lsn = first_lsn
        self._last = last
        try:
            header = SegmentHeader.unpack(content)
        except ValueError as error:
            raise corruption(path, 0, str(error)) from error
        if header.identity != identity:
            raise corruption(
                path, 0, f"the segment belongs to {header.identity}; expected was {identity}"
            )
        if header.first_lsn != first_lsn:
            raise corruption(path, 0, f"the segment says that it starts at LSN {header.first_lsn}")
        self.segment_id = header.segment_id
        self.offset = SEGMENT_HEADER.size
        self.next_lsn = first_lsn
        self.proven_lsn = proven_lsn
        self.records = 0
        self.sealed = False

    def __iter__(self) -> Iterator[LogRecord]:
        """Give the records in order.

        Raises:
            TornTail: at `offset`, all before it is sound and is all that can be demanded.
            WalCorruption: what was synced is damaged or missing.
        """
        content, view = self._content, memoryview(self._content)
        while (header := self._sound_record(self.offset)) is not None:
            _, payload_bytes, type_number, lsn, _, synced_lsn, shards = header
            record_type = _TYPES.get(type_number)
            if lsn != self.next_lsn:
                raise self._corruption(f"a record with LSN {lsn} where {self.next_lsn} belongs")
            if record_type is None:
                raise self._corruption(
                    f"a sound record of type {type_number}, which this flowd does not know"
                )
            start = self.offset + RECORD_HEADER.size
            stop = start + payload_bytes
            if record_type is RecordType.SEAL:
                self._check_seal(content[start:stop])
            if synced_lsn > self.proven_lsn:
                self.proven_lsn = synced_lsn
            self.offset += record_bytes(payload_bytes)
            if record_type is RecordType.SEAL:
                self.sealed = True
                break
            self.next_lsn = lsn + 1
            self.records += 1
            yield LogRecord(lsn, record_type, shards, view[start:stop])
        self._check_end()

    def unproven_offset(self) -> int:
        """Tell where the records start that nothing proves to be on stable storage.

        Call it after the iteration. The header counts as unproven where no record of the segment is
        proven, and so does a seal.
        """
        if self.proven_lsn < self._first_lsn:
            return 0
        offset = SEGMENT_HEADER.size
        for _ in range(min(self.proven_lsn + 1, self.next_lsn) - self._first_lsn):
            header = RecordHeader._make(RECORD_HEADER.unpack_from(self._content, offset))
            offset += record_bytes(header.payload_bytes)
        return offset

    def _sound_record(self, offset: int) -> RecordHeader | None:
        """Read the header of the record at `offset`; None when no sound one of this segment is."""
        content = self._content
        start = offset + RECORD_HEADER.size
        if start > len(content):
            return None
        fields = RECORD_HEADER.unpack_from(content, offset)
        stop = start + fields[1]
        # The length is not to be trusted before the checksum is, only bounded.
        if (
            fields[4] != self.segment_id
            or stop > len(content)
            or checksum(content[offset + CHECKSUM.size : stop]) != fields[0]
        ):
            return None
        return RecordHeader._make(fields)

    def _check_seal(self, payload: bytes) -> None:
        if len(payload) != SEAL_PAYLOAD.size:
            raise self._corruption(f"a seal with {len(payload)} bytes")
        (records,) = SEAL_PAYLOAD.unpack(payload)
        if records != self.records:
            raise self._corruption(f"a seal over {records} records behind {self.records}")

    def _check_end(self) -> None:
        if not self.sealed:
            end = written_end(self._content, self.offset)
            if end > self.offset:
                raise self._damage(end)
            if not self._last:
                raise self._corruption("the segment ends without a seal, and a later one exists")
        if self._last and self.proven_lsn >= self.next_lsn:
            raise self._corruption(
                f"the log ends before LSN {self.next_lsn}, but LSN {self.proven_lsn} was synced"
            )

    def _damage(self, end: int) -> TornTail | WalCorruption:
        """Tell a torn tail from corruption, for damage at `offset` with data up to `end`."""
        reason = f"no sound record where LSN {self.next_lsn} belongs"
        if not self._last:
            return self._corruption(f"{reason}, and a later segment exists")
        proven_lsn = max(self.proven_lsn, self._synced_behind(end))
        if proven_lsn >= self.next_lsn:
            return self._corruption(f"{reason}, and LSN {proven_lsn} was synced")
        return TornTail(str(self._path), self.offset, reason)

    def _synced_behind(self, end: int) -> int:
        """Find the highest synced LSN that any sound record behind the damage carries."""
        segment_id = self.segment_id.to_bytes(8, "little")
        synced_lsn = 0
        search = self.offset + RECORD_SEGMENT_ID_OFFSET
        while (found := self._content.find(segment_id, search, end)) >= 0:
            search = found + 1
            start = found - RECORD_SEGMENT_ID_OFFSET
            if start % 8 == 0 and (header := self._sound_record(start)) is not None:
                synced_lsn = max(synced_lsn, header.synced_lsn)
                search = start + record_bytes(header.payload_bytes)
        return synced_lsn

    def _corruption(self, reason: str) -> WalCorruption:
        return corruption(self._path, self.offset, reason)


def corruption(path: Path, offset: int, reason: str) -> WalCorruption:
    """Make the error for damage that flowd does not repair, with what the operator can do."""
    return WalCorruption(str(path), offset, f"{reason}. {WHAT_TO_DO}")


def written_end(content: bytes, offset: int) -> int:
    """Tell where the zeros begin that end `content`; `offset` when only zeros follow it.

    Compares megabytes, because the last segment is mostly zeros.
    """
    stop = len(content)
    while stop > offset:
        start = max(offset, stop - len(_ZEROS))
        chunk = content[start:stop]
        if chunk != _ZEROS[: len(chunk)]:
            return start + len(chunk.rstrip(b"\0"))
        stop = start
    return offset
