"""A worker's socket: every request of the protocol, asked of a real shard on a real disk."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from flowd.config import Config, LimitsConfig, WalConfig
from flowd.filesystem import LocalFileSystem
from flowd.kernel import load_kernel
from flowd.metrics import WorkerMetrics
from flowd.protocol import (
    PROTOCOL_VERSION,
    AppendHeader,
    BucketsRequest,
    Decoder,
    Hello,
    Message,
    MessageType,
    QueryRequest,
    encode,
    pack,
    pack_append,
    unpack_appended,
    unpack_bucket_sums,
    unpack_failed,
    unpack_hello,
    unpack_page,
    unpack_probed,
    unpack_status,
)
from flowd.query import Query
from flowd.store import Store
from flowd.wal import LogIdentity
from flowd.worker import serve_worker
from tests.faulty_files import Fault, FaultyFileSystem, disk_full
from tests.test_group_commit import frame

KERNEL = load_kernel("reference")
CONFIG = Config(wal=WalConfig(segment_bytes=64 * 1024), limits=LimitsConfig(free_disk_bytes=0))
HELLO = Hello(
    version=PROTOCOL_VERSION,
    process="worker-0",
    boot="b",
    shard=0,
    shard_count=1,
    generation=1,
    kernel="reference",
)


class Router:
    """The asking end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._decoder = Decoder()
        self._messages: list[Message] = []

    @classmethod
    async def connect(cls, path: Path) -> "Router":
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def receive(self) -> Message:
        while not self._messages:
            data = await self._reader.read(65_536)
            if not data:
                raise ConnectionError("closed")
            self._messages += self._decoder.feed(data)
        return self._messages.pop(0)

    def send(self, type: MessageType, request_id: int, *parts: bytes) -> None:
        self.writer.writelines(encode(type, request_id, *parts))

    async def ask(self, type: MessageType, request_id: int, *parts: bytes) -> Message:
        self.send(type, request_id, *parts)
        while True:
            message = await self.receive()
            if message.request_id == request_id:
                return message


@asynccontextmanager
async def running_worker(
    directory: Path, files: LocalFileSystem | None = None
) -> AsyncIterator[tuple[Path, Store, asyncio.Event]]:
    """Serve a shard until the block ends; the event drains it before that."""
    identity = LogIdentity(bytes(16), 1, 0, 1)
    store = Store.open(files or LocalFileSystem(), directory, identity, KERNEL, CONFIG)
    registry = CollectorRegistry()
    stop, ready = asyncio.Event(), asyncio.Event()
    path = directory / "w.sock"
    serving = asyncio.create_task(
        serve_worker(
            config=CONFIG,
            kernel=KERNEL,
            store=store,
            metrics=WorkerMetrics(registry),
            registry=registry,
            socket_path=path,
            hello=HELLO,
            ready=ready.set,
            stop=stop,
        )
    )
    await ready.wait()
    try:
        yield path, store, stop
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await serving


def append(batch_id: int, content: bytes) -> tuple[bytes, bytes]:
    return pack_append(AppendHeader(batch_id, 0, 0, 1)), content


async def test_it_greets_and_answers_every_request(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as (path, _, _):
        router = await Router.connect(path)
        assert unpack_hello((await router.receive()).payload) == HELLO
        status = unpack_status((await router.receive()).payload)
        assert (status.writable, status.rows) == (True, 0)
        answer = await router.ask(MessageType.PROBE, 1, frame(1, size=3))
        assert unpack_probed(answer.payload) == 3
        answer = await router.ask(MessageType.APPEND, 2, *append(7, frame(1, size=3)))
        appended = unpack_appended(answer.payload)
        assert (appended.duplicate, appended.rows, appended.batch_ids) == (False, 3, 1)
        answer = await router.ask(MessageType.APPEND, 3, *append(7, frame(1, size=3)))
        assert unpack_appended(answer.payload).duplicate
        answer = await router.ask(MessageType.PROBE, 4, frame(1, size=4))
        assert unpack_probed(answer.payload) == 1
        request = QueryRequest(Query(hour_from=0, hour_to=10), None, 2)
        page = unpack_page((await router.ask(MessageType.QUERY, 5, pack(request))).payload)
        assert (sum(map(KERNEL.frame_flows, page.pages)), page.last) == (2, False)
        answer = await router.ask(MessageType.BUCKETS, 6, pack(BucketsRequest(True)))
        (sums,) = unpack_bucket_sums(answer.payload)
        assert (sums.start, sums.rows, sums.bytes_tx) == (3, 3, 3)
        assert sums.digest is not None
        assert (await router.ask(MessageType.PING, 7)).type is MessageType.PONG
        answer = await router.ask(MessageType.METRICS, 8)
        assert b"flowd_rows" in answer.payload
        router.writer.close()


async def test_a_status_follows_what_changed(tmp_path: Path) -> None:
    files = FaultyFileSystem()
    async with running_worker(tmp_path, files) as (path, _, _):
        router = await Router.connect(path)
        watcher = await Router.connect(path)
        for _ in range(2):
            await watcher.receive()
        await router.ask(MessageType.APPEND, 1, *append(0, frame(1, size=100)))
        assert unpack_status((await watcher.receive()).payload).rows == 100
        files.fault = Fault("create", 1, disk_full(), lasting=True)
        number = 2
        while True:
            await router.ask(MessageType.APPEND, number, *append(0, frame(number, size=100)))
            number += 1
            status = unpack_status((await watcher.receive()).payload)
            if not status.writable:
                break
        assert status.full_reason == "disk"
        files.fault = None
        while not unpack_status((await watcher.receive()).payload).writable:
            pass
        router.writer.close()
        watcher.writer.close()


async def test_a_bad_frame_fails_that_request_alone(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as (path, store, _):
        router = await Router.connect(path)
        for request_id, type in enumerate((MessageType.APPEND, MessageType.PROBE), 1):
            parts = append(0, b"x" * 40) if type is MessageType.APPEND else (b"x" * 40,)
            answer = await router.ask(type, request_id, *parts)
            assert answer.type is MessageType.FAILED
            assert unpack_failed(answer.payload).kind == "bad_frame"
        await router.ask(MessageType.APPEND, 9, *append(0, frame(1)))
        assert store.shard.rows == 1
        router.writer.close()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n" * 3, b"".join(encode(MessageType.PAGE, 1, b"\x01"))],
    ids=["http", "an-answer"],
)
async def test_garbage_closes_the_connection_and_no_other(tmp_path: Path, garbage: bytes) -> None:
    async with running_worker(tmp_path) as (path, _, _):
        good = await Router.connect(path)
        bad = await Router.connect(path)
        bad.writer.write(garbage)
        for _ in ("hello", "status"):
            await bad.receive()
        with pytest.raises(ConnectionError):
            await bad.receive()
        assert (await good.ask(MessageType.PING, 1)).type is MessageType.PONG
        bad.writer.close()
        good.writer.close()


async def test_drain_answers_what_it_has_and_leaves_it_on_disk(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as (path, store, stop):
        router = await Router.connect(path)
        for number in range(1, 21):
            router.send(MessageType.APPEND, number, *append(0, frame(number)))
        await router.ask(MessageType.PING, 99)
        stop.set()
        answered = set()
        while len(answered) < 20:
            message = await router.receive()
            if message.type is MessageType.APPENDED:
                answered.add(message.request_id)
        assert store.shard.rows == 20
        router.writer.close()
    again = Store.open(LocalFileSystem(), tmp_path, LogIdentity(bytes(16), 1, 0, 1), KERNEL, CONFIG)
    assert again.shard.rows == 20
    again.close()


async def test_a_peer_that_reads_no_answers_is_not_read_from_for_ever(tmp_path: Path) -> None:
    """Its requests stay in the socket's buffers, which are bounded, not in the worker's memory."""
    async with running_worker(tmp_path) as (path, _, _):
        filler = await Router.connect(path)
        for number in range(10):
            await filler.ask(MessageType.APPEND, number + 1, *append(0, frame(number, size=400)))
        request = b"".join(
            encode(
                MessageType.QUERY, 1, pack(QueryRequest(Query(hour_from=0, hour_to=9), None, 4000))
            )
        )
        silent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        silent.connect(str(path))
        silent.setblocking(False)
        sent, refused = 0, 0
        while refused < 50:
            try:
                sent += silent.send(request)
                refused = 0
            except BlockingIOError:
                refused += 1
                await asyncio.sleep(0.001)
            assert sent < 50_000_000
        assert (await filler.ask(MessageType.PING, 99)).type is MessageType.PONG
        silent.close()
        filler.writer.close()


async def test_status_survives_a_restart_of_the_worker(tmp_path: Path) -> None:
    for number in range(1, 4):
        async with running_worker(tmp_path) as (path, _, _):
            router = await Router.connect(path)
            await router.ask(MessageType.APPEND, 1, *append(number, frame(number)))
            router.writer.close()
            again = await Router.connect(path)
            assert unpack_hello((await again.receive()).payload) == HELLO
            assert unpack_status((await again.receive()).payload).batch_ids == number
            again.writer.close()
