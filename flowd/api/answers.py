"""GET /flows and GET /hours: answers of all shards, or an honest word that there is none.

The backend has the first page of every shard before this module sends a status. Small answers are
sent whole; larger ones are streamed as the client reads them. When a shard fails in the middle, the
stream is cut so that the client sees it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from flowd.api.connection import Phase
from flowd.api.headers import MEDIA_TYPES, accepted_format, query_parameters
from flowd.api.in_flight import QueryBudget
from flowd.api.responses import Exchange, Headers, StreamedResponse, WholeResponse
from flowd.errors import FlowdError
from flowd.flow import RowKey
from flowd.logs import get_logger
from flowd.query import Query, encode_cursor, parse_buckets_query, parse_query
from flowd.router import Answer, Backend, Buckets

WHOLE_BYTES_MAX: Final = 64 * 1024
"""Answers up to this size are sent with their length instead of in chunks."""

_Parameters = Sequence[tuple[str, str]]

log = get_logger()


class Answers:
    """Handles the GETs for data of one router.

    Args:
        backend: where the rows are.
        budget: this router's share of the answers that may be made at one time.
    """

    def __init__(self, backend: Backend, budget: QueryBudget) -> None:
        self._backend = backend
        self._budget = budget

    async def get_flows(self, exchange: Exchange) -> WholeResponse | StreamedResponse:
        """Answer with rows.

        Raises:
            FlowdError: there is no answer, and no byte of one was sent.
            ConnectionError: the client went away.
        """
        request = exchange.request
        parameters = query_parameters(request.rel_url.raw_query_string)
        query = parse_query(parameters, accepted_format(request.headers.get("Accept")))
        with self._budget:
            answer = await self._backend.query(query)
            try:
                if query.limit is not None:
                    return await self._send_page(exchange, query, parameters, answer)
                return await self._send_all(exchange, query, answer)
            finally:
                await answer.close()

    async def get_hours(self, exchange: Exchange) -> WholeResponse:
        """Answer with the buckets held.

        Raises:
            FlowdError: there is no answer.
        """
        parameters = query_parameters(exchange.request.rel_url.raw_query_string)
        query = parse_buckets_query(parameters)
        with self._budget:
            buckets = await self._backend.buckets(digest=query.digest, partial=query.partial)
        hours = []
        for bucket in buckets.sums:
            members: dict[str, object] = {
                "hour": bucket.start,
                "width": bucket.width,
                "rows": bucket.rows,
                "bytes_tx": bucket.bytes_tx,
                "bytes_rx": bucket.bytes_rx,
                "tier": bucket.tier,
            }
            hours.append(members | ({"digest": bucket.digest} if query.digest else {}))
        headers = _shards_header(buckets) if query.partial else ()
        body = msgspec.json.encode(hours) + b"\n"
        return WholeResponse(exchange, 200, body, "application/json", headers)

    async def _send_page(
        self, exchange: Exchange, query: Query, parameters: _Parameters, answer: Answer
    ) -> WholeResponse:
        body = b"".join([chunk async for chunk in answer])
        headers = _headers(query, answer)
        if answer.next_cursor is not None:
            link = _next_link(exchange.request.rel_url.raw_path, parameters, answer.next_cursor)
            headers = (*headers, ("Link", link))
        return WholeResponse(exchange, 200, body, MEDIA_TYPES[query.answer_format], headers)

    async def _send_all(
        self, exchange: Exchange, query: Query, answer: Answer
    ) -> WholeResponse | StreamedResponse:
        media_type = MEDIA_TYPES[query.answer_format]
        headers = _headers(query, answer)
        if exchange.request.method == "HEAD":
            return WholeResponse(exchange, 200, headers=(("Content-Type", media_type), *headers))
        chunks = aiter(answer)
        head = bytearray()
        async for chunk in chunks:
            head += chunk
            if len(head) > WHOLE_BYTES_MAX:
                response = StreamedResponse(exchange, 200, media_type, headers)
                await _stream(exchange, response, bytes(head), chunks)
                return response
        return WholeResponse(exchange, 200, bytes(head), media_type, headers)


async def _stream(
    exchange: Exchange, response: StreamedResponse, head: bytes, chunks: AsyncIterator[bytes]
) -> None:
    connection = exchange.connection
    try:
        response.start()
        await response.send(head)
        connection.enter(Phase.HANDLER)
        async for chunk in chunks:
            if chunk:
                await response.send(chunk)
            connection.enter(Phase.HANDLER)  # each part has its own time
        response.finish()
    except ConnectionError:
        response.cut()
    except asyncio.CancelledError:
        response.cut()
        if not connection.take_expiry():
            raise
        _log_cut(exchange, "the next rows took longer than limits.handler_seconds")
    except FlowdError as error:
        response.cut()
        _log_cut(exchange, str(error))
    except BaseException:
        response.cut()
        raise


def _log_cut(exchange: Exchange, reason: str) -> None:
    log.warning("answer_cut", request_id=exchange.request_id, reason=reason)


def _headers(query: Query, answer: Answer) -> Headers:
    headers = (("Vary", "Accept"),)
    return (*headers, *_shards_header(answer)) if query.partial else headers


def _shards_header(answer: Answer | Buckets) -> Headers:
    return (("Flowd-Shards", f"{answer.shards_answered}/{answer.shards_total}"),)


def _next_link(path: str, parameters: _Parameters, after: RowKey) -> str:
    pairs = [(name, value) for name, value in parameters if name != "cursor"]
    pairs.append(("cursor", encode_cursor(after)))
    query_string = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in pairs)
    return f'<{path}?{query_string}>; rel="next"'
