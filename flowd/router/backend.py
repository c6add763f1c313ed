"""The seam to where the rows are: a Backend stores batches and answers queries.

`LocalBackend` is the shards of this machine. Another one (a ClickHouse cluster) needs nothing but
these names; `flowd.api` knows only them. Which errors a call raises is part of the seam, since they
become the client's answer.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

import msgspec

from flowd.flow import RowKey
from flowd.kernel.interface import Split
from flowd.protocol import BucketSums
from flowd.query import Query


class Batch(msgspec.Struct, frozen=True, gc=False):
    """What a batch is known by; times are in ms since 1970.

    Attributes:
        batch_id: 1 … 2**128 - 1, 0 for un-keyed.
        key_time_ms: the time in its key, 0 for un-keyed.
        arrival_ms: when the request came.
    """

    batch_id: int
    key_time_ms: int
    arrival_ms: int


class Ingested(msgspec.Struct, frozen=True, gc=False):
    """A batch is durable, in every shard it belongs to.

    Attributes:
        flows: how many it has.
        duplicate: all of them were stored before, and nothing was added.
    """

    flows: int
    duplicate: bool


class Buckets(NamedTuple):
    """The totals of every bucket over all shards that answered, ascending by (start, width)."""

    sums: list[BucketSums]
    shards_answered: int
    shards_total: int


class Answer(Protocol):
    """The text of an answer to a query, as it is made; iterate once, to the end."""

    @property
    def shards_answered(self) -> int:
        """How many shards the answer is made of."""
        ...

    @property
    def shards_total(self) -> int:
        """How many there are."""
        ...

    @property
    def next_cursor(self) -> RowKey | None:
        """After the end: the key behind which there is more; None when this is all."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes:
        """Give the next piece of the text, never empty.

        Raises:
            ShardUnavailable: a shard went away; what was given so far is not the answer.
        """
        ...

    async def close(self) -> None:
        """Give up what is on its way; needed by whoever does not iterate to the end."""
        ...


class Backend(Protocol):
    """Where the rows are."""

    @property
    def floor_ms(self) -> int:
        """The highest key time whose batch may have been forgotten, in ms since 1970."""
        ...

    @property
    def shards_total(self) -> int:
        """How many shards there are."""
        ...

    @property
    def shards_ready(self) -> int:
        """How many of them answer now."""
        ...

    def unavailable(self) -> tuple[int, ...]:
        """Name the others."""
        ...

    def start(self) -> None:
        """Begin to connect; returns at once."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...

    async def ingest(self, split: Split, batch: Batch) -> Ingested:
        """Store a batch, whole or not at all but for OutcomeUnknown.

        Args:
            split: the batch's frames.
            batch: what it is known by.

        Raises:
            ShardUnavailable: a shard that it belongs to is away; nothing was stored, as with the
                next three.
            StorageFull: there is no room for its new rows, or on disk.
            Overloaded: too much is under way, or (`ids`) no further batch id can be remembered.
            TooLarge: a shard's part is larger than any message may be.
            OutcomeUnknown: a shard went away while it stored its part.
        """
        ...

    async def query(self, query: Query) -> Answer:
        """Ask for rows; returns when the first rows of every shard are here.

        Raises:
            ShardUnavailable: a shard cannot answer; with `query.partial`, none can.
        """
        ...

    async def buckets(self, *, digest: bool, partial: bool = False) -> Buckets:
        """Ask for the totals of every bucket.

        Args:
            digest: with digests, which costs every shard a walk over its rows.
            partial: make do with the shards that answer.

        Raises:
            ShardUnavailable: a shard cannot answer; with `partial`, none can.
        """
        ...
