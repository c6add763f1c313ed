"""A small worker that speaks the real protocol on a real socket and does as a test tells it.

It keeps rows in memory in a real `Shard` and remembers batch ids; it has no log. Run as a program
it is a process that can be killed or frozen: `python -m tests.peer SOCKET` serves shard 0 of 1.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, cast

import msgspec

from flowd.errors import FrameError
from flowd.kernel import load_kernel
from flowd.protocol import (
    PROTOCOL_VERSION,
    Appended,
    AppendHeader,
    Decoder,
    Failed,
    Hello,
    Message,
    MessageType,
    QueryRequest,
    Status,
    encode,
    pack,
    pack_appended,
    pack_page,
    pack_probed,
    unpack_append,
    unpack_buckets,
    unpack_query,
)
from flowd.shard import Shard

BOOT = "b007"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.001)


class Peer:
    """One shard; `held` are the types of requests not to answer until `release`."""

    def __init__(
        self,
        path: Path,
        shard: int = 0,
        shard_count: int = 1,
        *,
        boot: str = BOOT,
        version: int = PROTOCOL_VERSION,
        greets: bool = True,
    ) -> None:
        self.path = path
        self.hello = Hello(
            version=version,
            process=f"worker-{shard}",
            boot=boot,
            shard=shard,
            shard_count=shard_count,
            generation=1,
            kernel="reference",
        )
        self.greets = greets
        self.kernel = load_kernel("reference")
        self.shard = Shard(self.kernel)
        self.batch_ids: set[int] = set()
        self.lsn = 0
        self.floor_ms = 0
        self.writable = True
        self.held: set[MessageType] = set()
        self.requests: list[MessageType] = []
        self.appends: list[AppendHeader] = []
        self.queries: list[QueryRequest] = []
        self.damage: Callable[[MessageType, list[bytes]], list[bytes]] | None = None
        self.connections: list[PeerConnection] = []
        self._held_requests: list[tuple[PeerConnection, Message]] = []
        self._server: asyncio.AbstractServer | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: PeerConnection(self), str(self.path))

    async def stop(self) -> None:
        """Go away as a killed process does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        self.drop()
        await until(lambda: not self.connections)

    def drop(self) -> None:
        """Cut all connections and go on listening."""
        self._held_requests.clear()
        for connection in self.connections:
            connection.transport.abort()

    def count(self, type: MessageType) -> int:
        """How many requests of a type have come."""
        return self.requests.count(type)

    def hold(self, *types: MessageType) -> None:
        self.held.update(types)

    def release(self) -> None:
        """Answer what was held, the latest first, and hold nothing more."""
        self.held.clear()
        held, self._held_requests = self._held_requests, []
        for connection, message in reversed(held):
            self.answer(connection, message)

    def push_status(self, **changes: object) -> None:
        """Tell all connections the status, with changes."""
        status = msgspec.structs.replace(self.status(), **changes)
        for connection in self.connections:
            connection.send(MessageType.STATUS, 0, pack(status))

    def status(self) -> Status:
        return Status(
            writable=self.writable,
            full_reason="" if self.writable else "disk",
            rows=self.shard.rows,
            name_bytes=self.shard.name_bytes,
            batch_ids=len(self.batch_ids),
            floor_ms=self.floor_ms,
        )

    def take(self, connection: "PeerConnection", message: Message) -> None:
        self.requests.append(message.type)
        if message.type in self.held:
            self._held_requests.append((connection, message))
        else:
            self.answer(connection, message)

    def answer(self, connection: "PeerConnection", message: Message) -> None:
        type, request_id, payload = message.type, message.request_id, message.payload
        try:
            answer, parts = self._answer(type, payload)
        except FrameError as error:
            answer = MessageType.FAILED
            parts = [pack(Failed(kind="bad_frame", message=str(error)))]
        if self.damage is not None:
            parts = self.damage(answer, parts)
        connection.send(answer, request_id, *parts)

    def _answer(self, type: MessageType, payload: bytes) -> tuple[MessageType, list[bytes]]:
        match type:
            case MessageType.APPEND:
                return MessageType.APPENDED, [pack_appended(self._append(payload))]
            case MessageType.PROBE:
                new_rows = self.shard.count_new(self.kernel.buckets(payload))
                return MessageType.PROBED, [pack_probed(new_rows)]
            case MessageType.QUERY:
                request = unpack_query(payload)
                self.queries.append(request)
                pages, last = self.shard.page(request.query, request.after, request.rows)
                return MessageType.PAGE, pack_page(pages, last=last)
            case MessageType.BUCKETS:
                sums = self.shard.buckets(digest=unpack_buckets(payload).digest)
                return MessageType.BUCKET_SUMS, [pack(sums)]
            case MessageType.PING:
                return MessageType.PONG, []
        failed = Failed(kind="bad_request", message=f"{type.name} is no request")
        return MessageType.FAILED, [pack(failed)]

    def _append(self, payload: bytes) -> Appended:
        header, frame = unpack_append(payload)
        self.appends.append(header)
        duplicate = header.batch_id in self.batch_ids
        if not duplicate:
            slices = self.kernel.buckets(frame)
            self.lsn += 1
            self.shard.apply(slices, self.lsn)
            if header.batch_id:
                self.batch_ids.add(header.batch_id)
        return Appended(
            duplicate, self.shard.rows, self.shard.name_bytes, len(self.batch_ids), self.floor_ms
        )


class PeerConnection(asyncio.Protocol):
    """One router's connection to a Peer."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._decoder = Decoder()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._peer.connections.append(self)
        if self._peer.greets:
            self.send(MessageType.HELLO, 0, pack(self._peer.hello))
            self.send(MessageType.STATUS, 0, pack(self._peer.status()))

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.connections.remove(self)

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            self._peer.take(self, message)

    def send(self, type: MessageType, request_id: int, *parts: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.writelines(encode(type, request_id, *parts))


async def _serve(path: Path, held: list[str]) -> None:
    peer = Peer(path)
    peer.hold(*(MessageType[name] for name in held))
    await peer.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2:]))
