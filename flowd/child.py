"""A child of the supervisor: a router or a worker, as its assignment says.

`python -m flowd.child ROLE INDEX DESCRIPTOR`. The descriptor is the control channel, from which
the assignment is read; when the channel ends, the supervisor is gone and so is this process, at
once: a worker without its supervisor would write beside its successor. Role and index in the
command line are there for people who look at the process table.
"""

import asyncio
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from flowd.control import (
    BEAT_SECONDS,
    EXIT_CONFIG,
    LINE_BYTES_MAX,
    Assignment,
    ChildEvent,
    decode_assignment,
    encode_line,
)
from flowd.errors import ConfigError, FlowdError, WalCorruption
from flowd.filesystem import DirectoryLock, LocalFileSystem
from flowd.kernel import load_kernel
from flowd.logs import configure_logs, get_logger

EXIT_FAILED = 1

_LOCK_SECONDS = 30.0
_LOCK_POLL_SECONDS = 0.05
_PROGRESS_SECONDS = 0.2
_CONNECT_SECONDS = 2.0
_CONNECT_POLL_SECONDS = 0.02

Serve = Callable[[asyncio.Event], Awaitable[None]]

log = get_logger()


class ControlChannel:
    """The child's end of the line to its supervisor; any thread may report.

    Args:
        descriptor: the inherited socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._next_progress = 0.0

    def receive(self) -> Assignment:
        """Wait for the assignment.

        Raises:
            ProtocolError: something else came, or nothing.
        """
        line = b""
        while not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX:
            if not (part := self._socket.recv(LINE_BYTES_MAX)):
                break
            line += part
        return decode_assignment(line)

    def exit_with_supervisor(self) -> None:
        """From now on end this process, whatever it is doing, when the supervisor is gone."""
        threading.Thread(target=self._wait_for_end, name="control", daemon=True).start()

    def ready(self) -> None:
        """Say that this process serves."""
        self._send(ChildEvent("ready"))

    def failed(self, reason: str) -> None:
        """Say why this process gives up."""
        self._send(ChildEvent("failed", reason))

    def progress(self, detail: str) -> None:
        """Say how far a long start is; cheap, call it as often as you like."""
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_SECONDS
            self._send(ChildEvent("progress", detail))

    async def beat(self) -> None:
        """Show for as long as this runs that the loop does."""
        while True:
            self._send(ChildEvent("beat"))
            await asyncio.sleep(BEAT_SECONDS)

    def _send(self, event: ChildEvent) -> None:
        try:
            # A supervisor that stands still must not make its children do so.
            self._socket.send(encode_line(event), socket.MSG_DONTWAIT)
        except OSError:
            return

    def _wait_for_end(self) -> None:
        try:
            while self._socket.recv(LINE_BYTES_MAX):
                pass
        finally:
            os._exit(EXIT_FAILED)


def main() -> None:
    """Run as a child process."""
    # A hung process is sent SIGABRT, and then says where its loop hangs. Of this thread only: the
    # stacks of others change while they are read, which was seen to end in SIGSEGV.
    faulthandler.enable(all_threads=False)
    # The supervisor alone decides who stops when; until the loop runs, SIGTERM ends the process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    channel = ControlChannel(int(sys.argv[3]))
    try:
        assignment = channel.receive()
    except (FlowdError, OSError):
        os._exit(EXIT_FAILED)  # the supervisor is gone already
    channel.exit_with_supervisor()
    configure_logs(assignment.config.log, assignment.process)
    status = run(assignment, channel)
    if status != 0:
        # Whatever still runs in a thread may hang, and must not acknowledge anything.
        os._exit(status)


def run(assignment: Assignment, channel: ControlChannel) -> int:
    """Do what the assignment says until told to stop.

    Returns:
        The exit status: 78 when the next process would fail in the same way.
    """
    play = run_worker if assignment.role == "worker" else run_router
    try:
        play(assignment, channel)
    except (ConfigError, WalCorruption) as error:
        channel.failed(str(error))
        log.error("cannot_run", reason=str(error))
        return EXIT_CONFIG
    except (FlowdError, OSError) as error:
        channel.failed(str(error))
        log.error("failed", reason=str(error))
        return EXIT_FAILED
    except Exception as error:  # the boundary of the process: logged, and the exit status tells
        channel.failed(repr(error))
        log.exception("failed_unexpectedly")
        return EXIT_FAILED
    return 0


def run_worker(assignment: Assignment, channel: ControlChannel) -> None:
    """Recover one shard and serve it; returns after a drain."""
    # Imported here so that a worker starts without aiohttp, and a router without the log.
    from flowd.data_directory import shard_directory
    from flowd.metrics import WorkerMetrics, new_registry
    from flowd.protocol import PROTOCOL_VERSION, Hello
    from flowd.runtime_directory import worker_socket
    from flowd.store import Store
    from flowd.wal import LogIdentity
    from flowd.worker import serve_worker

    config, identity, shard = assignment.config, assignment.identity, assignment.index
    kernel = load_kernel(assignment.kernel)
    files = LocalFileSystem()
    directory = shard_directory(assignment.data_path, identity.generation, shard)
    if not files.exists(directory):
        raise ConfigError(
            f"{directory}: missing; is a disk not mounted? Restore it from a backup, or make an"
            " empty directory to start this shard without its rows"
        )
    lock = lock_shard(directory, channel.progress, _LOCK_SECONDS)
    log_identity = LogIdentity(
        directory_id=identity.directory_id_bytes,
        generation=identity.generation,
        shard=shard,
        shard_count=identity.shards,
    )
    store = Store.open(files, directory, log_identity, kernel, config, progress=channel.progress)
    registry = new_registry(kernel.name)
    hello = Hello(
        version=PROTOCOL_VERSION,
        process=assignment.process,
        boot=assignment.boot,
        shard=shard,
        shard_count=identity.shards,
        generation=identity.generation,
        kernel=kernel.name,
    )

    async def serve(stop: asyncio.Event) -> None:
        await serve_worker(
            config=config,
            kernel=kernel,
            store=store,
            metrics=WorkerMetrics(registry),
            registry=registry,
            socket_path=worker_socket(assignment.runtime_path, shard),
            hello=hello,
            ready=channel.ready,
            stop=stop,
        )

    run_loop(serve, channel)
    lock.release()


def run_router(assignment: Assignment, channel: ControlChannel) -> None:
    """Serve HTTP on the inherited socket; returns after a drain."""
    from flowd.api import serve_http
    from flowd.metrics import RouterMetrics, new_registry
    from flowd.router import LocalBackend
    from flowd.runtime_directory import router_socket, worker_socket
    from flowd.scrape import gather, serve_metrics
    from flowd.worker_client import WorkerClient

    config, identity, runtime = assignment.config, assignment.identity, assignment.runtime_path
    kernel = load_kernel(assignment.kernel)
    registry = new_registry(kernel.name)
    metrics = RouterMetrics(registry)
    clients = [
        WorkerClient(
            worker_socket(runtime, shard),
            shard=shard,
            shard_count=identity.shards,
            boot=assignment.boot,
        )
        for shard in range(identity.shards)
    ]
    backend = LocalBackend(kernel, config.limits, clients)

    async def tell_ready() -> None:
        """Report ready when all workers are connected; a failed one is not waited for long."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        # A Backend has no event for this: noqa says that polling is meant.
        while backend.unavailable() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_CONNECT_POLL_SECONDS)
        channel.ready()

    async def serve(stop: asyncio.Event) -> None:
        backend.start()
        telling = asyncio.create_task(tell_ready())
        async with await serve_metrics(router_socket(runtime, assignment.index), registry):
            await serve_http(
                config=config,
                kernel=kernel,
                backend=backend,
                identity=identity,
                metrics=metrics,
                listen_socket=socket.socket(fileno=assignment.listen_descriptor),
                scrape=lambda: gather(runtime, assignment.process, registry),
                stop=stop,
            )
        telling.cancel()
        await backend.close()

    run_loop(serve, channel)


def run_loop(serve: Serve, channel: ControlChannel) -> None:
    """Run a loop that beats, with SIGTERM as the wish to stop, until `serve` returns."""

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        beating = asyncio.create_task(channel.beat())
        try:
            await serve(stop)
        finally:
            beating.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def lock_shard(
    directory: Path, progress: Callable[[str], None], patience_seconds: float
) -> DirectoryLock:
    """Take a shard's lock, waiting for a predecessor that is still on its way out.

    Raises:
        FlowdError: it stays for longer than anyone should.
    """
    deadline = time.monotonic() + patience_seconds
    while (lock := DirectoryLock.acquire(directory / "LOCK")) is None:
        if time.monotonic() > deadline:
            raise FlowdError(
                f"{directory}: another worker has had the lock for {patience_seconds} s"
            )
        progress("waiting for the shard's lock")
        time.sleep(_LOCK_POLL_SECONDS)
    return lock


if __name__ == "__main__":
    main()
