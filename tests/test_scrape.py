"""A scrape shows every process that answers, and nothing of those that do not."""

import asyncio
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from flowd import scrape
from flowd.metrics import snapshot
from flowd.protocol import MessageType, encode
from flowd.scrape import gather, serve_metrics


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    # pytest's own directories can be too deep for the address of a socket.
    with tempfile.TemporaryDirectory(prefix="flowd-") as name:
        yield Path(name)


def registry_with(value: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("thing", "A thing.", registry=registry).set(value)
    return registry


@asynccontextmanager
async def answering(runtime_dir: Path, process: str, value: float) -> AsyncIterator[None]:
    server = await serve_metrics(runtime_dir / f"{process}.sock", registry_with(value))
    try:
        yield
    finally:
        server.close()


def things(text: str) -> dict[str, float]:
    (family,) = text_string_to_metric_families(text)
    return {sample.labels["process"]: sample.value for sample in family.samples}


async def test_all_processes_are_in_one_text_in_order_of_role_and_number(runtime_dir: Path) -> None:
    async with (
        answering(runtime_dir, "worker-10", 10),
        answering(runtime_dir, "worker-2", 2),
        answering(runtime_dir, "supervisor", 3),
        answering(runtime_dir, "router-0", -1),  # its own socket, which it need not ask
    ):
        text = await gather(runtime_dir, "router-0", registry_with(4))
    assert list(things(text).items()) == [
        ("router-0", 4),
        ("supervisor", 3),
        ("worker-2", 2),
        ("worker-10", 10),
    ]


async def test_a_process_that_is_gone_has_no_series(runtime_dir: Path) -> None:
    async with answering(runtime_dir, "worker-0", 1):
        async with answering(runtime_dir, "worker-1", 1):
            assert "worker-1" in await gather(runtime_dir, "router-0", registry_with(0))
        assert (runtime_dir / "worker-1.sock").exists()
        text = await gather(runtime_dir, "router-0", registry_with(0))
    assert list(things(text)) == ["router-0", "worker-0"]


async def test_a_process_that_hangs_is_left_out_after_the_time_limit(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "ANSWER_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(runtime_dir / "worker-1.sock"))
        hung.listen()  # connections are taken by the system, nobody reads them
        async with answering(runtime_dir, "worker-0", 1):
            started = time.monotonic()
            text = await gather(runtime_dir, "router-0", registry_with(0))
    assert list(things(text)) == ["router-0", "worker-0"]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("answer", [b"", b"garbage that is long enough to be a header"])
async def test_a_process_that_closes_or_speaks_garbage_is_left_out(
    runtime_dir: Path, answer: bytes
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(16)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(speak, runtime_dir / "worker-1.sock")
    text = await gather(runtime_dir, "router-0", registry_with(7))
    server.close()
    assert things(text) == {"router-0": 7}


async def test_what_a_worker_says_unasked_is_passed_over(runtime_dir: Path) -> None:
    packed = snapshot(registry_with(5))

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(encode(MessageType.HELLO, 0, b"hello"))
        writer.writelines(encode(MessageType.STATUS, 0, b"status"))
        await reader.readexactly(16)
        for byte in b"".join(encode(MessageType.SNAPSHOT, 1, packed)):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)  # so that whoever reads gets it in pieces
        writer.close()

    server = await asyncio.start_unix_server(speak, runtime_dir / "worker-0.sock")
    text = await gather(runtime_dir, "router-0", registry_with(7))
    server.close()
    assert things(text) == {"router-0": 7, "worker-0": 5}


async def test_the_socket_is_for_its_owner_alone_and_replaces_a_dead_one(runtime_dir: Path) -> None:
    path = runtime_dir / "supervisor.sock"
    for value in (1, 2):
        async with answering(runtime_dir, "supervisor", value):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            text = await gather(runtime_dir, "router-0", registry_with(0))
        assert things(text)["supervisor"] == value


@pytest.mark.parametrize("request_bytes", [b"\xff" * 16, b"".join(encode(MessageType.PING, 1))])
async def test_whoever_asks_for_anything_else_is_cut_off(
    runtime_dir: Path, request_bytes: bytes
) -> None:
    async with answering(runtime_dir, "supervisor", 1):
        reader, writer = await asyncio.open_unix_connection(runtime_dir / "supervisor.sock")
        writer.write(request_bytes)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert things(await gather(runtime_dir, "router-0", registry_with(0)))["supervisor"] == 1
