"""A client that costs little: it writes prepared requests to open connections and reads statuses.

`drive` keeps every connection busy, for rates and CPU time; `pace` sends at a fixed rate and counts
each answer's time from the moment the request was due, so that a slow server cannot hide behind a
client that waits for it. Any answer but a 2xx ends the run.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import cast


class LoadFailure(Exception):
    """A request was not answered with a 2xx; the text has the answer."""


@dataclass
class Run:
    """What a run of requests came to.

    Attributes:
        requests: how many were answered.
        seconds: from the first request to the last answer.
        latencies: of each request, in seconds, in order of the answers.
    """

    requests: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def latency(self, quantile: float) -> float:
        """Tell the latency in seconds that a share of the requests did not exceed.

        Raises:
            LoadFailure: there was no request.
        """
        if not self.latencies:
            raise LoadFailure("no request was answered")
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


async def drive(
    host: str,
    port: int,
    requests: Iterable[bytes],
    *,
    connections: int,
    seconds: float = math.inf,
) -> Run:
    """Send requests as fast as they are answered.

    Args:
        host: where flowd listens.
        port: likewise.
        requests: what to send, in turn.
        connections: how many to keep busy.
        seconds: when to stop if there are still requests.

    Raises:
        LoadFailure: an answer was not a 2xx, or a connection was lost.
    """
    run = Run()
    pending = iter(requests)
    started = deadline = 0.0

    async def keep_busy(connection: Connection) -> None:
        now = time.perf_counter()
        for request in pending:
            sent = now
            await connection.ask(request)
            now = time.perf_counter()
            run.latencies.append(now - sent)
            if now >= deadline:
                return

    async with _connections(host, port, connections) as open_connections:
        started = time.perf_counter()
        deadline = started + seconds
        await _run_all(map(keep_busy, open_connections))
    run.requests = len(run.latencies)
    run.seconds = time.perf_counter() - started
    return run


async def pace(
    host: str,
    port: int,
    requests: Iterable[bytes],
    *,
    rate: float,
    seconds: float,
    connections: int,
) -> Run:
    """Send requests at a fixed rate; see `drive` for the rest.

    Args:
        host: where flowd listens.
        port: likewise.
        requests: what to send, in turn, without end.
        rate: requests a second.
        seconds: for how long.
        connections: how many requests may be under way; more than that wait, and that counts.
    """
    run = Run()
    due = iter(enumerate(islice(requests, max(1, int(rate * seconds)))))
    started = 0.0

    async def send_what_is_due(connection: Connection) -> None:
        for index, request in due:
            at = started + index / rate
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            await connection.ask(request)
            run.latencies.append(time.perf_counter() - at)

    async with _connections(host, port, connections) as open_connections:
        started = time.perf_counter()
        await _run_all(map(send_what_is_due, open_connections))
    run.requests = len(run.latencies)
    run.seconds = time.perf_counter() - started
    return run


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._answer: asyncio.Future[None] | None = None
        self._lost: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits."""
        self._lost = LoadFailure(f"the connection was lost: {exc or 'closed by flowd'}")
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._lost)

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        received = self._received + data if self._received else data
        head_bytes = received.find(b"\r\n\r\n") + 4
        if head_bytes < 4 or len(received) < head_bytes + _body_bytes(received[:head_bytes]):
            self._received = received
            return
        self._received = b""
        if self._answer is None or self._answer.done():
            return
        if received.startswith(b"HTTP/1.1 2"):
            self._answer.set_result(None)
        else:
            text = received[:2_000].decode(errors="replace")
            self._answer.set_exception(LoadFailure(f"not a 2xx:\n{text}"))

    async def ask(self, request: bytes) -> None:
        """Send a request; return when its answer is whole.

        Raises:
            LoadFailure: it was not a 2xx, or the connection was lost.
        """
        if self._lost is not None:
            raise self._lost
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._answer

    def close(self) -> None:
        """Close it; whatever is under way is forgotten."""
        self._answer = None
        self._transport.abort()


@asynccontextmanager
async def _connections(host: str, port: int, count: int) -> AsyncIterator[deque[Connection]]:
    loop = asyncio.get_running_loop()
    opened: deque[Connection] = deque()
    try:
        for _ in range(count):
            opened.append((await loop.create_connection(Connection, host, port))[1])
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def _run_all(coroutines: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all until the last has ended or the first has failed."""
    failures: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except* LoadFailure as failed:
        failures += failed.exceptions
    if failures:
        raise failures[0]


def _body_bytes(head: bytes) -> int:
    """Read Content-Length; an answer to a POST without one has no body."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
