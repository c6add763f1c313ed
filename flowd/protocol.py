"""The messages between router and worker: bytes in, messages out, and back. Pure; knows no sockets.

A connection is a stream of messages, each a 16-byte header and a payload, little-endian:

    0  u32  payload length, at most PAYLOAD_BYTES_MAX
    4  u8   type, then 3 zero bytes
    8  u64  request id, chosen by the side that asks; 0 for what a worker sends unasked
 On connecting the worker sends HELLO and STATUS; then each request is answered by one message with
its id, in any order. Frames and pages are opaque here. Whatever is malformed raises ProtocolError
and nothing else, after which the connection must be closed: there is no way to find the next
message.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from flowd.errors import ProtocolError
from flowd.flow import COUNTER_MAX, HOUR_MAX, RowKey
from flowd.query import Query

PROTOCOL_VERSION: Final = 1
"""What HELLO must say; router and worker are always of one release, so there is only one."""

PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""The longest payload; a longer one is garbage or a mistake, found before it is read."""

PAGE_ROWS_MAX: Final = 65_536
"""The most rows one QUERY may ask for; at 3 names of 256 bytes a row they fit a payload."""

_HEADER = struct.Struct("<IIQ")  # the type and its zero bytes as one u32
_APPEND = struct.Struct("<16sQQQ")
_APPENDED = struct.Struct("<B7xQQQQ")
_PROBED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")


class MessageType(IntEnum):
    """What a message is; a request's answer is named in its comment."""

    HELLO = 1
    STATUS = 2
    APPEND = 3  # APPENDED
    APPENDED = 4
    PROBE = 5  # PROBED
    PROBED = 6
    QUERY = 7  # PAGE
    PAGE = 8
    BUCKETS = 9  # BUCKET_SUMS
    BUCKET_SUMS = 10
    METRICS = 11  # SNAPSHOT
    SNAPSHOT = 12
    PING = 13  # PONG
    PONG = 14
    FAILED = 15  # to any request


_TYPES: Final = {int(member): member for member in MessageType}


class Message(NamedTuple):
    """One message; `request_id` is 0 for what was sent unasked."""

    type: MessageType
    request_id: int
    payload: bytes


def encode(
    type: MessageType, request_id: int, *parts: bytes | memoryview
) -> list[bytes | memoryview]:
    """Make a message.

    Args:
        type: what it is.
        request_id: the request it is or answers, 0 … 2**64 - 1.
        parts: the payload, in pieces, so that a big frame is not copied.

    Returns:
        Buffers to send one behind the other.

    Raises:
        ProtocolError: the payload is over PAYLOAD_BYTES_MAX.
    """
    length = 0
    for part in parts:
        length += len(part)
    if length > PAYLOAD_BYTES_MAX:
        raise ProtocolError(_too_long(type, length))
    return [_HEADER.pack(length, type, request_id), *parts]


class Decoder:
    """Cuts a stream of bytes, however it is chunked, into messages.
    The cost is linear in the bytes fed, however small the chunks; at most one unfinished message is
       held.
    """

    def __init__(self) -> None:
        self._unfinished = bytearray()
        self._wanted = _HEADER.size  # length of the unfinished message as far as it is known

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes of the stream.

        Args:
            data: any number of bytes.

        Returns:
            The messages that these bytes completed.

        Raises:
            ProtocolError: this is not the protocol; the decoder is of no use any more.
        """
        messages: list[Message] = []
        offset = self._finish(data, messages) if self._unfinished else 0
        end = len(data)
        while end - offset >= _HEADER.size:
            length, type_number, request_id = _HEADER.unpack_from(data, offset)
            message_type = _check_header(type_number, length)
            start = offset + _HEADER.size
            if end - start < length:
                self._wanted = _HEADER.size + length
                break
            offset = start + length
            messages.append(Message(message_type, request_id, data[start:offset]))
        if offset < end:
            self._unfinished += data[offset:]
        return messages

    def _finish(self, data: bytes, messages: list[Message]) -> int:
        """Add to the unfinished message; return how many bytes of `data` it took."""
        unfinished = self._unfinished
        taken = 0
        if len(unfinished) < _HEADER.size:
            taken = min(_HEADER.size - len(unfinished), len(data))
            unfinished += data[:taken]
            if len(unfinished) < _HEADER.size:
                return taken
            length, type_number, _ = _HEADER.unpack_from(unfinished)
            _check_header(type_number, length)
            self._wanted = _HEADER.size + length
        start = taken
        taken = min(start + self._wanted - len(unfinished), len(data))
        unfinished += data[start:taken]
        if len(unfinished) == self._wanted:
            _, type_number, request_id = _HEADER.unpack_from(unfinished)
            with memoryview(unfinished) as view:
                payload = bytes(view[_HEADER.size :])
            messages.append(Message(_TYPES[type_number], request_id, payload))
            self._unfinished = bytearray()
            self._wanted = _HEADER.size
        return taken


def _check_header(type_number: int, length: int) -> MessageType:
    message_type = _TYPES.get(type_number)
    if message_type is None:
        raise ProtocolError(f"a message of unknown type {type_number:#x}")
    if length > PAYLOAD_BYTES_MAX:
        raise ProtocolError(_too_long(message_type, length))
    return message_type


def _too_long(type: MessageType, length: int) -> str:
    return f"{type.name} of {length:,} bytes; at most {PAYLOAD_BYTES_MAX:,} are allowed"


# Payloads.

Count = Annotated[int, Meta(ge=0, le=COUNTER_MAX)]


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """HELLO: who answers on this socket.

    Attributes:
        version: PROTOCOL_VERSION.
        process: what metrics call it, `worker-3`.
        boot: the random token of the supervisor that started it.
        shard: the shard's number.
        shard_count: how many shards there are.
        generation: of the data directory.
        kernel: the name of the worker's kernel.
    """

    version: int
    process: str
    boot: str
    shard: Count
    shard_count: Count
    generation: Count
    kernel: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """STATUS: what a worker has and whether it takes appends; sent when it changes, at most 10
    times a second.

    Attributes:
        writable: whether there is room on disk; when not, no append may be sent.
        full_reason: why not, a reason of StorageFull; "" when writable.
        rows: rows held.
        name_bytes: bytes of distinct names held.
        batch_ids: batch ids remembered.
        floor_ms: the highest key time ever forgotten, in ms since 1970.
    """

    writable: bool
    full_reason: str = ""
    rows: Count = 0
    name_bytes: Count = 0
    batch_ids: Count = 0
    floor_ms: Count = 0


class AppendHeader(NamedTuple):
    """What stands before the frame in an APPEND.
    batch_id: 0 … 2**128 - 1, 0 for un-keyed; key_time_ms: the time in the key, 0 for un-keyed;
       arrival_ms: when the router had the request, both in ms since 1970; shards: bitmap of all shards
       the batch touches.
    """

    batch_id: int
    key_time_ms: int
    arrival_ms: int
    shards: int


class Appended(NamedTuple):
    """APPENDED: the append is durable.

    duplicate: the batch was there already and nothing was added; the rest as in Status.
    """

    duplicate: bool
    rows: int
    name_bytes: int
    batch_ids: int
    floor_ms: int


class QueryRequest(msgspec.Struct, frozen=True, array_like=True):
    """QUERY: the next rows of an answer.

    Attributes:
        query: the question.
        after: only rows behind this key; overrides `query.after`.
        rows: at most this many.
    """

    query: Query
    after: RowKey | None
    rows: Annotated[int, Meta(ge=1, le=PAGE_ROWS_MAX)]


class Page(NamedTuple):
    """PAGE: kernel pages in key order, and whether the shard's last row is among them."""

    pages: list[bytes]
    last: bool


class BucketsRequest(msgspec.Struct, frozen=True, array_like=True):
    """BUCKETS: with `digest` each bucket's digest too, which costs a walk over all rows."""

    digest: bool


class BucketSums(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of one bucket; in BUCKET_SUMS those of one shard.

    Attributes:
        start: its first hour.
        width: in hours.
        rows: rows held.
        bytes_tx: their sum, saturated at 2**63 - 1.
        bytes_rx: likewise.
        tier: where it lives.
        digest: 32 lower-case hexadecimal digits; None when it was not asked for.
    """

    start: Annotated[int, Meta(ge=0, le=HOUR_MAX)]
    width: Annotated[int, Meta(ge=1, le=HOUR_MAX)]
    rows: Count
    bytes_tx: Count
    bytes_rx: Count
    tier: Literal["memory", "rollup", "archive"]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """FAILED: why a request was not answered; nothing was changed by it."""

    kind: Literal["bad_request", "bad_frame"]
    message: str


_Packed = TypeVar("_Packed", Hello, Status, QueryRequest, BucketsRequest, Failed)

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final = {
    kind: msgspec.msgpack.Decoder(kind)
    for kind in (Hello, Status, QueryRequest, BucketsRequest, Failed)
}
_BUCKET_SUMS: Final = msgspec.msgpack.Decoder(list[BucketSums])
# msgspec lets the last two through: names that are no UTF-8, deep nesting.
_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def pack(value: msgspec.Struct | list[BucketSums]) -> bytes:
    """Make the payload of a message that is one msgpack value."""
    return _ENCODER.encode(value)


def unpack(kind: type[_Packed], payload: bytes) -> _Packed:
    """Read a payload that `pack` made; raises ProtocolError."""
    try:
        value: _Packed = _DECODERS[kind].decode(payload)
    except _DECODE_ERRORS as error:
        raise ProtocolError(f"a malformed {kind.__name__}: {error}") from error
    return value


def unpack_bucket_sums(payload: bytes) -> list[BucketSums]:
    """Read BUCKET_SUMS; raises ProtocolError."""
    try:
        return _BUCKET_SUMS.decode(payload)
    except _DECODE_ERRORS as error:
        raise ProtocolError(f"malformed sums of buckets: {error}") from error


def pack_append(header: AppendHeader) -> bytes:
    """Make the start of an APPEND; the frame is a part of its own in `encode`."""
    batch_id, key_time_ms, arrival_ms, shards = header
    return _APPEND.pack(batch_id.to_bytes(16, "little"), key_time_ms, arrival_ms, shards)


def unpack_append(payload: bytes) -> tuple[AppendHeader, bytes]:
    """Read APPEND: its header and its frame; raises ProtocolError."""
    if len(payload) < _APPEND.size:
        raise ProtocolError(_malformed(MessageType.APPEND, payload))
    batch_id, key_time_ms, arrival_ms, shards = _APPEND.unpack_from(payload)
    header = AppendHeader(int.from_bytes(batch_id, "little"), key_time_ms, arrival_ms, shards)
    return header, payload[_APPEND.size :]


def pack_appended(answer: Appended) -> bytes:
    """Make APPENDED."""
    return _APPENDED.pack(*answer)


def unpack_appended(payload: bytes) -> Appended:
    """Read APPENDED; raises ProtocolError."""
    if len(payload) != _APPENDED.size or payload[0] > 1:
        raise ProtocolError(_malformed(MessageType.APPENDED, payload))
    duplicate, rows, name_bytes, batch_ids, floor_ms = _APPENDED.unpack(payload)
    return Appended(duplicate == 1, rows, name_bytes, batch_ids, floor_ms)


def pack_probed(new_rows: int) -> bytes:
    """Make PROBED: how many rows a frame would make."""
    return _PROBED.pack(new_rows)


def unpack_probed(payload: bytes) -> int:
    """Read PROBED; raises ProtocolError."""
    if len(payload) != _PROBED.size:
        raise ProtocolError(_malformed(MessageType.PROBED, payload))
    new_rows: int = _PROBED.unpack(payload)[0]
    return new_rows


def pack_page(pages: Sequence[bytes], *, last: bool) -> list[bytes]:
    """Make PAGE, in parts for `encode`: a byte for `last`, then each page behind its u32 length."""
    parts = [b"\x01" if last else b"\x00"]
    for page in pages:
        parts.append(_LENGTH.pack(len(page)))
        parts.append(page)
    return parts


def unpack_page(payload: bytes) -> Page:
    """Read PAGE; raises ProtocolError."""
    if not payload or payload[0] > 1:
        raise ProtocolError(_malformed(MessageType.PAGE, payload))
    pages = []
    offset, end = 1, len(payload)
    while offset < end:
        start = offset + _LENGTH.size
        if start > end:
            raise ProtocolError(_malformed(MessageType.PAGE, payload))
        offset = start + _LENGTH.unpack_from(payload, offset)[0]
        if offset > end:
            raise ProtocolError(_malformed(MessageType.PAGE, payload))
        pages.append(payload[start:offset])
    return Page(pages, payload[0] == 1)


def _malformed(type: MessageType, payload: bytes) -> str:
    return f"a malformed {type.name} of {len(payload):,} bytes"
