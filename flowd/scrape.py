"""One scrape of a router shows every process: it asks all of them over their UNIX sockets.

Each process answers METRICS on its socket in the runtime directory; the socket's name is the
process's. Who does not answer within a second is left out, so that a dead or hung process has no
series instead of stale ones; `flowd_child_up` of the supervisor tells of it. Samples are never
summed here.
"""

import asyncio
import socket
from pathlib import Path
from typing import Final, cast

from prometheus_client import CollectorRegistry

from flowd.errors import ProtocolError
from flowd.metrics import render, snapshot
from flowd.protocol import Decoder, MessageType, encode

ANSWER_SECONDS: Final = 1.0
"""How long a process may take to answer."""

_REQUEST_ID: Final = 1
_READ_BYTES: Final = 64 * 1024


async def serve_metrics(socket_path: Path, registry: CollectorRegistry) -> asyncio.Server:
    """Answer METRICS on a socket of one's own, as routers and the supervisor do.

    Args:
        socket_path: where to listen; a socket left there by a dead process is replaced. It lies in
            the runtime directory, which nobody else may enter.
        registry: what to answer with.

    Returns:
        The server, to be closed by the caller.

    Raises:
        OSError: the socket cannot be made.
    """
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: _Answerer(registry), sock=_bind(socket_path))


async def gather(runtime_dir: Path, process: str, registry: CollectorRegistry) -> str:
    """Make the Prometheus text of all processes that answer.

    Args:
        runtime_dir: the directory with everybody's sockets.
        process: the name of the process that asks, such as `router-0`.
        registry: its own registry, which it need not ask for.

    Returns:
        The text, with `process` in every sample.
    """
    others = _sockets_but(process, runtime_dir)
    answers = await asyncio.gather(*map(_ask, others))
    snapshots = {path.stem: packed for path, packed in zip(others, answers, strict=True) if packed}
    snapshots[process] = snapshot(registry)
    return render({name: snapshots[name] for name in sorted(snapshots, key=_order)})


class _Answerer(asyncio.Protocol):
    """One connection of somebody who gathers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._decoder = Decoder()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer every METRICS; whatever else comes closes the connection."""
        try:
            for message in self._decoder.feed(data):
                if message.type is not MessageType.METRICS:
                    raise ProtocolError(f"{message.type.name} is no request for this process")
                packed = snapshot(self._registry)
                self._transport.writelines(encode(MessageType.SNAPSHOT, message.request_id, packed))
        except ProtocolError:
            self._transport.abort()


def _bind(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    path.chmod(0o600)
    return bound


def _sockets_but(process: str, runtime_dir: Path) -> list[Path]:
    return [path for path in runtime_dir.glob("*.sock") if path.stem != process]


async def _ask(socket_path: Path) -> bytes | None:
    """Get a process's snapshot; None when it does not answer in time, or not in the protocol."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket_path)
            try:
                writer.writelines(encode(MessageType.METRICS, _REQUEST_ID))
                return await _receive_snapshot(reader)
            finally:
                writer.close()
    except (OSError, ProtocolError):  # TimeoutError is an OSError
        return None


async def _receive_snapshot(reader: asyncio.StreamReader) -> bytes | None:
    decoder = Decoder()
    while data := await reader.read(_READ_BYTES):
        for message in decoder.feed(data):
            # A worker also says HELLO and STATUS to everyone who connects.
            if message.type is MessageType.SNAPSHOT and message.request_id == _REQUEST_ID:
                return message.payload
    return None


def _order(process: str) -> tuple[str, int]:
    role, _, index = process.partition("-")
    return role, int(index) if index.isdigit() else -1
