"""The load client against a server of a few lines: what it counts, what it calls a failure."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle, islice

import pytest

from loadtest.client import LoadFailure, Run, drive, pace
from loadtest.fetch import fetch
from loadtest.posts import keyed_requests, post_request

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
Answer = Callable[[bytes], Awaitable[list[bytes]]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[int]:
    """Serve on a free port; `answer` gives the pieces of an answer, an empty one cuts it off."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                for piece in await answer(head):
                    if not piece:
                        return
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield running.sockets[0].getsockname()[1]
    finally:
        running.close()


def always(*pieces: bytes) -> Answer:
    async def answer(_: bytes) -> list[bytes]:
        return list(pieces)

    return answer


async def test_drive_sends_each_request_once_over_all_connections() -> None:
    seen: list[bytes] = []

    async def answer(head: bytes) -> list[bytes]:
        seen.append(head)
        return [NO_CONTENT]

    async with server(answer) as port:
        run = await drive("127.0.0.1", port, [post_request(b"[]")] * 25, connections=4)
    assert (run.requests, len(seen), len(run.latencies)) == (25, 25, 25)
    assert 0 < run.latency(0.5) <= run.latency(0.99) <= run.seconds


async def test_drive_stops_when_its_time_is_over() -> None:
    async with server(always(NO_CONTENT)) as port:
        requests = cycle([post_request(b"[]")])
        run = await drive("127.0.0.1", port, requests, connections=2, seconds=0.1)
    assert run.requests > 2
    assert 0.1 <= run.seconds < 5


async def test_pace_sends_at_its_rate_and_counts_from_when_a_request_was_due() -> None:
    gate = asyncio.Event()

    async def answer(_: bytes) -> list[bytes]:
        await gate.wait()
        return [NO_CONTENT]

    async with server(answer) as port:
        asyncio.get_running_loop().call_later(0.3, gate.set)
        requests = cycle([post_request(b"[]")])
        run = await pace("127.0.0.1", port, requests, rate=100, seconds=0.2, connections=1)
    # The 20th was due after 0.19 s and could not even be sent before 0.3 s.
    assert run.requests == 20
    assert min(run.latencies) >= 0.1


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok", b""),
        (b"",),
    ],
)
async def test_anything_but_a_whole_2xx_ends_the_run(pieces: tuple[bytes, ...]) -> None:
    async with server(always(*pieces)) as port:
        with pytest.raises(LoadFailure):
            await drive("127.0.0.1", port, [post_request(b"[]")] * 10, connections=3)


async def test_an_answer_in_pieces_is_one_answer() -> None:
    pieces = (b"HTTP/1.1 200 O", b"K\r\nContent-Length: 4\r\n", b"\r\nok", b"ok")
    async with server(always(*pieces)) as port:
        run = await drive("127.0.0.1", port, [post_request(b"[]")] * 5, connections=1)
    assert run.requests == 5


async def test_a_get_is_timed_to_its_first_and_last_byte() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with server(always(head, b"2\r\n[]\r\n", b"0\r\n\r\n", b"")) as port:
        fetched = await fetch("127.0.0.1", port, "/flows?hour=91")
    assert fetched.size_bytes == len(head) + len(b"2\r\n[]\r\n0\r\n\r\n")
    assert 0 < fetched.first_byte_seconds <= fetched.seconds


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\n[]\r\n", b""),
        (b"HTTP/1.1 503 Busy\r\n\r\n", b""),
        (b"",),
    ],
)
async def test_a_get_that_is_refused_or_cut_off_is_a_failure(pieces: tuple[bytes, ...]) -> None:
    async with server(always(*pieces)) as port:
        with pytest.raises(LoadFailure):
            await fetch("127.0.0.1", port, "/flows?hour=91")


def test_each_keyed_request_has_a_uuid7_of_its_own() -> None:
    keys = [
        uuid.UUID(request.partition(b"Idempotency-Key: ")[2][:36].decode())
        for request in islice(keyed_requests([b"[]"]), 100)
    ]
    assert len(set(keys)) == 100
    assert {(key.version, key.variant) for key in keys} == {(7, uuid.RFC_4122)}
    assert keys[-1].int >> 80 >= keys[0].int >> 80 > 1_700_000_000_000


def test_a_run_without_requests_has_no_latency() -> None:
    with pytest.raises(LoadFailure, match="no request"):
        Run().latency(0.5)
