"""Every phase of a request has its time, and ends in time; no test here waits for real limits."""

import asyncio
import socket

import pytest

from tests.api.conftest import Log, Start
from tests.api.flows import body, flow, many
from tests.api.http_client import request_bytes
from tests.api.test_ingest import PAST_KEY

ONE = body(flow())
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_connection_that_says_nothing_is_closed(limited: Start) -> None:
    server = await limited(header_seconds=0.1)
    async with await server.connect() as client:
        assert await client.closed() == b""


@pytest.mark.parametrize("first", [b"", HEALTHY])
async def test_a_head_that_does_not_come_to_its_end_is_refused(
    limited: Start, first: bytes
) -> None:
    server = await limited(header_seconds=0.1)
    async with await server.connect() as client:
        if first:
            await client.send(first)
            assert (await client.reply()).status == 200
        await client.send(HEALTHY[:10])
        reply = await client.reply()
        assert await client.closed() == b""

    assert reply.status == 408
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("first", [b"", HEALTHY])
async def test_a_head_that_comes_byte_by_byte_is_cut_off(limited: Start, first: bytes) -> None:
    server = await limited(header_seconds=0.2, idle_seconds=60)
    async with await server.connect() as client:
        if first:
            await client.send(first)
            assert (await client.reply()).status == 200
        await client.send(HEALTHY[:10])

        def drip() -> bool:
            if not client.writer.is_closing():
                client.writer.write(b"x")
            return server.metric("flowd_connections") == 0

        await server.until(drip)


async def test_a_connection_between_requests_is_closed_after_a_while(limited: Start) -> None:
    server = await limited(idle_seconds=0.1, header_seconds=60)
    async with await server.connect() as client:
        assert (await client.request("GET", "/-/healthy")).status == 200
        assert await client.closed() == b""


@pytest.mark.parametrize("more", [b" ", b""])
async def test_a_body_that_comes_too_slowly_is_refused(limited: Start, more: bytes) -> None:
    server = await limited(body_seconds=0.2)
    async with await server.connect() as client:
        await client.send(b"POST /flows HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        answering = asyncio.create_task(client.reply("POST"))

        def drip() -> bool:
            if not client.writer.is_closing():
                client.writer.write(more)
            return server.metric("flowd_connections") == 0

        await server.until(drip)
        reply = await answering

    assert reply.status == 408
    assert "limits.body_seconds" in reply.detail
    assert reply.headers["connection"] == "close"
    assert server.refused("timeout") == 1
    assert server.metric("flowd_in_flight_bytes") == 0


async def test_a_body_sent_in_time_leaves_the_handler_its_own(limited: Start) -> None:
    server = await limited(body_seconds=0.2, handler_seconds=60)
    server.backend.ingest_gate.clear()
    async with await server.connect() as client:
        await client.send(request_bytes("POST", "/flows", ONE)[:-5])
        await client.send(ONE[-5:])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(client.reader.read(1)), 0.5)
        assert not server.backend.batches


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_batch_that_is_not_acknowledged_in_time_has_an_unknown_outcome(
    limited: Start, keyed: bool
) -> None:
    server = await limited(handler_seconds=0.1)
    server.backend.ingest_gate.clear()
    headers = {"Idempotency-Key": PAST_KEY} if keyed else {}
    async with await server.connect() as client:
        reply = await client.request("POST", "/flows", ONE, headers)

        assert reply.status == (503 if keyed else 500)
        assert reply.problem == "outcome-unknown"
        assert "limits.handler_seconds" in reply.detail
        assert ("retry-after" in reply.headers) == keyed
        assert (await client.request("GET", "/-/healthy")).status == 200


async def test_an_answer_that_takes_too_long_is_given_up(limited: Start) -> None:
    server = await limited(handler_seconds=0.1)
    server.backend.query_gate.clear()
    async with await server.connect() as client:
        reply = await client.request("GET", "/flows?hour=91")

        assert reply.status == 503
        assert reply.problem == "handler-timeout"
        assert reply.headers["retry-after"] == "1"
        assert (await client.request("GET", "/-/healthy")).status == 200
    assert server.metric("flowd_in_flight_queries") == 0


async def test_an_answer_that_stalls_in_the_middle_is_cut(limited: Start, log: Log) -> None:
    server = await limited(handler_seconds=0.2)
    await server.request("POST", "/flows", body(*many(3_000)))
    server.backend.page_gate.clear()
    server.backend.pages_before_gate = 15

    reply = await server.request("GET", "/flows?hour=91")

    assert reply.status == 200
    assert len(reply.body) > 64 * 1024
    assert not reply.complete
    (event,) = log.named("answer_cut")
    assert "limits.handler_seconds" in event["reason"]


@pytest.mark.parametrize("query", ["hour=91", "hour=91&limit=10000"])
async def test_a_client_that_does_not_read_is_cut_off(limited: Start, query: str) -> None:
    server = await limited(handler_seconds=0.3)
    await server.request("POST", "/flows", body(*many(30_000)))
    with socket.socket() as reluctant:
        reluctant.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reluctant.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(reluctant, ("127.0.0.1", server.port))
        # Enough answers that the system's buffers cannot hold them all.
        await loop.sock_sendall(reluctant, request_bytes("GET", f"/flows?{query}") * 8)
        await server.until(lambda: server.metric("flowd_connections") == 1)
        await server.until(lambda: server.metric("flowd_connections") == 0)

    assert server.metric("flowd_in_flight_queries") == 0
    assert server.backend.answers_closed >= 1
    assert (await server.request("GET", "/-/healthy")).status == 200


async def test_the_rest_of_a_refused_body_is_not_taken_for_a_request(limited: Start) -> None:
    server = await limited(body_bytes=1000, body_seconds=1, header_seconds=0.1)
    async with await server.connect() as client:
        await client.send(b"POST /flows HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        reply = await client.reply("POST")
        await client.send(b"some more")

        assert await client.closed() == b""

    assert reply.status == 413
