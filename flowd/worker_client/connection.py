"""One connection to a worker: matches answers to requests, and gives up on those that are overdue.

Every request's future ends: by its answer, by its time limit or with the connection. One timer
serves all requests; it runs only while there are any.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import msgspec

from flowd.errors import (
    FlowdError,
    FrameError,
    OutcomeUnknown,
    ProtocolError,
    ShardUnavailable,
)
from flowd.logs import get_logger
from flowd.protocol import (
    Appended,
    Decoder,
    Hello,
    Message,
    MessageType,
    Status,
    encode,
    unpack_failed,
    unpack_hello,
    unpack_status,
)

_TICK_SECONDS_MAX: Final = 0.5

_ANSWERS: Final = {
    MessageType.APPEND: MessageType.APPENDED,
    MessageType.PROBE: MessageType.PROBED,
    MessageType.QUERY: MessageType.PAGE,
    MessageType.BUCKETS: MessageType.BUCKET_SUMS,
}
_FAILURES: Final = {"bad_frame": FrameError, "bad_request": ProtocolError}
# To requests that were given up, and to PING.
_LATE_ANSWERS: Final = frozenset({*_ANSWERS.values(), MessageType.FAILED, MessageType.PONG})

# Looking a member up in its enum takes longer than anything else in a request.
_APPEND: Final = MessageType.APPEND
_APPENDED: Final = MessageType.APPENDED
_FAILED: Final = MessageType.FAILED

_Answer = TypeVar("_Answer")

log = get_logger()


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for a worker, and how much to hand it before it acknowledges.

    Attributes:
        connect_seconds: for HELLO and STATUS on a new connection.
        append_seconds: for APPENDED; long, because giving up leaves the outcome unknown.
        read_seconds: for any other answer.
        silence_seconds: a worker that owes answers, was sent a PING and has said nothing for this
            long gets no more requests until it speaks.
        unanswered_bytes: of frames; when so many are on their way, further ones are refused.
    """

    connect_seconds: float = 5.0
    append_seconds: float = 30.0
    read_seconds: float = 30.0
    silence_seconds: float = 3.0
    unanswered_bytes: int = 64 * 1024 * 1024

    @property
    def tick_seconds(self) -> float:
        """How often to look at what is overdue."""
        shortest = min(self.append_seconds, self.read_seconds, self.silence_seconds)
        return min(shortest / 4, _TICK_SECONDS_MAX)


class _Request(msgspec.Struct):
    future: asyncio.Future[Any]
    answer: MessageType
    unpack: Callable[[bytes], object]
    deadline: float
    frame_bytes: int


class Connection(asyncio.Protocol):
    """One connection and the requests sent on it.

    Args:
        shard: whose, for messages.
        patience: the time limits.
        check_hello: raises ProtocolError for a worker that is not wanted.
        take_status: told what the worker holds, whenever it says so.
    """

    def __init__(
        self,
        shard: int,
        patience: Patience,
        check_hello: Callable[[Hello], None],
        take_status: Callable[[Status], None],
    ) -> None:
        self._shard = shard
        self._patience = patience
        self._check_hello = check_hello
        self._take_status = take_status
        self._status = Status(writable=False)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._decoder = Decoder()
        self._known = False  # HELLO has come and was right
        self._requests: dict[int, _Request] = {}
        self._last_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self._heard = False
        self._pinged_at: float | None = None
        self._silent = False
        self.unanswered_bytes = 0
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self.lost = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether a request may be sent."""
        return not self._silent and not self._transport.is_closing()

    def request(
        self,
        type: MessageType,
        unpack: Callable[[bytes], _Answer],
        frame_bytes: int,
        *parts: bytes,
    ) -> asyncio.Future[_Answer]:
        """Send a request.

        Args:
            type: a request.
            unpack: reads its answer's payload.
            frame_bytes: what to count as unanswered until then.
            parts: the request's payload.

        Returns:
            The answer to come; OutcomeUnknown for an append and ShardUnavailable for any other
            request that is not answered.
        """
        loop = self._loop
        self._last_id = request_id = self._last_id + 1
        buffers = encode(type, request_id, *parts)
        patience = self._patience
        seconds = patience.append_seconds if type is _APPEND else patience.read_seconds
        future: asyncio.Future[_Answer] = loop.create_future()
        self._requests[request_id] = _Request(
            future, _ANSWERS[type], unpack, loop.time() + seconds, frame_bytes
        )
        self.unanswered_bytes += frame_bytes
        self._transport.writelines(buffers)
        if self._timer is None:
            self._timer = loop.call_later(patience.tick_seconds, self._tick)
        return future

    def end(self) -> None:
        """Drop the connection and fail what is unanswered."""
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        requests, self._requests = self._requests, {}
        self.unanswered_bytes = 0
        for request in requests.values():
            self._give_up(request, "went away")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for HELLO."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is unanswered."""
        self.end()
        if not self.greeted.done():
            _fail(self.greeted, ProtocolError("the worker closed the connection unasked"))
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        """Take the answers that these bytes complete; garbage ends the connection."""
        self._heard = True
        self._silent = False
        try:
            for message in self._decoder.feed(data):
                self._take(message)
        except ProtocolError as error:
            if self.greeted.done():
                log.error("protocol_error", shard=self._shard, error=str(error))
            else:
                _fail(self.greeted, error)
            self.end()

    def _take(self, message: Message) -> None:
        type, request_id, payload = message.type, message.request_id, message.payload
        request = self._requests.get(request_id)
        if request is None:
            self._take_unasked(message)
            return
        # Until it is understood the request stays, to be failed with the connection.
        error: FlowdError | None = None
        answer: object = None
        if type is request.answer:
            answer = request.unpack(payload)
            if isinstance(answer, Appended):
                self._take_counts(answer)
        elif type is _FAILED:
            failed = unpack_failed(payload)
            error = _FAILURES[failed.kind](failed.message)
        else:
            raise ProtocolError(f"{type.name} is no answer to request {request_id}")
        del self._requests[request_id]
        self.unanswered_bytes -= request.frame_bytes
        if request.future.done():
            return  # whoever asked was cancelled
        if error is None:
            request.future.set_result(answer)
        else:
            _fail(request.future, error)

    def _take_unasked(self, message: Message) -> None:
        type, payload = message.type, message.payload
        if not self._known:
            if type is not MessageType.HELLO:
                raise ProtocolError(f"{type.name} before HELLO")
            self._check_hello(unpack_hello(payload))
            self._known = True
        elif type is MessageType.STATUS:
            self._status = unpack_status(payload)
            self._take_status(self._status)
            if not self.greeted.done():
                self.greeted.set_result(None)
        elif type not in _LATE_ANSWERS:
            raise ProtocolError(f"{type.name} was not asked for")

    def _take_counts(self, answer: Appended) -> None:
        self._status = Status(
            writable=self._status.writable,
            full_reason=self._status.full_reason,
            rows=answer.rows,
            name_bytes=answer.name_bytes,
            batch_ids=answer.batch_ids,
            floor_ms=answer.floor_ms,
        )
        self._take_status(self._status)

    def _tick(self) -> None:
        now = self._loop.time()
        for request_id, request in list(self._requests.items()):
            if request.deadline > now:
                continue
            self._give_up(request, "did not answer in time")
            if request.frame_bytes:
                # The worker still holds the frame: it counts until its answer comes after all.
                request.deadline = math.inf
            else:
                del self._requests[request_id]
        if self._heard:
            self._heard = False
            self._pinged_at = None
        elif self._pinged_at is None:
            self._pinged_at = now
            self._last_id += 1
            self._transport.writelines(encode(MessageType.PING, self._last_id))
        elif now - self._pinged_at >= self._patience.silence_seconds:
            self._silent = True
        self._timer = None
        if self._requests:
            self._timer = self._loop.call_later(self._patience.tick_seconds, self._tick)

    def _give_up(self, request: _Request, why: str) -> None:
        if request.future.done():
            return
        shard = self._shard
        error: FlowdError
        if request.answer is _APPENDED:
            error = OutcomeUnknown(
                (shard,), f"shard {shard} {why} before it acknowledged; the flows may be stored"
            )
        else:
            error = ShardUnavailable((shard,), f"shard {shard} {why}")
        _fail(request.future, error)


def _fail(future: asyncio.Future[Any], error: FlowdError) -> None:
    future.set_exception(error)
    future.exception()  # or asyncio complains when nobody waits any more
