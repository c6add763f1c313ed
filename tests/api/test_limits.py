"""Every bound on what one client, or all of them, may cost."""

import asyncio
import gzip
import resource
import socket
import zlib
from contextlib import AsyncExitStack

import pytest
from backports import zstd

from tests.api.conftest import Log, Server, Start
from tests.api.flows import body, flow
from tests.api.http_client import request_bytes

ONE = body(flow())
MIB = 1024 * 1024


def post_head(*fields: str) -> bytes:
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"POST /flows HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(
    limited: Start,
) -> None:
    server = await limited(body_bytes=1000)
    async with await server.connect() as client:
        await client.send(post_head("Content-Length: 1001", "Expect: 100-continue"))
        reply = await client.reply("POST")

    assert reply.status == 413
    assert "1001 bytes" in reply.detail
    assert "limits.body_bytes = 1000" in reply.detail
    assert reply.headers["connection"] == "close"
    assert server.refused("too_large") == 1


async def test_a_body_of_exactly_the_limit_is_taken(limited: Start) -> None:
    server = await limited(body_bytes=len(ONE), body_decoded_bytes=len(ONE))

    assert (await server.request("POST", "/flows", ONE)).status == 204
    assert (await server.request("POST", "/flows", ONE + b" ")).status == 413
    packed = gzip.compress(ONE + b" ", mtime=0)
    server = await limited(body_bytes=len(packed), body_decoded_bytes=len(ONE))
    reply = await server.request("POST", "/flows", packed, {"Content-Encoding": "gzip"})
    assert reply.status == 413
    assert "limits.body_decoded_bytes" in reply.detail
    server = await limited(body_decoded_bytes=len(ONE))
    reply = await server.request("POST", "/flows", ONE + b" ")
    assert reply.status == 413
    assert "limits.body_decoded_bytes" in reply.detail


async def test_a_chunked_body_is_refused_when_it_passes_the_limit(limited: Start) -> None:
    server = await limited(body_bytes=1000)
    async with await server.connect() as client:
        await client.send(post_head("Transfer-Encoding: chunked"))
        for _ in range(11):
            await client.send(b"64\r\n" + b" " * 100 + b"\r\n")
        reply = await client.reply("POST")

    assert reply.status == 413
    assert await server.stored() == []
    assert server.metric("flowd_in_flight_bytes") == 0


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_hundred_bombs_at_once_cost_no_more_than_the_limits(
    limited: Start, coding: str
) -> None:
    server = await limited(body_decoded_bytes=8 * MIB, in_flight_bytes=32 * MIB)
    bomb = {"gzip": gzip.compress, "zstd": zstd.compress}[coding](b" " * (64 * MIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    post = request_bytes("POST", "/flows", bomb, {"Content-Encoding": coding})
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await server.connect()) for _ in range(100)]
        await asyncio.gather(*(client.send(post) for client in clients))
        replies = await asyncio.gather(*(client.reply("POST") for client in clients))

    assert {reply.status for reply in replies} <= {413, 503}
    assert 413 in {reply.status for reply in replies}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < 96 * MIB
    assert server.metric("flowd_in_flight_bytes") == 0
    assert await server.stored() == []


async def test_other_requests_are_answered_while_a_bomb_is_decoded(limited: Start) -> None:
    server = await limited()
    bomb = zlib.compress(b" " * (80 * MIB), 1, wbits=31)
    async with await server.connect() as client:
        await client.send(request_bytes("POST", "/flows", bomb, {"Content-Encoding": "gzip"}))
        await asyncio.sleep(0)
        answering = asyncio.create_task(client.reply("POST"))
        answered = 0
        while not answering.done():
            assert (await server.request("GET", "/-/healthy")).status == 200
            answered += 1

    assert (await answering).status == 413
    assert answered >= 3


async def test_a_zstd_window_over_8_mib_is_refused(server: Server) -> None:
    options = {zstd.CompressionParameter.window_log: 24}
    compressor = zstd.ZstdCompressor(options=options)
    sent = compressor.compress(ONE) + compressor.flush()

    reply = await server.request("POST", "/flows", sent, {"Content-Encoding": "zstd"})

    assert reply.status == 400
    assert "window" in reply.detail


async def test_bodies_in_hand_are_bounded(limited: Start) -> None:
    server = await limited(in_flight_bytes=1000, routers=1)
    async with await server.connect() as client:
        await client.send(post_head("Content-Length: 950"))
        await server.until(lambda: server.metric("flowd_in_flight_bytes") == 950)

        refused = await server.request("POST", "/flows", ONE)
        client.close()
        await server.until(lambda: server.metric("flowd_in_flight_bytes") == 0)
        taken = await server.request("POST", "/flows", ONE)

    assert refused.status == 503
    assert refused.problem == "overloaded"
    assert refused.headers["retry-after"] == "1"
    assert "limits.in_flight_bytes" in refused.detail
    assert server.refused("in_flight") == 1
    assert taken.status == 204


async def test_a_body_that_would_never_fit_is_too_large(limited: Start) -> None:
    server = await limited(in_flight_bytes=200, routers=2)

    reply = await server.request("POST", "/flows", ONE + b" " * 10)

    assert reply.status == 413
    assert "limits.in_flight_bytes" in reply.detail


async def test_decompressed_bytes_count_as_in_flight(limited: Start) -> None:
    server = await limited(in_flight_bytes=1000)
    headers = {"Content-Encoding": "gzip"}
    fits = gzip.compress(ONE + b" " * 700)
    not_fits = gzip.compress(ONE + b" " * 900)

    server.backend.ingest_gate.clear()
    async with await server.connect() as client:
        await client.send(request_bytes("POST", "/flows", fits, headers))
        await server.until(lambda: server.metric("flowd_in_flight_bytes") == len(ONE) + 700)
        server.backend.ingest_gate.set()
        assert (await client.reply("POST")).status == 204
    assert (await server.request("POST", "/flows", not_fits, headers)).status == 413
    assert server.metric("flowd_in_flight_bytes") == 0


async def test_answers_being_made_are_bounded(limited: Start) -> None:
    server = await limited(queries=2, routers=2)
    server.backend.query_gate.clear()
    async with await server.connect() as client:
        await client.send(request_bytes("GET", "/flows?hour=1"))
        await server.until(lambda: server.metric("flowd_in_flight_queries") == 1)

        refused = [
            await server.request("GET", "/flows?hour=1"),
            await server.request("GET", "/hours"),
        ]
        server.backend.query_gate.set()
        taken = await client.reply()

    assert [reply.status for reply in refused] == [503, 503]
    assert "limits.queries" in refused[0].detail
    assert refused[0].headers["retry-after"] == "1"
    assert taken.status == 200
    await server.until(lambda: server.metric("flowd_in_flight_queries") == 0)


async def test_connections_are_bounded(limited: Start) -> None:
    server = await limited(connections=4, routers=2)
    async with await server.connect() as one, await server.connect() as two:
        assert (await one.request("GET", "/-/healthy")).status == 200
        assert (await two.request("GET", "/-/healthy")).status == 200
        async with await server.connect() as three:
            reply = await three.reply()
            assert await three.closed() == b""
        assert server.metric("flowd_connections") == 2

    assert reply.status == 503
    assert b"limits.connections" in reply.body
    assert server.refused("connections") == 1
    await server.until(lambda: server.metric("flowd_connections") == 0)
    assert (await server.request("GET", "/-/healthy")).status == 200


async def test_a_client_that_sends_ahead_has_to_wait_for_its_answers(limited: Start) -> None:
    server = await limited(receive_bytes=32 * 1024)
    server.backend.ingest_gate.clear()
    post = request_bytes("POST", "/flows", ONE + b" " * 200_000)
    loop = asyncio.get_running_loop()
    sent = 0

    async def flood(ahead: socket.socket) -> None:
        nonlocal sent
        for start in range(0, len(post) * 40, 10_000):
            await loop.sock_sendall(ahead, (post * 2)[start % len(post) :][:10_000])
            sent = start + 10_000

    with socket.socket() as ahead:
        ahead.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        ahead.setblocking(False)
        await loop.sock_connect(ahead, ("127.0.0.1", server.port))
        flooding = asyncio.create_task(flood(ahead))
        await server.until(lambda: server.metric("flowd_in_flight_bytes") > 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(flooding), 0.5)
        # One in hand, two behind it, a part of the next, and the system's small buffers.
        sent_ahead = sent
        server.backend.ingest_gate.set()
        await asyncio.wait_for(flooding, 20)
        await server.until(lambda: len(server.backend.batches) == 40)

    assert sent_ahead < 2_000_000


async def test_refusals_in_a_loop_do_not_fill_the_log(server: Server, log: Log) -> None:
    async with await server.connect() as client:
        for _ in range(60):
            assert (await client.request("GET", "/flows")).status == 400

    assert 20 <= len(log.named("refused")) <= 25
