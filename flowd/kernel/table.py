"""The rows of one bucket: key → two sums, in the order in which the keys first came.

A row's place never changes, so that a block is the same rows at every checkpoint, each time with
newer sums. Rows loaded from a block remember the LSN it was taken at: replay leaves them alone up
to there. `paging` answers in key order from the same rows.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from flowd.errors import FrameError
from flowd.flow import COUNTER_MAX, RowKey
from flowd.kernel.frame import Frame, FrameSlice, decode_frame
from flowd.kernel.hashing import DIGEST_MASK, prefixed, row_digest
from flowd.kernel.interface import Slice, Sums
from flowd.kernel.interning import ReferenceNames, RowIds
from flowd.kernel.paging import Pager, Rows
from flowd.query import Filters

BLOCK_ROWS: Final = 65_536


class ReferenceTable:
    """See `interface.Table`.

    Args:
        names: the shard's names; the table interns into them.
    """

    def __init__(self, names: ReferenceNames) -> None:
        self._names = names
        self._places: dict[RowIds, int] = {}
        self._rows = Rows(keys=[], tx=array("Q"), rx=array("Q"))
        self._pager = Pager(names, self._rows)
        # The exact sums over all rows: as long as these fit, no row can saturate.
        self._tx_total = 0
        self._rx_total = 0
        self._saturations = 0
        self._digest: int | None = 0
        # The rows before loaded_stops[i] and behind the stop before it came from a block with
        # loaded_lsns[i].
        self._loaded_stops: list[int] = []
        self._loaded_lsns: list[int] = []
        self._loaded_lsn_max = -1

    @property
    def rows(self) -> int:
        """See `interface.Table.rows`."""
        return len(self._rows.keys)

    @property
    def blocks(self) -> int:
        """See `interface.Table.blocks`."""
        return -(-self.rows // BLOCK_ROWS)

    @property
    def saturations(self) -> int:
        """See `interface.Table.saturations`."""
        return self._saturations

    def apply(self, part: Slice, lsn: int) -> int:
        """See `interface.Table.apply`."""
        part = _own(part)
        frame, span = part.frame, part.span
        keys: Sequence[RowIds] = self._names.row_keys(frame)[span]
        tx, rx = frame.tx[span], frame.rx[span]
        if lsn <= self._loaded_lsn_max:
            missing = [
                flow for flow in zip(keys, tx, rx, strict=True) if not self._has(flow[0], lsn)
            ]
            if not missing:
                return 0
            keys, tx, rx = zip(*missing, strict=True)
        return self._add(keys, tx, rx)

    def count_new(self, part: Slice) -> int:
        """See `interface.Table.count_new`."""
        part = _own(part)
        keys = self._names.find_row_keys(part.frame)[part.span]
        return len(set(keys).difference(self._places))

    def page(
        self, hour: int, filters: Filters, group: Sequence[str], after: RowKey | None, limit: int
    ) -> tuple[bytes, bool]:
        """See `interface.Table.page`."""
        return self._pager.page(hour, filters, group, after, limit)

    def dump(self, block: int) -> bytes:
        """See `interface.Table.dump`."""
        if not 0 <= block < self.blocks:
            raise IndexError(f"block {block} of {self.blocks}")
        span = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        rows = self._rows
        return self._pager.encode(rows.keys[span], 0, rows.tx[span], rows.rx[span])

    def load(self, block: bytes, lsn: int) -> None:
        """See `interface.Table.load`."""
        frame = decode_frame(block)
        self._check_block(frame)
        before = self.rows
        if self._loaded_stops and before > self._loaded_stops[-1]:
            self._note_loaded(before, -1)  # rows that were applied in between
        keys = self._names.row_keys(frame)
        self._places.update(zip(keys, range(before, before + len(keys)), strict=True))
        self._rows.keys.extend(keys)
        self._rows.tx.extend(frame.tx)
        self._rows.rx.extend(frame.rx)
        self._tx_total += sum(frame.tx)
        self._rx_total += sum(frame.rx)
        self._digest = None
        self._note_loaded(self.rows, lsn)

    def sums(self) -> Sums:
        """See `interface.Table.sums`."""
        return Sums(self.rows, min(self._tx_total, COUNTER_MAX), min(self._rx_total, COUNTER_MAX))

    def digest(self) -> int:
        """See `interface.Table.digest`; kept until a row changes."""
        if self._digest is None:
            strings = self._names.strings
            total = 0
            for ids, tx, rx in zip(self._rows.keys, self._rows.tx, self._rows.rx, strict=True):
                key = b"".join([prefixed(strings[name]) for name in ids])
                total += row_digest(key, tx, rx)
            self._digest = total & DIGEST_MASK
        return self._digest

    def _add(self, keys: Sequence[RowIds], tx: Sequence[int], rx: Sequence[int]) -> int:
        tx_total = self._tx_total + sum(tx)
        rx_total = self._rx_total + sum(rx)
        self._digest = None
        if tx_total > COUNTER_MAX or rx_total > COUNTER_MAX:
            return self._add_saturating(keys, tx, rx)
        self._tx_total = tx_total
        self._rx_total = rx_total
        all_keys, tx_sums, rx_sums = self._rows
        place_of = self._places.setdefault
        add_key, add_tx, add_rx = all_keys.append, tx_sums.append, rx_sums.append
        before = rows = len(self._places)
        for key, more_tx, more_rx in zip(keys, tx, rx, strict=True):
            place = place_of(key, rows)
            if place == rows:
                rows += 1
                add_key(key)
                add_tx(more_tx)
                add_rx(more_rx)
            else:
                tx_sums[place] += more_tx
                rx_sums[place] += more_rx
        return rows - before

    def _add_saturating(self, keys: Sequence[RowIds], tx: Sequence[int], rx: Sequence[int]) -> int:
        before = self.rows
        for key, more_tx, more_rx in zip(keys, tx, rx, strict=True):
            place = self._places.setdefault(key, self.rows)
            if place == self.rows:
                self._rows.keys.append(key)
                self._rows.tx.append(0)
                self._rows.rx.append(0)
            self._tx_total += self._saturate(self._rows.tx, place, more_tx)
            self._rx_total += self._saturate(self._rows.rx, place, more_rx)
        return self.rows - before

    def _saturate(self, sums: "array[int]", place: int, more: int) -> int:
        """Add to one sum and give what it grew by."""
        room = COUNTER_MAX - sums[place]
        if more > room:
            self._saturations += 1
            more = room
        sums[place] += more
        return more

    def _has(self, key: RowIds, lsn: int) -> bool:
        """Tell whether a row was loaded with what log record `lsn` did to it."""
        place = self._places.get(key)
        if place is None:
            return False
        block = bisect_right(self._loaded_stops, place)
        return block < len(self._loaded_stops) and self._loaded_lsns[block] >= lsn

    def _note_loaded(self, stop: int, lsn: int) -> None:
        self._loaded_stops.append(stop)
        self._loaded_lsns.append(lsn)
        self._loaded_lsn_max = max(self._loaded_lsn_max, lsn)

    def _check_block(self, frame: Frame) -> None:
        rows = frame.header.rows
        if not frame.complete or [hour for hour, _ in frame.groups] != [0] or rows > BLOCK_ROWS:
            raise FrameError("a frame, but not a block: it wants all columns, hour 0, 65,536 rows")
        if len(set(self._names.find_row_keys(frame)).difference(self._places)) != rows:
            raise FrameError("a block with a row that is there already")


def _own(part: Slice) -> FrameSlice:
    if not isinstance(part, FrameSlice):
        raise TypeError(f"a slice of another kernel: {part!r}")
    return part
