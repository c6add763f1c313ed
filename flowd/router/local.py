"""The shards of this machine as a Backend: checks, scatters, gathers.

Every check comes before the first append, and between the last check and the last append nothing is
awaited. From the first append on, whatever goes wrong is OutcomeUnknown. A wait that is cancelled
takes nothing back: what was sent is stored. Plain futures are awaited one after the other, which
costs less than a task for each and takes no longer.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from flowd.config import LimitsConfig
from flowd.errors import (
    FlowdError,
    OutcomeUnknown,
    Overloaded,
    ShardUnavailable,
    StorageFull,
)
from flowd.flow import COUNTER_MAX, NAME_BYTES_MAX
from flowd.kernel.interface import Kernel, Split
from flowd.protocol import AppendHeader, BucketSums, QueryRequest
from flowd.query import Query
from flowd.router.answer import LocalAnswer
from flowd.router.backend import Batch, Buckets, Ingested
from flowd.worker_client import WorkerClient

_PAGE_ROWS_MAX: Final = 4_096
_PAGE_ROWS_MIN: Final = 512
_ROWS_IN_HAND: Final = 16_384  # of all shards together, so that many shards need no more memory
_NAMES_A_ROW: Final = 3
_PROBED_FROM: Final = 0.9  # of a limit

_T = TypeVar("_T")


class LocalBackend:
    """See `Backend`.

    Args:
        kernel: merges answers.
        limits: the whole flowd's.
        clients: the workers, by shard.
    """

    def __init__(
        self, kernel: Kernel, limits: LimitsConfig, clients: Sequence[WorkerClient]
    ) -> None:
        self._kernel = kernel
        self._limits = limits
        self._clients = clients
        self._page_rows = max(_PAGE_ROWS_MIN, min(_PAGE_ROWS_MAX, _ROWS_IN_HAND // len(clients)))
        self._probed_from_rows = limits.max_rows * _PROBED_FROM
        self._probed_from_name_bytes = limits.name_bytes * _PROBED_FROM
        # What batches under way may add, as the workers' counts do not have it yet.
        self._coming_rows = 0
        self._coming_name_bytes = 0

    @property
    def floor_ms(self) -> int:
        """See `Backend.floor_ms`."""
        return max(client.status.floor_ms for client in self._clients)

    @property
    def shards_total(self) -> int:
        """See `Backend.shards_total`."""
        return len(self._clients)

    @property
    def shards_ready(self) -> int:
        """See `Backend.shards_ready`."""
        return self.shards_total - len(self.unavailable())

    def unavailable(self) -> tuple[int, ...]:
        """See `Backend.unavailable`."""
        return tuple(client.shard for client in self._clients if not client.connected)

    def start(self) -> None:
        """See `Backend.start`."""
        for client in self._clients:
            client.start()

    async def close(self) -> None:
        """See `Backend.close`."""
        await asyncio.gather(*(client.close() for client in self._clients))

    async def ingest(self, split: Split, batch: Batch) -> Ingested:
        """See `Backend.ingest`."""
        frames = split.frames
        if not frames:
            return Ingested(0, duplicate=False)
        frame_bytes = self._check(frames, batch)
        new_rows, new_name_bytes = split.flows, frame_bytes
        if self._near_a_limit(new_rows, new_name_bytes):
            new_rows = await self._count_new_rows(frames)
            new_name_bytes = min(frame_bytes, new_rows * _NAMES_A_ROW * NAME_BYTES_MAX)
            self._check_room(new_rows, new_name_bytes)
            self._check(frames, batch)
        self._coming_rows += new_rows
        self._coming_name_bytes += new_name_bytes
        try:
            return Ingested(split.flows, await self._append(frames, batch))
        finally:
            self._coming_rows -= new_rows
            self._coming_name_bytes -= new_name_bytes

    def _check(self, frames: Mapping[int, bytes], batch: Batch) -> int:
        """Raise what stands against appending these frames now; return their length."""
        frame_bytes = 0
        for shard, frame in frames.items():
            client = self._clients[shard]
            try:
                client.check(len(frame))
            except ShardUnavailable:
                away = [s for s in frames if not self._clients[s].connected]
                raise self._unavailable(away) from None
            status = client.status
            if not status.writable:
                raise StorageFull(
                    status.full_reason,
                    f"shard {shard} takes no flows now: {status.full_reason} full",
                )
            if batch.batch_id and status.batch_ids >= self._limits.batch_ids:
                raise Overloaded(
                    "ids",
                    f"shard {shard} remembers as many keys as limits.batch_ids allows; send"
                    " without a key, or raise the limit",
                )
            frame_bytes += len(frame)
        return frame_bytes

    def _near_a_limit(self, new_rows: int, new_name_bytes: int) -> bool:
        rows = self._coming_rows + new_rows
        name_bytes = self._coming_name_bytes + new_name_bytes
        for client in self._clients:
            rows += client.status.rows
            name_bytes += client.status.name_bytes
        return rows > self._probed_from_rows or name_bytes > self._probed_from_name_bytes

    async def _count_new_rows(self, frames: Mapping[int, bytes]) -> int:
        futures = [self._clients[shard].probe(frame) for shard, frame in frames.items()]
        return sum([await future for future in futures])

    def _check_room(self, new_rows: int, new_name_bytes: int) -> None:
        if not new_rows:
            return  # what only adds to rows always passes
        limits, statuses = self._limits, [client.status for client in self._clients]
        rows = sum(status.rows for status in statuses)
        if rows + self._coming_rows + new_rows > limits.max_rows:
            raise StorageFull(
                "rows",
                f"{rows:,} rows are held and the batch would make {new_rows:,} more;"
                f" limits.max_rows is {limits.max_rows:,}",
            )
        name_bytes = sum(status.name_bytes for status in statuses)
        if name_bytes + self._coming_name_bytes + new_name_bytes > limits.name_bytes:
            raise StorageFull(
                "names",
                f"names take {name_bytes:,} bytes and the batch's new rows may take"
                f" {new_name_bytes:,} more; limits.name_bytes is {limits.name_bytes:,}",
            )

    async def _append(self, frames: Mapping[int, bytes], batch: Batch) -> bool:
        """Append all; return whether every shard had the batch already."""
        shards = 0
        for shard in frames:
            shards |= 1 << shard
        header = AppendHeader(batch.batch_id, batch.key_time_ms, batch.arrival_ms, shards)
        futures = [
            (shard, self._clients[shard].append(header, frame)) for shard, frame in frames.items()
        ]
        duplicate = True
        lost: dict[int, FlowdError] = {}
        for shard, future in futures:
            try:
                duplicate = (await future).duplicate and duplicate
            except FlowdError as error:
                lost[shard] = error
        if lost:
            reasons = "; ".join(str(error) for error in lost.values())
            raise OutcomeUnknown(tuple(lost), reasons)
        return duplicate

    async def query(self, query: Query) -> LocalAnswer:
        """See `Backend.query`."""
        limit = self._page_rows if query.limit is None else query.limit
        page_rows = min(limit, self._page_rows)
        request = QueryRequest(query, query.after, page_rows)
        pages = await self._ask_all(lambda client: client.query(request), query.partial)
        return LocalAnswer(self._kernel, query, page_rows, pages, len(self._clients))

    async def buckets(self, *, digest: bool, partial: bool = False) -> Buckets:
        """See `Backend.buckets`."""
        answers = await self._ask_all(lambda client: client.buckets(digest=digest), partial)
        sums = _add_up(bucket for _, buckets in answers for bucket in buckets)
        return Buckets(sums, len(answers), len(self._clients))

    async def _ask_all(
        self, ask: Callable[[WorkerClient], asyncio.Future[_T]], partial: bool
    ) -> list[tuple[WorkerClient, _T]]:
        """Ask every shard the same; return the answers of all, or of those that can."""
        away = list(self.unavailable())
        if away and not partial:
            raise self._unavailable(away)
        futures = [(client, ask(client)) for client in self._clients if client.shard not in away]
        answers = []
        for client, future in futures:
            try:
                answers.append((client, await future))
            except ShardUnavailable:
                away.append(client.shard)
        if away and not (partial and answers):
            raise self._unavailable(away)
        return answers

    def _unavailable(self, shards: Iterable[int]) -> ShardUnavailable:
        away = tuple(sorted(shards))
        names = ", ".join(map(str, away))
        return ShardUnavailable(
            away, f"of {len(self._clients)} shards these do not answer now: {names}"
        )


def _add_up(buckets: Iterable[BucketSums]) -> list[BucketSums]:
    """Add the shards' totals of each bucket; sums saturate, digests are added modulo 2**128."""
    found: dict[tuple[int, int, str], BucketSums] = {}
    for bucket in buckets:
        key = (bucket.start, bucket.width, bucket.tier)
        other = found.get(key)
        found[key] = bucket if other is None else _add(other, bucket)
    return [found[key] for key in sorted(found)]


def _add(one: BucketSums, other: BucketSums) -> BucketSums:
    digest = None
    if one.digest is not None and other.digest is not None:
        digest = f"{(int(one.digest, 16) + int(other.digest, 16)) % 2**128:032x}"
    return BucketSums(
        start=one.start,
        width=one.width,
        rows=one.rows + other.rows,
        bytes_tx=min(one.bytes_tx + other.bytes_tx, COUNTER_MAX),
        bytes_rx=min(one.bytes_rx + other.bytes_rx, COUNTER_MAX),
        tier=one.tier,
        digest=digest,
    )
