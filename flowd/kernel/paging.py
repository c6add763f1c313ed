"""Pages: rows of one table in key order, filtered and grouped, as frames.

Rows told apart by all members come straight from `row_order`, at the cost of the page. A coarser
group is added up over the whole table for each page: simple, and right for the few rows that such
an answer has.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

from flowd.flow import COUNTER_MAX, RowKey
from flowd.kernel.frame import encode_frame, number_names
from flowd.kernel.interning import ReferenceNames, RowIds, utf8
from flowd.kernel.row_order import RowNames, RowOrder
from flowd.query import Filters

_NAME_MEMBERS: Final = Filters._fields  # src_app, dest_app, vpc_id: the order of RowIds too
_SCAN_ROWS: Final = 4_096


class Rows(NamedTuple):
    """A table's rows in columns; the table appends to all three."""

    keys: list[RowIds]
    tx: "array[int]"
    rx: "array[int]"


class Pager:
    """Answers queries from a table's rows.

    Args:
        names: what the ids stand for.
        rows: the table's own columns, which grow.
    """

    def __init__(self, names: ReferenceNames, rows: Rows) -> None:
        self._names = names
        self._rows = rows
        self._order = RowOrder(names.strings, rows.keys)

    def page(
        self, hour: int, filters: Filters, group: Sequence[str], after: RowKey | None, limit: int
    ) -> tuple[bytes, bool]:
        """See `interface.Table.page`."""
        kept = [member in group for member in _NAME_MEMBERS]
        label = 0
        if "hour" in group:
            label = hour
            if after is not None and after.hour != hour:
                if after.hour > hour:
                    return self.encode([], hour, [], [], kept), True
                after = None
        behind = None if after is None else _names_of(after, kept)
        if all(kept):
            keys, tx, rx = self._find_rows(filters, behind, limit + 1)
        else:
            keys, tx, rx = self._find_groups(filters, kept, behind, limit + 1)
        page = self.encode(keys[:limit], label, tx[:limit], rx[:limit], kept)
        return page, len(keys) <= limit

    def encode(
        self,
        keys: Sequence[RowIds],
        hour: int,
        tx: Sequence[int],
        rx: Sequence[int],
        kept: Sequence[bool] = (True, True, True),
    ) -> bytes:
        """Encode rows of one hour, in their order, with the name columns that are kept."""
        if all(kept):
            ids, numbers = number_names(chain.from_iterable(keys))
        else:
            places = [place for place, keep in enumerate(kept) if keep]
            ids, numbers = number_names(key[place] for key in keys for place in places)
        names = list(map(self._names.strings.__getitem__, ids))
        starts = iter(range(3))
        columns = [numbers[next(starts) :: sum(kept)] if keep else None for keep in kept]
        return encode_frame(names, [(hour, len(keys))] if keys else [], columns, tx, rx)

    def _find_rows(
        self, filters: Filters, behind: RowNames | None, limit: int
    ) -> tuple[list[RowIds], list[int], list[int]]:
        size = _SCAN_ROWS if any(filters) else min(limit, _SCAN_ROWS)
        found: list[int] = []
        for run in self._filter(self._order.runs(behind, size), filters):
            found += run
            if len(found) >= limit:
                break
        del found[limit:]
        keys, tx, rx = self._rows
        return [keys[row] for row in found], [tx[row] for row in found], [rx[row] for row in found]

    def _find_groups(
        self, filters: Filters, kept: Sequence[bool], behind: RowNames | None, limit: int
    ) -> tuple[list[RowIds], list[int], list[int]]:
        keys, tx, rx = self._rows
        src_kept, dest_kept, vpc_kept = kept
        tx_sums: defaultdict[RowIds, int] = defaultdict(int)
        rx_sums: defaultdict[RowIds, int] = defaultdict(int)
        for run in self._filter([range(len(keys))], filters):
            for row in run:
                src, dest, vpc = keys[row]
                # A member that is left out has the id -1, the same for all.
                key = (src if src_kept else -1, dest if dest_kept else -1, vpc if vpc_kept else -1)
                tx_sums[key] += tx[row]
                rx_sums[key] += rx[row]
        named = ((self._group_names(key), key) for key in tx_sums)
        found = sorted(pair for pair in named if behind is None or pair[0] > behind)[:limit]
        return (
            [key for _, key in found],
            [min(tx_sums[key], COUNTER_MAX) for _, key in found],
            [min(rx_sums[key], COUNTER_MAX) for _, key in found],
        )

    def _group_names(self, key: RowIds) -> RowNames:
        src, dest, vpc = (b"" if name < 0 else self._names.strings[name] for name in key)
        return vpc, src, dest

    def _filter(self, runs: Iterable[Sequence[int]], filters: Filters) -> Iterator[Sequence[int]]:
        keys = self._rows.keys
        allowed = [
            (place, {self._names.find(name) for name in names})
            for place, names in enumerate(filters)
            if names
        ]
        for run in runs:
            for place, ids in allowed:
                run = [row for row in run if keys[row][place] in ids]
            yield run


def _names_of(key: RowKey, kept: Sequence[bool]) -> RowNames:
    names = (key.src_app, key.dest_app, key.vpc_id)
    src, dest, vpc = (utf8(name) if keep else b"" for name, keep in zip(names, kept, strict=True))
    return vpc, src, dest
