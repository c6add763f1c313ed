"""A Backend in this process: a real aggregation over kernel tables, which can be told to fail."""

import asyncio
from collections.abc import Sequence
from typing import Self

from flowd.errors import ShardUnavailable
from flowd.flow import RowKey
from flowd.kernel import Kernel, Merger, Names, Split, Table
from flowd.protocol import BucketSums
from flowd.query import Query
from flowd.router import Batch, Buckets, Ingested


class Shard:
    def __init__(self, names: Names) -> None:
        self.names = names
        self.tables: dict[int, Table] = {}
        self.away = False


class TableBackend:
    """See `flowd.router.Backend`.

    Attributes:
        ingest_error: raised by every ingest, with nothing stored.
        ingest_gate: ingests wait for it; a cancelled one has stored nothing.
        query_error: raised by every query.
        query_gate: queries wait for it before their first page.
        pages_before_failure: how many further pages an answer fetches until a shard fails.
        page_error: raised then.
        page_gate: pages behind the first `pages_before_gate` of an answer wait for it.
    """

    def __init__(self, kernel: Kernel, shard_count: int, page_rows: int = 100) -> None:
        self.kernel = kernel
        self.page_rows = page_rows
        self.shards = [Shard(kernel.new_names()) for _ in range(shard_count)]
        self.batches: list[Batch] = []
        self.ingest_error: Exception | None = None
        self.ingest_gate = open_gate()
        self.query_error: Exception | None = None
        self.query_gate = open_gate()
        self.page_gate = open_gate()
        self.pages_before_gate = 0
        self.pages_before_failure: int | None = None
        self.page_error: Exception = ShardUnavailable((1,), "shard 1 went away")
        self.answers_closed = 0
        self.floor_ms = 0

    @property
    def shards_total(self) -> int:
        return len(self.shards)

    @property
    def shards_ready(self) -> int:
        return self.shards_total - len(self.unavailable())

    def unavailable(self) -> tuple[int, ...]:
        return tuple(number for number, shard in enumerate(self.shards) if shard.away)

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ingest(self, split: Split, batch: Batch) -> Ingested:
        await self.ingest_gate.wait()
        if self.ingest_error is not None:
            raise self.ingest_error
        known = batch.batch_id and any(b.batch_id == batch.batch_id for b in self.batches)
        if known:
            return Ingested(split.flows, duplicate=True)
        self.batches.append(batch)
        for number, frame in split.frames.items():
            shard = self.shards[number]
            for hour, part in self.kernel.buckets(frame):
                if hour not in shard.tables:
                    shard.tables[hour] = self.kernel.new_table(shard.names)
                shard.tables[hour].apply(part, len(self.batches))
        return Ingested(split.flows, duplicate=False)

    async def query(self, query: Query) -> "TableAnswer":
        await self.query_gate.wait()
        shards = self._answering(partial=query.partial)
        return TableAnswer(self, query, shards)

    async def buckets(self, *, digest: bool, partial: bool = False) -> Buckets:
        shards = self._answering(partial=partial)
        sums = []
        for hour in sorted({hour for shard in shards for hour in shard.tables}):
            tables = [shard.tables[hour] for shard in shards if hour in shard.tables]
            parts = [table.sums() for table in tables]
            digests = sum(table.digest() for table in tables) % 2**128
            sums.append(
                BucketSums(
                    start=hour,
                    width=1,
                    rows=sum(part.rows for part in parts),
                    bytes_tx=sum(part.bytes_tx for part in parts),
                    bytes_rx=sum(part.bytes_rx for part in parts),
                    tier="memory",
                    digest=f"{digests:032x}" if digest else None,
                )
            )
        return Buckets(sums, len(shards), self.shards_total)

    def _answering(self, *, partial: bool) -> list[Shard]:
        if self.query_error is not None:
            raise self.query_error
        away = self.unavailable()
        if away and not partial:
            raise ShardUnavailable(away, "of all shards some do not answer now")
        return [shard for shard in self.shards if not shard.away]


class TableAnswer:
    """See `flowd.router.Answer`."""

    def __init__(self, backend: TableBackend, query: Query, shards: Sequence[Shard]) -> None:
        self.shards_answered = len(shards)
        self.shards_total = backend.shards_total
        self._backend = backend
        self._query = query
        self._shards = shards
        self._pages = 0
        self._merger: Merger = backend.kernel.new_merger(
            len(shards), query.answer_format, query.group, query.limit
        )
        self._after: list[RowKey | None] = [query.after] * len(shards)
        for source in range(len(shards)):
            self._feed(source)

    @property
    def next_cursor(self) -> RowKey | None:
        return self._merger.last_key if self._merger.more else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._merger.done:
            for source in self._merger.wanted():
                if self._pages >= self._backend.pages_before_gate:
                    await self._backend.page_gate.wait()
                if self._pages == self._backend.pages_before_failure:
                    raise self._backend.page_error
                self._pages += 1
                self._feed(source)
            if text := self._merger.drain():
                return text
        raise StopAsyncIteration

    async def close(self) -> None:
        self._backend.answers_closed += 1

    def _feed(self, source: int) -> None:
        query, after = self._query, self._after[source]
        tables = self._shards[source].tables
        pages: list[bytes] = []
        for hour in sorted(hour for hour in tables if query.hour_from <= hour < query.hour_to):
            if after is not None and hour < after.hour:
                continue
            page, last = tables[hour].page(
                hour, query.filters, query.group, after, self._backend.page_rows
            )
            pages.append(page)
            if not last:
                self._merger.feed(source, pages, False)
                self._after[source] = self._merger.fed_to(source)
                return
        self._merger.feed(source, pages, True)


def open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate
