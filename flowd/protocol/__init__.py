"""The messages between router and worker: bytes in, messages out, and back. Pure; knows no sockets.

A connection is a stream of messages, each a 16-byte header and a payload, little-endian:

    0  u32  payload length, at most PAYLOAD_BYTES_MAX
    4  u8   type, then 3 zero bytes
    8  u64  request id, chosen by the side that asks; 0 for what a worker sends unasked

On connecting the worker sends HELLO and STATUS; then each request is answered by one message with
its id, in any order. Frames and pages are opaque here. Whatever is malformed raises ProtocolError
and nothing else, after which the connection must be closed: the next message cannot be found.
"""

from flowd.protocol.payloads import (
    FRAME_BYTES_MAX,
    PAGE_ROWS_MAX,
    PROTOCOL_VERSION,
    Appended,
    AppendHeader,
    BucketsRequest,
    BucketSums,
    Failed,
    Hello,
    Page,
    QueryRequest,
    Status,
    pack,
    pack_append,
    pack_appended,
    pack_page,
    pack_probed,
    unpack_append,
    unpack_appended,
    unpack_bucket_sums,
    unpack_buckets,
    unpack_failed,
    unpack_hello,
    unpack_page,
    unpack_probed,
    unpack_query,
    unpack_status,
)
from flowd.protocol.stream import (
    PAYLOAD_BYTES_MAX,
    Decoder,
    Message,
    MessageType,
    encode,
)

__all__ = [
    "FRAME_BYTES_MAX",
    "PAGE_ROWS_MAX",
    "PAYLOAD_BYTES_MAX",
    "PROTOCOL_VERSION",
    "AppendHeader",
    "Appended",
    "BucketSums",
    "BucketsRequest",
    "Decoder",
    "Failed",
    "Hello",
    "Message",
    "MessageType",
    "Page",
    "QueryRequest",
    "Status",
    "encode",
    "pack",
    "pack_append",
    "pack_appended",
    "pack_page",
    "pack_probed",
    "unpack_append",
    "unpack_appended",
    "unpack_bucket_sums",
    "unpack_buckets",
    "unpack_failed",
    "unpack_hello",
    "unpack_page",
    "unpack_probed",
    "unpack_query",
    "unpack_status",
]
