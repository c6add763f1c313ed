"""One client's connection: its deadlines, and what it costs at most.

aiohttp parses HTTP and keeps a connection's requests in order; what it lacks is here: a limit on
how long each phase of a request may take, on how many connections there are and on what a client
may send ahead. A connection has one deadline at a time, and one sweep a second looks at all of
them: a timer for each phase of each request would cost 8 µs (measured), a fifth of a request.

| phase | lasts | when it is over |
|---|---|---|
| CONNECTED, HEAD | from accepting, or a request's first byte, to its complete head | 408, closed |
| BODY | while the body is read | its handler is cancelled; 408 |
| HANDLER | while the answer is made | its handler is cancelled; 503 or outcome-unknown |
| WRITE | while the client does not read what was sent | reset |
| IDLE | between requests | closed |
| CLOSING | while the last bytes leave | reset |

Malformed HTTP is a client's fault and no event for the log: it is counted and answered like any
other refusal.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import _ErrInfo

from flowd.config import LimitsConfig

BUFFERED_BYTES_MAX: Final = 512 * 1024
"""How much of a body is read before its handler takes any; then the client has to wait."""

QUEUED_REQUESTS_MAX: Final = 2
"""How many requests may wait behind the one in hand before the client has to."""

GRACE_SECONDS: Final = 0.2
"""How long a drain leaves idle connections open, for requests that are already on their way."""


class Phase(IntEnum):
    """What a connection is doing; see the module's table."""

    CONNECTED = 0
    IDLE = 1
    HEAD = 2
    BODY = 3
    HANDLER = 4
    WRITE = 5
    CLOSING = 6


class Connection(web.RequestHandler):
    """A connection of a `ConnectionServer`."""

    __slots__ = ("_deadline", "_expired", "_pipe", "_server", "phase")

    def __init__(self, server: "ConnectionServer", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp is told to have none
            auto_decompress=False,
            read_bufsize=BUFFERED_BYTES_MAX // 2,  # aiohttp stops at twice this much
            # The sweep closes idle connections; this timer is behind it and only finds dead ones.
            keepalive_timeout=server.phase_seconds[Phase.IDLE] + 60,
            # A refused body is read on for a while: who resets instead takes the answer along.
            lingering_time=server.phase_seconds[Phase.CLOSING] / 2,
        )
        # aiohttp takes 32 requests ahead, each with a body of up to BUFFERED_BYTES_MAX.
        self._max_msg_queue_size = QUEUED_REQUESTS_MAX
        self._msg_queue_resume_size = QUEUED_REQUESTS_MAX - 1
        self._server = server
        self._pipe: asyncio.Transport | None = None
        self._expired = False
        self._deadline = 0.0
        self.phase = Phase.CLOSING

    @property
    def draining(self) -> bool:
        """Whether this answer has to be the connection's last."""
        return self._server.draining

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and its time."""
        self.phase = phase
        self._deadline = time.monotonic() + self._server.phase_seconds[phase]

    def take_expiry(self) -> bool:
        """Tell whether a cancellation came from a deadline, and if so, undo it.

        Call it when the handler was cancelled; False means that somebody else wants it to end.
        """
        expired, self._expired = self._expired, False
        handler = asyncio.current_task()
        if not expired or handler is None:
            return False
        if self._task_handler is not None:
            self._task_handler.uncancel()
        return handler.uncancel() == 0

    def send(self, *parts: bytes) -> None:
        """Hand bytes to the client; `drain` afterwards.

        Raises:
            ConnectionError: it is gone.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        if len(parts) == 1:
            transport.write(parts[0])
        else:
            transport.writelines(parts)

    async def drain(self) -> None:
        """Wait while the client is behind with reading, as `writing_paused` says.

        Raises:
            ConnectionError: it is gone, or was too slow.
        """
        phase = self.phase
        self.enter(Phase.WRITE)
        await self._drain_helper()
        if self.transport is None:
            raise ConnectionResetError("the client read too slowly, or went away")
        self.enter(phase)

    def reset(self) -> None:
        """End the connection at once, with a TCP reset: what was sent is not complete."""
        pipe = self._pipe
        if pipe is not None:
            handle = pipe.get_extra_info("socket")
            if handle is not None:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            pipe.abort()

    def sweep(self, now: float) -> None:
        """Act when the deadline is over.

        Args:
            now: the monotonic clock, in seconds.
        """
        pipe = self._pipe
        if pipe is None:
            return
        if pipe.is_closing() and self.phase is not Phase.CLOSING:
            self.enter(Phase.CLOSING)
        elif now >= self._deadline:
            match self.phase:
                case Phase.CONNECTED | Phase.IDLE:
                    self.force_close()
                case Phase.HEAD:
                    pipe.write(_HEAD_TIMEOUT)
                    self.force_close()
                case Phase.BODY | Phase.HANDLER:
                    self._expire()
                case Phase.WRITE | Phase.CLOSING:
                    self.reset()

    def close_idle(self) -> None:
        """Close it when no request is in hand or on its way."""
        if self.phase in (Phase.CONNECTED, Phase.IDLE):
            self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it when there are too many."""
        pipe = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of it
        if not self._server.admit(self):
            pipe.write(_NO_ROOM)
            pipe.close()
            return
        self._pipe = pipe
        self.enter(Phase.CONNECTED)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection; a handler at work is told by its next read or write."""
        self._pipe = None
        self._server.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self.phase <= Phase.IDLE and data:
            if self.phase is Phase.IDLE:
                self.enter(Phase.HEAD)
            else:
                self.phase = Phase.HEAD  # its time began with the connection
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._end_payload(self._messages[-1][0].message)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading, if it was paused; aiohttp asks after each part of each body."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, instead of logging it with a traceback."""
        if isinstance(exc, HttpProcessingError):
            return self._server.on_malformed(request, message or "not HTTP")
        return super().handle_error(request, status, exc, message)

    def _end_payload(self, reason: str) -> None:
        """Tell the reader of a body that the rest of it is malformed; aiohttp lets it wait."""
        if len(self._messages) > 1:
            payload = self._messages[-2][1]
        elif self._current_request is not None:
            payload = self._current_request.content
        else:
            return
        if not payload.is_eof():
            payload.set_exception(web.RequestPayloadError(reason))
            payload.feed_eof()  # or aiohttp reads on, and logs what it then meets

    def _expire(self) -> None:
        self._deadline = float("inf")
        if self._task_handler is not None:
            self._expired = True
            # The connection's task waits for the handler's: that one gets the cancellation.
            self._task_handler.cancel()


class ConnectionServer(web.Server):
    """All connections of a router.

    Args:
        handler: answers one request.
        on_malformed: answers what is not HTTP: the request that aiohttp made up for it, and what
            is wrong.
        on_refused: called for each connection over the limit.
        limits: the whole flowd's.
        connections_max: how many connections this router takes.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        on_malformed: Callable[[web.BaseRequest, str], web.StreamResponse],
        on_refused: Callable[[], None],
        limits: LimitsConfig,
        connections_max: int,
    ) -> None:
        super().__init__(handler)
        self.on_malformed = on_malformed
        self.draining = False
        seconds = {
            Phase.CONNECTED: limits.header_seconds,
            Phase.IDLE: limits.idle_seconds,
            Phase.HEAD: limits.header_seconds,
            Phase.BODY: limits.body_seconds,
            Phase.HANDLER: limits.handler_seconds,
            Phase.WRITE: limits.handler_seconds,
            Phase.CLOSING: min(limits.body_seconds, _CLOSING_SECONDS_MAX),
        }
        self.phase_seconds = tuple(seconds[phase] for phase in Phase)
        self._connections_max = connections_max
        self._on_refused = on_refused
        self._open: set[Connection] = set()

    def __call__(self) -> Connection:
        """Make the protocol of one connection, for `loop.create_server`."""
        return Connection(self, self._loop)

    @property
    def count(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Take a connection if there is room for it."""
        if len(self._open) >= self._connections_max:
            self._on_refused()
            return False
        self._open.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """Give a connection's room back."""
        self._open.discard(connection)

    async def watch(self) -> None:
        """Enforce the deadlines until cancelled."""
        interval_seconds = min(1.0, min(self.phase_seconds) / 4)
        while True:
            await asyncio.sleep(interval_seconds)
            now = time.monotonic()
            for connection in list(self._open):
                connection.sweep(now)

    async def drain(self, seconds: float) -> None:
        """Let requests in hand finish, and close all connections.

        Args:
            seconds: after this long, what is left is cut off.
        """
        self.draining = True
        start = time.monotonic()
        while self._open and time.monotonic() < start + seconds:
            if time.monotonic() >= start + GRACE_SECONDS:
                for connection in list(self._open):
                    connection.close_idle()
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await self.shutdown(timeout=_SHUTDOWN_SECONDS)


_LINGER_NOT = struct.pack("ii", 1, 0)
_HEAD_TIMEOUT = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 33\r\n\r\nthe request's head took too long\n"
)
_NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 46\r\n\r\n"
    b"limits.connections is reached: try again soon\n"
)
_CLOSING_SECONDS_MAX = 20.0
_DRAIN_POLL_SECONDS = 0.02
_SHUTDOWN_SECONDS = 0.2
