"""The rows of one shard: applies frames, answers queries. Pure; `store` makes it durable.

Invariants: rows change only in `apply` and `load`, in the order of LSNs; a bucket is dirty from its
first change after `take_dirty`; the tables share one set of names. Nothing here looks inside a
frame or a table.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sortedcontainers import SortedDict

from flowd.flow import RowKey
from flowd.kernel.interface import Kernel, Names, Slice, Table
from flowd.protocol import BucketSums
from flowd.query import Query


class Bucket(NamedTuple):
    """Which table: the rows of `width` hours from `start` on; both in hours."""

    start: int
    width: int


class Shard:
    """One shard's tables, by bucket.

    Args:
        kernel: what made the frames that will come.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._names: Names = kernel.new_names()
        self._tables: SortedDict[Bucket, Table] = SortedDict()
        self._dirty: set[Bucket] = set()
        self.rows = 0
        """How many rows all tables hold."""

    @property
    def bucket_count(self) -> int:
        """How many buckets there are."""
        return len(self._tables)

    @property
    def name_bytes(self) -> int:
        """What the interned names take, in bytes of UTF-8."""
        return self._names.bytes

    @property
    def saturations(self) -> int:
        """How many additions were cut off at the largest counter."""
        return sum(table.saturations for table in self._tables.values())

    @property
    def dirty_rows(self) -> int:
        """How many rows the next checkpoint would write."""
        return sum(self._tables[bucket].rows for bucket in self._dirty)

    def apply(self, slices: Sequence[tuple[int, Slice]], lsn: int) -> int:
        """Add a frame's flows to their rows.

        Args:
            slices: what `Kernel.buckets` gave.
            lsn: the frame's log record; rows loaded from a block taken at or after it stay as they
            are.

        Returns:
            How many rows are new.
        """
        new_rows = 0
        for hour, part in slices:
            bucket = Bucket(hour, 1)
            table = self._tables.get(bucket)
            if table is None:
                table = self._tables[bucket] = self._kernel.new_table(self._names)
            new_rows += table.apply(part, lsn)
            self._dirty.add(bucket)
        self.rows += new_rows
        return new_rows

    def count_new(self, slices: Sequence[tuple[int, Slice]]) -> int:
        """Say how many rows `apply` would make; changes nothing.

        For a bucket not held yet an empty table is asked, which tells equal keys of the slice
        apart.
        """
        total = 0
        for hour, part in slices:
            table = self._tables.get(Bucket(hour, 1))
            if table is None:
                table = self._kernel.new_table(self._names)
            total += table.count_new(part)
        return total

    def page(self, query: Query, after: RowKey | None, rows: int) -> tuple[list[bytes], bool]:
        """Give the next rows of an answer, in key order.

        Args:
            query: the question.
            after: only rows behind this key; None from the first row on.
            rows: at most this many, 1 or more.

        Returns:
            Pages, each behind the one before, and whether they end with the last row there is.
        """
        pages: list[bytes] = []
        first = query.hour_from if after is None else max(query.hour_from, after.hour)
        buckets = self._tables.irange(Bucket(first, 0), Bucket(query.hour_to, 0), (True, False))
        for bucket in buckets:
            if rows == 0:
                return pages, False
            behind = after if after is not None and after.hour == bucket.start else None
            page, last = self._tables[bucket].page(
                bucket.start, query.filters, query.group, behind, rows
            )
            held = self._kernel.frame_flows(page)
            rows -= held
            if held:
                pages.append(page)
            if not last:
                return pages, False
        return pages, True

    def buckets(self, *, digest: bool) -> list[BucketSums]:
        """Give the sums of every bucket, ascending; a digest costs a walk over all rows."""
        found = []
        for bucket, table in self._tables.items():
            sums = table.sums()
            found.append(
                BucketSums(
                    start=bucket.start,
                    width=bucket.width,
                    rows=sums.rows,
                    bytes_tx=sums.bytes_tx,
                    bytes_rx=sums.bytes_rx,
                    tier="memory",
                    digest=f"{table.digest():032x}" if digest else None,
                )
            )
        return found

    def take_dirty(self) -> list[Bucket]:
        """Give the buckets that changed since the last call, ascending, and call them clean."""
        dirty = sorted(self._dirty)
        self._dirty.clear()
        return dirty

    def mark_dirty(self, buckets: Sequence[Bucket]) -> None:
        """Call buckets dirty again whose checkpoint did not come about."""
        self._dirty.update(buckets)

    def table(self, bucket: Bucket) -> Table:
        """Give a bucket's table, for its blocks."""
        table: Table = self._tables[bucket]
        return table

    def load(self, bucket: Bucket, block: bytes, lsn: int) -> None:
        """Append a block of a bucket file; the bucket counts as clean.

        Args:
            bucket: where it belongs.
            block: what `Table.dump` gave.
            lsn: the last record applied when it was dumped.

        Raises:
            FrameError: the bytes are not a well-formed block.
        """
        table = self._tables.get(bucket)
        if table is None:
            table = self._tables[bucket] = self._kernel.new_table(self._names)
        held = table.rows
        table.load(block, lsn)
        self.rows += table.rows - held
