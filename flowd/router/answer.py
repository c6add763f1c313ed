"""The answer to one query, merged from the shards' pages as they come.

Of each shard there is at most one page in the merger and, for answers without a limit, one more on
its way or waiting, so that workers make pages while the router merges. Memory does not grow with
the number of rows.
"""

import asyncio
from collections.abc import Sequence
from typing import Self

from flowd.errors import FrameError, ShardUnavailable
from flowd.flow import RowKey
from flowd.kernel.interface import Kernel
from flowd.protocol import Page, QueryRequest
from flowd.query import Query
from flowd.worker_client import WorkerClient


class LocalAnswer:
    """See `Answer`.

    Args:
        kernel: merges.
        query: the question.
        page_rows: how many rows to ask a shard for at a time.
        first_pages: the shards that answered, each with its first page.
        shards_total: how many shards there are.

    Raises:
        ShardUnavailable: a shard's page is damaged, or it went away already.
    """

    def __init__(
        self,
        kernel: Kernel,
        query: Query,
        page_rows: int,
        first_pages: Sequence[tuple[WorkerClient, Page]],
        shards_total: int,
    ) -> None:
        self.shards_answered = len(first_pages)
        self.shards_total = shards_total
        self._query = query
        self._page_rows = page_rows
        # An answer with a limit is mostly complete with the first pages; more would be for nothing.
        self._ahead = query.limit is None
        self._clients = [client for client, _ in first_pages]
        self._after: list[RowKey | None] = [query.after] * len(first_pages)
        self._coming: dict[int, asyncio.Future[Page]] = {}
        self._ended = False
        self._merger = kernel.new_merger(
            len(first_pages), query.answer_format, query.group, query.limit
        )
        for source, (_, page) in enumerate(first_pages):
            self._feed(source, page)

    @property
    def next_cursor(self) -> RowKey | None:
        """See `Answer.next_cursor`."""
        return self._merger.last_key if self._merger.more else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """See `Answer.__anext__`."""
        merger = self._merger
        while not self._ended:
            wanted = merger.wanted()
            for source in wanted:
                if source not in self._coming:
                    self._ask(source)
            for source in wanted:
                self._feed(source, await self._coming.pop(source))
            text = merger.drain()
            self._ended = merger.done
            if text:
                return text
        raise StopAsyncIteration

    async def close(self) -> None:
        """See `Answer.close`."""
        self._ended = True
        for page in self._coming.values():
            page.cancel()
        self._coming.clear()

    def _ask(self, source: int) -> None:
        request = QueryRequest(self._query, self._after[source], self._page_rows)
        self._coming[source] = self._clients[source].query(request)

    def _feed(self, source: int, page: Page) -> None:
        try:
            self._merger.feed(source, page.pages, page.last)
        except FrameError as error:
            raise self._damaged(source) from error
        if page.last:
            return
        after = self._merger.fed_to(source)
        if after == self._after[source]:
            raise self._damaged(source)  # it would go on like this for ever
        self._after[source] = after
        if self._ahead:
            self._ask(source)

    def _damaged(self, source: int) -> ShardUnavailable:
        shard = self._clients[source].shard
        return ShardUnavailable((shard,), f"shard {shard} sent a damaged page")
