"""One shard behind a UNIX socket: the protocol's requests in, its answers out.

A worker never refuses an append: it stores it, says that it is a duplicate, or dies. Answers to
appends are sent when their group is durable and applied; a connection that does not read its
answers is no longer read from. Only processes of the same user may connect.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry

from flowd.config import Config
from flowd.errors import FlowdError, FrameError, ProtocolError
from flowd.group_commit import GroupCommit
from flowd.kernel.interface import Kernel
from flowd.logs import get_logger
from flowd.metrics import WorkerMetrics, snapshot
from flowd.peer_credentials import is_same_user
from flowd.protocol import (
    Appended,
    Decoder,
    Failed,
    Hello,
    Message,
    MessageType,
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
from flowd.store import Staged, Store

_STATUS_SECONDS = 0.1
_EXIT_FATAL = 1

log = get_logger()


async def serve_worker(
    *,
    config: Config,
    kernel: Kernel,
    store: Store,
    metrics: WorkerMetrics,
    registry: CollectorRegistry,
    socket_path: Path,
    hello: Hello,
    ready: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Serve one shard until told to stop, then sync and close it.

    Args:
        config: the settings.
        kernel: the data plane.
        store: the shard, opened.
        metrics: to count with.
        registry: what METRICS answers.
        socket_path: where to listen; a socket left there by a dead process is replaced.
        hello: what to tell those who connect.
        ready: called once the socket is there.
        stop: set to drain.

    Raises:
        OSError: the socket cannot be made.
    """
    worker = Worker(config, kernel, store, metrics, registry, hello)
    await worker.serve(socket_path, ready, stop)


class Worker:
    """What all connections of a worker share; the arguments are those of `serve_worker`."""

    def __init__(
        self,
        config: Config,
        kernel: Kernel,
        store: Store,
        metrics: WorkerMetrics,
        registry: CollectorRegistry,
        hello: Hello,
    ) -> None:
        interval = config.wal.sync_interval_seconds if config.wal.sync == "interval" else None
        self.kernel = kernel
        self.store = store
        self.hello = hello
        self.commits = GroupCommit(
            store, metrics, sync_interval_seconds=interval, on_fatal=_end_process
        )
        self._metrics = metrics
        self._registry = registry
        self._saturations = 0
        self._connections: set[Connection] = set()
        metrics.flows_appended.inc(store.flows_appended)
        metrics.recovery_seconds.set(store.recovery.seconds)
        metrics.recovery_records.set(store.recovery.records)
        metrics.torn_tails.inc(1 if store.recovery.torn_bytes else 0)
        metrics.damaged_checkpoints.inc(len(store.recovery.damaged))
        _log_recovery(store)

    async def serve(
        self, socket_path: Path, ready: Callable[[], None], stop: asyncio.Event
    ) -> None:
        """See `serve_worker`."""
        loop = asyncio.get_running_loop()
        listening = _listen(socket_path)
        server = await loop.create_unix_server(lambda: Connection(self), sock=listening)
        self.commits.start()
        telling = loop.create_task(self._tell_status())
        ready()
        await stop.wait()
        telling.cancel()
        server.close()
        await self.commits.drain()
        for connection in list(self._connections):
            connection.close()

    def add(self, connection: "Connection") -> None:
        """Take a new connection in."""
        self._connections.add(connection)

    def discard(self, connection: "Connection") -> None:
        """Forget a lost connection."""
        self._connections.discard(connection)

    def status(self) -> Status:
        """Tell what the shard has."""
        store = self.store
        return Status(
            writable=store.writable,
            full_reason="" if store.writable else "disk",
            rows=store.shard.rows,
            name_bytes=store.shard.name_bytes,
            batch_ids=store.batch_ids,
            floor_ms=store.floor_ms,
        )

    def appended(self, staged: Staged) -> Appended:
        """Tell what an append came to."""
        store = self.store
        return Appended(
            staged.duplicate,
            store.shard.rows,
            store.shard.name_bytes,
            store.batch_ids,
            store.floor_ms,
        )

    def metrics_snapshot(self) -> bytes:
        """Give this process's metrics, gauges brought up to date first."""
        metrics, store = self._metrics, self.store
        metrics.rows.set(store.shard.rows)
        metrics.buckets.set(store.shard.bucket_count)
        metrics.name_bytes.set(store.shard.name_bytes)
        metrics.batch_ids.set(store.batch_ids)
        metrics.lsn.set(store.applied_lsn)
        metrics.writable.set(store.writable)
        metrics.wal_bytes.set(store.log_bytes)
        saturations = store.shard.saturations
        metrics.saturated_sums.inc(saturations - self._saturations)
        self._saturations = saturations
        return snapshot(self._registry)

    async def _tell_status(self) -> None:
        told = self.status()
        while True:
            await asyncio.sleep(_STATUS_SECONDS)
            if (status := self.status()) != told:
                told = status
                for connection in self._connections:
                    connection.send(MessageType.STATUS, 0, pack(status))


class Connection(asyncio.Protocol):
    """One router's connection."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._decoder = Decoder()
        self._transport: asyncio.Transport
        self._answers: list[bytes | memoryview] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet a process of the same user, turn away any other."""
        self._transport = cast(asyncio.Transport, transport)
        if not is_same_user(transport.get_extra_info("socket")):
            log.warning("connection_refused", reason="a process of another user")
            self._transport.abort()
            return
        self._worker.add(self)
        self.send(MessageType.HELLO, 0, pack(self._worker.hello))
        self.send(MessageType.STATUS, 0, pack(self._worker.status()))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it; what it appended goes on."""
        self._worker.discard(self)

    def pause_writing(self) -> None:
        """Stop reading requests from a peer that does not read its answers."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer what these bytes complete; garbage closes the connection."""
        try:
            for message in self._decoder.feed(data):
                self._dispatch(message)
        except ProtocolError as error:
            log.error("protocol_error", error=str(error))
            self._transport.abort()

    def close(self) -> None:
        """Send what is answered and close."""
        self._flush()
        self._transport.close()

    def send(self, type: MessageType, request_id: int, *parts: bytes | memoryview) -> None:
        """Send a message behind those of this turn of the loop, all in one write."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._flush)
        self._answers += encode(type, request_id, *parts)

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        if answers and not self._transport.is_closing():
            self._transport.writelines(answers)

    def _dispatch(self, message: Message) -> None:
        worker = self._worker
        request_id, payload = message.request_id, message.payload
        match message.type:
            case MessageType.APPEND:
                self._append(request_id, payload)
            case MessageType.QUERY:
                request = unpack_query(payload)
                pages, last = worker.store.shard.page(request.query, request.after, request.rows)
                self.send(MessageType.PAGE, request_id, *pack_page(pages, last=last))
            case MessageType.PROBE:
                self._probe(request_id, payload)
            case MessageType.BUCKETS:
                sums = worker.store.shard.buckets(digest=unpack_buckets(payload).digest)
                self.send(MessageType.BUCKET_SUMS, request_id, pack(sums))
            case MessageType.METRICS:
                self.send(MessageType.SNAPSHOT, request_id, worker.metrics_snapshot())
            case MessageType.PING:
                self.send(MessageType.PONG, request_id)
            case other:
                raise ProtocolError(f"{other.name} is no request")

    def _append(self, request_id: int, payload: bytes) -> None:
        worker = self._worker
        header, frame = unpack_append(payload)

        def done(staged: Staged) -> None:
            self.send(MessageType.APPENDED, request_id, pack_appended(worker.appended(staged)))

        try:
            worker.commits.submit(header, frame, done)
        except FrameError as error:
            self._fail(request_id, error)

    def _probe(self, request_id: int, payload: bytes) -> None:
        worker = self._worker
        try:
            new_rows = worker.store.shard.count_new(worker.kernel.buckets(payload))
        except FrameError as error:
            self._fail(request_id, error)
        else:
            self.send(MessageType.PROBED, request_id, pack_probed(new_rows))

    def _fail(self, request_id: int, error: FlowdError) -> None:
        log.error("bad_frame", error=str(error))
        failed = Failed(kind="bad_frame", message=str(error))
        self.send(MessageType.FAILED, request_id, pack(failed))


def _log_recovery(store: Store) -> None:
    report = store.recovery
    for damage in report.damaged:
        log.warning("checkpoint_passed_over", reason=str(damage))
    if report.torn_bytes:
        log.warning(
            "torn_tail_set_aside", torn_bytes=report.torn_bytes, copy=str(report.broken_copy)
        )
    log.info(
        "recovered",
        rows=store.shard.rows,
        rows_loaded=report.rows_loaded,
        flows_replayed=report.flows,
        seconds=round(report.seconds, 3),
    )


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    return listening


def _end_process(error: BaseException) -> None:
    """End at once: after a failed write nothing may be acknowledged, nor anything tidied up."""
    log.critical("worker_ends", error=str(error), kind=type(error).__name__)
    os._exit(_EXIT_FATAL)
