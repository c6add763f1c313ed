"""Merges sorted pages of several sources to one answer, row by row in key order, as they come.

A row is certain when no source can still send its key or a smaller one: at or below the last key in
hand of every source that has more. Memory holds the pages in hand, one a source if the caller feeds
what is wanted.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from operator import itemgetter
from typing import Final, TypeAlias

from flowd.flow import COUNTER_MAX, RowKey
from flowd.kernel.frame import Frame, decode_frame
from flowd.kernel.rendering import MergedRow, Renderer
from flowd.query import AnswerFormat

_Key: TypeAlias = tuple[int, bytes, bytes, bytes]

_KEY: Final = itemgetter(0)


class _Source:
    """One source: the rows in hand, and whether it has more."""

    def __init__(self) -> None:
        self.rows: list[MergedRow] = []
        self.last = False
        self.fed_to: _Key | None = None

    def take(self, bound: _Key | None) -> list[MergedRow]:
        """Give up the rows at or below a key; None for all."""
        count = len(self.rows)
        if bound is not None:
            count = bisect_right(self.rows, bound, key=_KEY)
        taken = self.rows[:count]
        del self.rows[:count]
        return taken


class ReferenceMerger:
    """See `interface.Merger` and `interface.Kernel.new_merger`."""

    def __init__(
        self, sources: int, answer_format: AnswerFormat, group: Sequence[str], limit: int | None
    ) -> None:
        self._sources = [_Source() for _ in range(sources)]
        self._renderer = Renderer(answer_format, group)
        self._limit = limit
        self._rows = 0
        self._last_key: RowKey | None = None
        self._started = False
        self._done = False
        self._more = False

    @property
    def rows(self) -> int:
        """See `interface.Merger.rows`."""
        return self._rows

    @property
    def done(self) -> bool:
        """See `interface.Merger.done`."""
        return self._done

    @property
    def last_key(self) -> RowKey | None:
        """See `interface.Merger.last_key`."""
        return self._last_key

    @property
    def more(self) -> bool:
        """See `interface.Merger.more`."""
        return self._more

    def wanted(self) -> list[int]:
        """See `interface.Merger.wanted`."""
        if self._done:
            return []
        return [i for i, source in enumerate(self._sources) if not source.last and not source.rows]

    def feed(self, source: int, pages: Sequence[bytes], last: bool) -> None:
        """See `interface.Merger.feed`."""
        decoded = [_decode_rows(page) for page in pages]
        fed = self._sources[source]
        fed.rows.extend(chain.from_iterable(decoded))
        fed.last = last
        if fed.rows:
            fed.fed_to = fed.rows[-1][0]

    def fed_to(self, source: int) -> RowKey | None:
        """See `interface.Merger.fed_to`."""
        key = self._sources[source].fed_to
        return None if key is None else _row_key(key)

    def drain(self) -> bytes:
        """See `interface.Merger.drain`."""
        if self._done:
            return b""
        answer = [] if self._started else [self._renderer.head]
        self._started = True
        rows = self._take_certain()
        if self._limit is not None and len(rows) > self._limit - self._rows:
            del rows[self._limit - self._rows :]
            self._more = True
        if rows:
            answer.append(self._renderer.rows(rows, first=self._rows == 0))
            self._rows += len(rows)
            self._last_key = _row_key(rows[-1][0])
        if self._is_complete():
            answer.append(self._renderer.end(empty=self._rows == 0))
            self._done = True
        return b"".join(answer)

    def _take_certain(self) -> list[MergedRow]:
        open_sources = [source for source in self._sources if not source.last]
        if not all(source.rows for source in open_sources):
            return []
        bound = min((source.rows[-1][0] for source in open_sources), default=None)
        runs = [run for source in self._sources if (run := source.take(bound))]
        if len(runs) <= 1:
            return runs[0] if runs else []
        rows = sorted(chain.from_iterable(runs), key=_KEY)  # merges the runs, which are sorted
        if len(set(map(_KEY, rows))) == len(rows):
            return rows
        return _add_equal(rows)

    def _is_complete(self) -> bool:
        in_hand = any(source.rows for source in self._sources)
        if in_hand and self._rows == self._limit:
            self._more = True
        ended = not in_hand and all(source.last for source in self._sources)
        return self._more or ended


def _add_equal(rows: list[MergedRow]) -> list[MergedRow]:
    """Make one row of neighbours with equal keys."""
    added: list[MergedRow] = []
    last: _Key | None = None
    for key, tx, rx in rows:
        if key == last:
            _, tx_sum, rx_sum = added[-1]
            added[-1] = (key, min(tx_sum + tx, COUNTER_MAX), min(rx_sum + rx, COUNTER_MAX))
        else:
            added.append((key, tx, rx))
            last = key
    return added


def _decode_rows(page: bytes) -> list[MergedRow]:
    frame = decode_frame(page)
    hours = chain.from_iterable(repeat(hour, rows) for hour, rows in frame.groups)
    vpc, src, dest = (_names(frame, column) for column in (frame.vpc, frame.src, frame.dest))
    keys = zip(hours, vpc, src, dest, strict=True)
    return list(zip(keys, frame.tx, frame.rx, strict=True))


def _row_key(key: _Key) -> RowKey:
    hour, vpc, src, dest = key
    return RowKey(hour, vpc.decode(), src.decode(), dest.decode())


def _names(frame: Frame, column: Sequence[int]) -> Iterable[bytes]:
    if column:
        return map(frame.names.__getitem__, column)
    return repeat(b"", frame.header.rows)  # a member that rows are not told apart by
