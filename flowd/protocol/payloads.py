"""What is in each message, and its bytes; see `flowd.protocol`.

What is on the path of every batch is packed by hand, the rest is msgpack. Every `unpack` raises
ProtocolError, and nothing else, for bytes that are not what it reads.
"""

import struct
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from flowd.errors import ProtocolError
from flowd.flow import COUNTER_MAX, HOUR_MAX, RowKey
from flowd.protocol.stream import PAYLOAD_BYTES_MAX, MessageType
from flowd.query import Query

PROTOCOL_VERSION: Final = 1
"""What HELLO must say; router and worker are always of one release, so there is only one."""

PAGE_ROWS_MAX: Final = 65_536
"""The most rows one QUERY may ask for; with 3 names of 256 bytes in each they fit a payload."""

_APPEND = struct.Struct("<16sQQQ")
_APPENDED = struct.Struct("<B7xQQQQ")
_PROBED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")

FRAME_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - _APPEND.size
"""The longest frame that fits an APPEND."""

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
    """STATUS: what a worker holds and whether it takes appends; sent when that changes.

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


class AppendHeader(msgspec.Struct, frozen=True, gc=False):
    """What stands before the frame in an APPEND; times are in ms since 1970.

    Attributes:
        batch_id: 0 … 2**128 - 1, 0 for un-keyed.
        key_time_ms: the time in the key, 0 for un-keyed.
        arrival_ms: when the router had the request.
        shards: bitmap of all shards that the batch touches.
    """

    batch_id: int
    key_time_ms: int
    arrival_ms: int
    shards: int


class Appended(msgspec.Struct, frozen=True, gc=False):
    """APPENDED: the append is durable.

    Attributes:
        duplicate: the batch was there already and nothing was added.
        rows: as in Status, like the rest.
        name_bytes: see there.
        batch_ids: see there.
        floor_ms: see there.
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


_Value = TypeVar("_Value")

_ENCODER: Final = msgspec.msgpack.Encoder()
_HELLO: Final = msgspec.msgpack.Decoder(Hello)
_STATUS: Final = msgspec.msgpack.Decoder(Status)
_QUERY: Final = msgspec.msgpack.Decoder(QueryRequest)
_BUCKETS: Final = msgspec.msgpack.Decoder(BucketsRequest)
_BUCKET_SUMS: Final = msgspec.msgpack.Decoder(list[BucketSums])
_FAILED: Final = msgspec.msgpack.Decoder(Failed)


def pack(
    value: Hello | Status | QueryRequest | BucketsRequest | Failed | list[BucketSums],
) -> bytes:
    """Make the payload of a message that is one msgpack value."""
    return _ENCODER.encode(value)


def unpack_hello(payload: bytes) -> Hello:
    """Read HELLO; raises ProtocolError."""
    return _unpack(_HELLO, MessageType.HELLO, payload)


def unpack_status(payload: bytes) -> Status:
    """Read STATUS; raises ProtocolError."""
    return _unpack(_STATUS, MessageType.STATUS, payload)


def unpack_query(payload: bytes) -> QueryRequest:
    """Read QUERY; raises ProtocolError."""
    return _unpack(_QUERY, MessageType.QUERY, payload)


def unpack_buckets(payload: bytes) -> BucketsRequest:
    """Read BUCKETS; raises ProtocolError."""
    return _unpack(_BUCKETS, MessageType.BUCKETS, payload)


def unpack_bucket_sums(payload: bytes) -> list[BucketSums]:
    """Read BUCKET_SUMS; raises ProtocolError."""
    return _unpack(_BUCKET_SUMS, MessageType.BUCKET_SUMS, payload)


def unpack_failed(payload: bytes) -> Failed:
    """Read FAILED; raises ProtocolError."""
    return _unpack(_FAILED, MessageType.FAILED, payload)


def pack_append(header: AppendHeader) -> bytes:
    """Make the start of an APPEND; the frame is a part of its own in `encode`."""
    batch_id = header.batch_id.to_bytes(16, "little")
    return _APPEND.pack(batch_id, header.key_time_ms, header.arrival_ms, header.shards)


def unpack_append(payload: bytes) -> tuple[AppendHeader, bytes]:
    """Read APPEND: its header and its frame; raises ProtocolError."""
    if len(payload) < _APPEND.size:
        raise ProtocolError(_malformed(MessageType.APPEND, payload))
    batch_id, key_time_ms, arrival_ms, shards = _APPEND.unpack_from(payload)
    header = AppendHeader(int.from_bytes(batch_id, "little"), key_time_ms, arrival_ms, shards)
    return header, payload[_APPEND.size :]


def pack_appended(answer: Appended) -> bytes:
    """Make APPENDED."""
    return _APPENDED.pack(
        answer.duplicate, answer.rows, answer.name_bytes, answer.batch_ids, answer.floor_ms
    )


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


def _unpack(decoder: msgspec.msgpack.Decoder[_Value], type: MessageType, payload: bytes) -> _Value:
    try:
        return decoder.decode(payload)
    # msgspec lets the last two through: names that are no UTF-8, deep nesting.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a malformed {type.name}: {error}") from error
