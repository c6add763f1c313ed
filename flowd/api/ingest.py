"""POST /flows: a body becomes a batch, and the client learns what became of it.

Everything that can refuse a batch comes before the backend is asked to store it. From then on there
are three ends: stored; refused with nothing stored, which the backend says by its errors; or
unknown, and that is said, never guessed.
"""

import asyncio
import time
from typing import Final

import msgspec
from aiohttp import hdrs
from multidict import istr

from flowd.api.body import BodyReader
from flowd.api.headers import (
    IdempotencyKey,
    body_format,
    content_coding,
    idempotency_key,
    query_parameters,
)
from flowd.api.in_flight import ByteBudget
from flowd.api.problems import flaw_members
from flowd.api.responses import Exchange, Headers, WholeResponse
from flowd.config import LimitsConfig
from flowd.errors import (
    BadQuery,
    OutcomeUnknown,
    Overloaded,
    ShardUnavailable,
    StorageFull,
    TooLarge,
)
from flowd.kernel.interface import BodyFormat, Kernel, Split
from flowd.logs import get_logger
from flowd.metrics import RouterMetrics
from flowd.query import collect_parameters
from flowd.router import Backend, Batch, Ingested

IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")

log = get_logger()


class Ingest:
    """Handles the POSTs of one router.

    Args:
        limits: the whole flowd's.
        kernel: the data plane.
        backend: where batches are stored.
        shard_count: 1 … 64.
        seed: the data directory's, 0 … 2**64 - 1.
        budget: this router's share of the bytes in flight.
        metrics: this router's.
    """

    def __init__(
        self,
        *,
        limits: LimitsConfig,
        kernel: Kernel,
        backend: Backend,
        shard_count: int,
        seed: int,
        budget: ByteBudget,
        metrics: RouterMetrics,
    ) -> None:
        self._kernel = kernel
        self._backend = backend
        self._shard_count = shard_count
        self._seed = seed
        self._flows_max = limits.flows
        self._budget = budget
        self._bodies = BodyReader(limits)
        self._metrics = metrics

    async def post_flows(self, exchange: Exchange) -> WholeResponse:
        """Store a batch.

        Raises:
            FlowdError, Problem: nothing is stored, or (OutcomeUnknown) nobody knows.
            ConnectionError: the client went away before the batch was complete.
        """
        request = exchange.request
        headers = request.headers
        query_string = request.rel_url.raw_query_string
        skip_bad = bool(query_string) and _skips_bad(query_string)
        form = body_format(headers.get(hdrs.CONTENT_TYPE))
        coding = content_coding(headers.get(hdrs.CONTENT_ENCODING))
        now_ms = time.time_ns() // 1_000_000
        key = None
        if IDEMPOTENCY_KEY in headers:
            key = idempotency_key(headers.getall(IDEMPOTENCY_KEY), now_ms)
            exchange.keyed = True
        with self._budget.hold() as hold:
            body = await self._bodies.read(request, exchange.connection, coding, hold)
            split = self._split(body, form, skip_bad)
            ingested = await self._store(exchange, split, self._batch(key, body, now_ms))
        return self._answer(exchange, split, ingested, skip_bad)

    def _split(self, body: bytes, form: BodyFormat, skip_bad: bool) -> Split:
        # The one place to decide where a body is split: here in the loop, or in a thread.
        return self._kernel.split(
            body,
            form,
            shard_count=self._shard_count,
            seed=self._seed,
            flows_max=self._flows_max,
            skip_bad=skip_bad,
        )

    def _batch(self, key: IdempotencyKey | None, body: bytes, now_ms: int) -> Batch:
        if key is None:
            return Batch(batch_id=0, key_time_ms=0, arrival_ms=now_ms)
        batch_id = self._kernel.batch_id(self._seed, b"", key.value, body)
        return Batch(batch_id=batch_id, key_time_ms=key.time_ms, arrival_ms=now_ms)

    async def _store(self, exchange: Exchange, split: Split, batch: Batch) -> Ingested:
        try:
            return await self._backend.ingest(split, batch)
        except asyncio.CancelledError:
            if exchange.connection.take_expiry():
                raise OutcomeUnknown(
                    tuple(split.frames), "no acknowledgement within limits.handler_seconds"
                ) from None
            raise
        except (ShardUnavailable, StorageFull, Overloaded, TooLarge, OutcomeUnknown):
            raise
        except Exception:
            # A fault of ours in mid-append: what the shards have is as unknown as after a crash.
            log.exception("ingest_failed", request_id=exchange.request_id)
            raise OutcomeUnknown(tuple(split.frames), "flowd failed while storing it") from None

    def _answer(
        self, exchange: Exchange, split: Split, ingested: Ingested, skip_bad: bool
    ) -> WholeResponse:
        headers: Headers = ()
        if ingested.duplicate:
            headers = (("Idempotency-Replayed", "true"),)
        else:
            self._metrics.batches_accepted.inc()
            self._metrics.flows_accepted.inc(split.flows)
        if not skip_bad:
            return WholeResponse(exchange, 204, headers=headers)
        self._metrics.flows_skipped.inc(split.skipped)
        report = {
            "stored": split.flows,
            "skipped": split.skipped,
            "errors": flaw_members(split.flaws),
        }
        body = msgspec.json.encode(report) + b"\n"
        return WholeResponse(exchange, 200, body, "application/json", headers)


def _skips_bad(query_string: str) -> bool:
    parameters = query_parameters(query_string)
    value = collect_parameters(parameters, single=("on_error",)).get("on_error", [""])[0]
    if value not in ("", "skip"):
        raise BadQuery("on_error", "must be skip, or left out to refuse a batch with a bad flow")
    return value == "skip"
