import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import uvloop
from prometheus_client import CollectorRegistry

from flowd.api import serve_http
from flowd.config import Config, LimitsConfig
from flowd.data_directory import Identity
from flowd.kernel import load_kernel
from flowd.metrics import RouterMetrics
from tests.api.http_client import Client, Reply
from tests.api.table_backend import TableBackend

Start = Callable[..., Awaitable["Server"]]

SHARDS = 3
SEED = 0x5EED


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Routers run on uvloop, whose transports differ from asyncio's."""
    return {"uvloop": uvloop.new_event_loop}


class Server:
    """A router's HTTP side, really listening, over a backend in this process."""

    def __init__(self, port: int, backend: TableBackend, registry: CollectorRegistry) -> None:
        self.port = port
        self.backend = backend
        self.registry = registry
        self.stop = asyncio.Event()
        self.serving: asyncio.Task[None] | None = None

    async def connect(self) -> Client:
        return await Client.connect(self.port)

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        async with await self.connect() as client:
            return await client.request(method, target, body, headers)

    async def stored(self) -> Any:
        """Every row there is."""
        reply = await self.request("GET", "/flows?from=0&to=4294967296")
        assert reply.status == 200
        assert reply.complete
        return reply.json

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(15):
            while not met():  # noqa: ASYNC110  # nobody tells of a metric or a closed socket
                await asyncio.sleep(0.005)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def refused(self, reason: str) -> float:
        return self.metric("flowd_batches_refused_total", reason=reason)


@asynccontextmanager
async def run_server(
    config: Config, page_rows: int = 100, receive_bytes: int = 0
) -> AsyncIterator[Server]:
    listen_socket = socket.create_server(("127.0.0.1", 0))
    if receive_bytes:
        listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    kernel = load_kernel("reference")
    registry = CollectorRegistry()
    backend = TableBackend(kernel, SHARDS, page_rows)
    server = Server(listen_socket.getsockname()[1], backend, registry)

    async def scrape() -> str:
        return "# HELP flowd_up 1\n"

    server.serving = asyncio.create_task(
        serve_http(
            config=config,
            kernel=kernel,
            backend=backend,
            identity=Identity(
                generation=1, shards=SHARDS, seed=f"{SEED:016x}", directory_id="0" * 32
            ),
            metrics=RouterMetrics(registry),
            listen_socket=listen_socket,
            scrape=scrape,
            stop=server.stop,
        )
    )
    try:
        yield server
    finally:
        server.stop.set()
        server.backend.ingest_gate.set()
        server.backend.query_gate.set()
        server.backend.page_gate.set()
        await asyncio.wait_for(server.serving, 30)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with run_server(Config()) as running:
        yield running


@pytest.fixture
async def limited() -> AsyncIterator[Start]:
    """Start a server with some limits set."""
    stack: list[Any] = []

    async def start(
        page_rows: int = 100, routers: int = 1, receive_bytes: int = 0, **limits: Any
    ) -> Server:
        config = Config(limits=LimitsConfig(**limits), routers=routers)
        running = run_server(config, page_rows, receive_bytes)
        server = await running.__aenter__()
        stack.append(running)
        return server

    yield start
    for running in reversed(stack):
        await running.__aexit__(None, None, None)


class Log:
    """Everything that was logged.

    Attributes:
        events: flowd's own.
        faults_expected: set by a test that provokes a fault of flowd's.
    """

    def __init__(self, events: list[MutableMapping[str, Any]]) -> None:
        self.events = events
        self.faults_expected = False

    def named(self, name: str) -> list[MutableMapping[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """The log, and the proof that no client's doing puts a traceback there."""
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as events:
        found = Log(events)
        yield found
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert not [record.getMessage() for record in records if record.exc_info]
    if not found.faults_expected:
        assert not [event for event in events if event.get("exc_info")]
