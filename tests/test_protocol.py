"""The messages of router and worker: whatever goes in comes out, and nothing else does."""

import contextlib
import random
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowd.errors import ProtocolError
from flowd.flow import COUNTER_MAX, HOUR_MAX, RowKey
from flowd.protocol import (
    FRAME_BYTES_MAX,
    PAGE_ROWS_MAX,
    PAYLOAD_BYTES_MAX,
    PROTOCOL_VERSION,
    Appended,
    AppendHeader,
    BucketsRequest,
    BucketSums,
    Decoder,
    Failed,
    Hello,
    Message,
    MessageType,
    Page,
    QueryRequest,
    Status,
    encode,
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
from flowd.query import AnswerFormat, Filters, Query

u64 = st.integers(0, 2**64 - 1)
counts = st.integers(0, COUNTER_MAX)
names = st.text(min_size=1, max_size=20)
hours = st.integers(0, HOUR_MAX)
messages = st.builds(Message, st.sampled_from(MessageType), u64, st.binary(max_size=100))
keys = st.builds(RowKey, hours, names, names, names)
filters = st.builds(Filters, *[st.lists(names, max_size=3).map(tuple)] * 3)
queries = st.builds(
    Query,
    hour_from=hours,
    hour_to=hours,
    filters=filters,
    width=st.integers(1, 100),
    after=st.none() | keys,
    limit=st.none() | st.integers(1, 10_000),
    partial=st.booleans(),
    answer_format=st.sampled_from(AnswerFormat),
)
bucket_sums = st.builds(
    BucketSums,
    start=hours,
    width=st.integers(1, HOUR_MAX),
    rows=counts,
    bytes_tx=counts,
    bytes_rx=counts,
    tier=st.sampled_from(["memory", "rollup", "archive"]),
    digest=st.none() | st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}"),
)

HELLO = Hello(
    version=PROTOCOL_VERSION,
    process="worker-3",
    boot="a1",
    shard=3,
    shard_count=4,
    generation=1,
    kernel="reference",
)
UNPACKS: list[Callable[[bytes], object]] = [
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
]


def on_the_wire(sent: list[Message]) -> bytes:
    return b"".join(b"".join(encode(m.type, m.request_id, m.payload)) for m in sent)


def feed_in_chunks(decoder: Decoder, stream: bytes, cuts: list[int]) -> list[Message]:
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    return received


# The stream.


@given(st.lists(messages, max_size=8), st.data())
def test_however_a_stream_is_cut_the_same_messages_come_out(
    sent: list[Message], data: st.DataObject
) -> None:
    stream = on_the_wire(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))

    assert feed_in_chunks(Decoder(), stream, cuts) == sent


@given(st.lists(messages, max_size=4))
def test_a_stream_that_comes_byte_by_byte_gives_the_same_messages(sent: list[Message]) -> None:
    stream = on_the_wire(sent)

    assert feed_in_chunks(Decoder(), stream, list(range(1, len(stream)))) == sent


@given(st.lists(messages, min_size=1, max_size=4), st.data())
def test_a_message_comes_out_with_its_last_byte_and_not_before(
    sent: list[Message], data: st.DataObject
) -> None:
    stream = on_the_wire(sent)
    cut = data.draw(st.integers(len(on_the_wire(sent[:-1])), len(stream) - 1))
    decoder = Decoder()

    assert decoder.feed(stream[:cut]) == sent[:-1]
    assert decoder.feed(stream[cut:]) == sent[-1:]


@given(st.binary(max_size=200), st.data())
def test_garbage_raises_protocol_error_or_nothing(garbage: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(garbage)), max_size=5)))
    try:
        received = feed_in_chunks(Decoder(), garbage, cuts)
    except ProtocolError:
        return
    assert garbage.startswith(on_the_wire(received))


def test_the_header_is_laid_out_as_documented() -> None:
    header, payload = encode(MessageType.PROBE, 0x0102030405060708, b"frame")

    assert header == bytes.fromhex("05000000 05 000000 0807060504030201")
    assert payload == b"frame"


def test_parts_are_sent_as_they_are_without_a_copy() -> None:
    frame = bytes(1_000_000)

    buffers = encode(MessageType.APPEND, 1, b"head", frame)

    assert buffers[2] is frame


def test_a_longest_message_is_let_through() -> None:
    mebibyte = bytes(1 << 20)
    header = encode(MessageType.PROBE, 1, *[mebibyte] * 256)[0]

    assert Decoder().feed(bytes(header)) == []


def test_a_message_over_the_bound_is_not_sent() -> None:
    mebibyte = bytes(1 << 20)
    with pytest.raises(ProtocolError, match="PROBE of 268,435,457 bytes"):
        encode(MessageType.PROBE, 1, b"x", *[mebibyte] * 256)


@pytest.mark.parametrize("cut", [16, 9])
def test_a_message_over_the_bound_is_refused_by_its_header_alone(cut: int) -> None:
    header = struct.pack("<IIQ", PAYLOAD_BYTES_MAX + 1, MessageType.PAGE, 1)
    decoder = Decoder()
    decoder.feed(header[: 16 - cut])
    with pytest.raises(ProtocolError, match="PAGE of 268,435,457 bytes"):
        decoder.feed(header[16 - cut :])


@pytest.mark.parametrize("type_number", [0, 16, 255, 0x0100_0001])
def test_an_unknown_type_is_refused(type_number: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown type {type_number:#x}"):
        Decoder().feed(struct.pack("<IIQ", 0, type_number, 1))


def test_a_long_message_in_small_chunks_costs_no_more_than_its_bytes() -> None:
    payload = random.Random(1).randbytes(16 << 20)
    stream = b"".join(encode(MessageType.PAGE, 1, payload))
    decoder = Decoder()
    started = time.process_time()

    received = feed_in_chunks(decoder, stream, list(range(1024, len(stream), 1024)))

    # Copying all that came with each chunk would move 137 GB.
    assert time.process_time() - started < 2.0
    assert received == [Message(MessageType.PAGE, 1, payload)]


# Payloads.


@pytest.mark.parametrize("unpack", UNPACKS)
@given(garbage=st.binary(max_size=100))
def test_a_garbled_payload_raises_protocol_error_or_nothing(
    unpack: Callable[[bytes], object], garbage: bytes
) -> None:
    # Any other exception fails the test: a router must not die of what a peer sends.
    with contextlib.suppress(ProtocolError):
        unpack(garbage)


VALID: list[tuple[Callable[[bytes], object], bytes]] = [
    (unpack_hello, pack(HELLO)),
    (unpack_status, pack(Status(writable=True, rows=7))),
    (unpack_query, pack(QueryRequest(Query(hour_from=1, hour_to=2), None, 10))),
    (unpack_buckets, pack(BucketsRequest(True))),
    (unpack_failed, pack(Failed(kind="bad_frame", message="too short"))),
    (unpack_appended, pack_appended(Appended(True, 1, 2, 3, 4))),
    (unpack_probed, pack_probed(7)),
    (unpack_page, b"".join(pack_page([b"one", b"three"], last=True))),
]


@pytest.mark.parametrize(("unpack", "payload"), VALID)
def test_a_payload_with_a_byte_too_many_is_malformed(
    unpack: Callable[[bytes], object], payload: bytes
) -> None:
    unpack(payload)
    with pytest.raises(ProtocolError):
        unpack(payload + b"\x00")


@pytest.mark.parametrize(("unpack", "payload"), VALID)
def test_a_payload_that_lacks_its_last_byte_is_malformed(
    unpack: Callable[[bytes], object], payload: bytes
) -> None:
    with pytest.raises(ProtocolError):
        unpack(payload[:-1])


@given(queries, st.none() | keys, st.integers(1, PAGE_ROWS_MAX))
def test_a_query_arrives_as_it_was_sent(query: Query, after: RowKey | None, rows: int) -> None:
    request = QueryRequest(query, after, rows)

    assert unpack_query(pack(request)) == request


@pytest.mark.parametrize("rows", [0, PAGE_ROWS_MAX + 1])
def test_a_query_for_no_rows_or_too_many_is_malformed(rows: int) -> None:
    request = QueryRequest(Query(hour_from=1, hour_to=2), None, rows)
    with pytest.raises(ProtocolError, match="malformed QUERY"):
        unpack_query(pack(request))


@given(st.integers(0, 2**128 - 1), u64, u64, u64, st.binary(max_size=50))
def test_an_append_arrives_as_it_was_sent(
    batch_id: int, key_time_ms: int, arrival_ms: int, shards: int, frame: bytes
) -> None:
    header = AppendHeader(batch_id, key_time_ms, arrival_ms, shards)

    assert unpack_append(pack_append(header) + frame) == (header, frame)


def test_an_append_is_laid_out_as_documented() -> None:
    header = AppendHeader(batch_id=0x0102, key_time_ms=3, arrival_ms=4, shards=0b101)

    assert pack_append(header).hex(" ", -8) == (
        "0201000000000000 0000000000000000 0300000000000000 0400000000000000 0500000000000000"
    )
    assert len(pack_append(header)) + FRAME_BYTES_MAX == PAYLOAD_BYTES_MAX


@given(st.booleans(), u64, u64, u64, u64)
def test_an_acknowledgement_arrives_as_it_was_sent(
    duplicate: bool, rows: int, name_bytes: int, batch_ids: int, floor_ms: int
) -> None:
    answer = Appended(duplicate, rows, name_bytes, batch_ids, floor_ms)

    assert unpack_appended(pack_appended(answer)) == answer


def test_an_acknowledgement_is_a_duplicate_or_not_and_nothing_else() -> None:
    payload = pack_appended(Appended(True, 1, 2, 3, 4))
    with pytest.raises(ProtocolError, match="malformed APPENDED"):
        unpack_appended(b"\x02" + payload[1:])


@given(u64)
def test_a_count_of_new_rows_arrives_as_it_was_sent(new_rows: int) -> None:
    assert unpack_probed(pack_probed(new_rows)) == new_rows


@given(st.lists(st.binary(max_size=50), max_size=5), st.booleans())
def test_pages_arrive_as_they_were_sent(pages: list[bytes], last: bool) -> None:
    assert unpack_page(b"".join(pack_page(pages, last=last))) == Page(pages, last)


@given(st.lists(bucket_sums, max_size=3))
def test_sums_of_buckets_arrive_as_they_were_sent(sums: list[BucketSums]) -> None:
    assert unpack_bucket_sums(pack(sums)) == sums


@given(st.booleans(), names, counts, counts, counts, counts)
def test_a_status_arrives_as_it_was_sent(
    writable: bool, reason: str, rows: int, name_bytes: int, batch_ids: int, floor_ms: int
) -> None:
    status = Status(
        writable=writable,
        full_reason=reason,
        rows=rows,
        name_bytes=name_bytes,
        batch_ids=batch_ids,
        floor_ms=floor_ms,
    )

    assert unpack_status(pack(status)) == status


def test_hello_arrives_as_it_was_sent() -> None:
    assert unpack_hello(pack(HELLO)) == HELLO


@pytest.mark.parametrize(
    "digest", ["", "0" * 31, "0" * 33, "g" * 32, "A" * 32], ids=["none", "31", "33", "g", "A"]
)
def test_a_digest_is_32_lower_case_hexadecimal_digits(digest: str) -> None:
    sums = BucketSums(
        start=1, width=1, rows=1, bytes_tx=1, bytes_rx=1, tier="memory", digest=digest
    )
    with pytest.raises(ProtocolError, match="malformed BUCKET_SUMS"):
        unpack_bucket_sums(pack([sums]))


def test_deep_nesting_is_malformed_and_not_a_recursion_error() -> None:
    deep = b"\x91" * 100_000 + b"\x00"
    # A member that nobody knows is skipped, which is where msgspec recurses.
    unknown_member = b"\x81\xa1x" + deep
    with pytest.raises(ProtocolError, match="malformed STATUS"):
        unpack_status(unknown_member)


def test_a_name_that_is_no_utf8_is_malformed_and_not_a_decode_error() -> None:
    with pytest.raises(ProtocolError, match="malformed FAILED"):
        unpack_failed(b"\x81\xa7message\xa1\xff")
