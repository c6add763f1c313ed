"""The rows of a table in key order, kept up as rows are added.

Two sorted lists of row numbers: a long one, and a short one of the rows added since, so that a hot
table is neither sorted nor copied for each page. The short one is merged into the long one when it
has grown to an eighth of it. A row's key never changes, so that what is sorted stays sorted.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, TypeAlias

from flowd.kernel.interning import RowIds

RowNames: TypeAlias = tuple[bytes, bytes, bytes]
"""A row's vpc_id, src_app and dest_app: what rows are sorted by."""

_TAIL_ROWS_MIN: Final = 4_096
_FEW: Final = (
    16  # a binary search costs about as much as sorting this many rows that are nearly sorted
)


class RowOrder:
    """The permutation that sorts a table's rows.

    Args:
        strings: id → name.
        keys: row → its ids; the table's own list, which grows.
    """

    def __init__(self, strings: list[bytes], keys: list[RowIds]) -> None:
        self._strings = strings
        self._keys = keys
        self._sorted = array("I")  # the rows 0 … len - 1
        self._tail = array("I")  # the rows behind those

    def runs(self, after: RowNames | None, size: int) -> Iterator[Sequence[int]]:
        """Give row numbers in key order, behind a key, about `size` at a time.

        The table must not change while this is iterated.
        """
        self._catch_up()
        row, tail_row = 0, 0
        if after is not None:
            row = bisect_right(self._sorted, after, key=self._names)
            tail_row = bisect_right(self._tail, after, key=self._names)
        while tail_row < len(self._tail):
            both = self._sorted[row : row + size] + self._tail[tail_row : tail_row + size]
            # The next `size` rows of either hold the next `size` of both.
            run = sorted(both, key=self._names)[:size]
            from_sorted = sum(number < len(self._sorted) for number in run)
            row += from_sorted
            tail_row += len(run) - from_sorted
            yield run
        while row < len(self._sorted):
            yield self._sorted[row : row + size]
            row += size

    def _names(self, row: int) -> RowNames:
        src, dest, vpc = self._keys[row]
        return self._strings[vpc], self._strings[src], self._strings[dest]

    def _catch_up(self) -> None:
        known = len(self._sorted) + len(self._tail)
        new = range(known, len(self._keys))
        if not new:
            return
        self._tail = self._merge(self._tail, self._sort(new))
        if len(self._tail) > max(_TAIL_ROWS_MIN, len(self._sorted) // 8):
            self._sorted = self._merge(self._sorted, self._tail)
            self._tail = array("I")

    def _merge(self, rows: "array[int]", more: "array[int]") -> "array[int]":
        """Merge two sorted lists: by binary search when one is small against the other."""
        if not rows:
            return more
        if len(more) * _FEW > len(rows):
            return self._sort(rows + more)
        merged = array("I")
        done = 0
        for row in more:
            place = bisect_right(rows, self._names(row), lo=done, key=self._names)
            merged += rows[done:place]
            merged.append(row)
            done = place
        merged += rows[done:]
        return merged

    def _sort(self, rows: Iterable[int]) -> "array[int]":
        """Sort by the names' ranks among the names of these rows: one integer a row to compare."""
        numbers = list(rows)
        keys = [self._keys[row] for row in numbers]
        used = sorted(set(chain.from_iterable(keys)), key=self._strings.__getitem__)
        rank = dict(zip(used, range(len(used)), strict=True))
        base = len(used)
        places = [(rank[vpc] * base + rank[src]) * base + rank[dest] for src, dest, vpc in keys]
        order = sorted(range(len(places)), key=places.__getitem__)
        return array("I", map(numbers.__getitem__, order))
