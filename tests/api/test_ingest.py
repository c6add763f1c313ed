import gzip
import uuid
import zlib

import pytest
from backports import zstd

from flowd.errors import (
    FlowdError,
    FrameError,
    OutcomeUnknown,
    Overloaded,
    ShardUnavailable,
    StorageFull,
)
from tests.api.conftest import Log, Server
from tests.api.flows import body, flow, lines, many

ONE = body(flow())
NDJSON = {"Content-Type": "application/x-ndjson"}


def key_at(time_ms: int, random: int = 1) -> str:
    value = time_ms << 80 | 0x7 << 76 | 0x2 << 62 | random
    return str(uuid.UUID(int=value))


PAST_KEY = key_at(1_700_000_000_000)


@pytest.mark.parametrize("path", ["/flows", "/fas/flows", "/fl%6Fws", "http://flowd/flows"])
async def test_flows_of_one_key_add_up(server: Server, path: str) -> None:
    first = await server.request("POST", path, body(flow(bytes_tx=1), flow(bytes_rx=5)))
    second = await server.request("POST", path, body(flow()))

    assert (first.status, first.body) == (204, b"")
    assert "content-length" not in first.headers
    assert second.status == 204
    assert await server.stored() == [flow(bytes_tx=201, bytes_rx=605)]


@pytest.mark.parametrize(
    ("sent", "headers"),
    [
        (ONE, {"Content-Type": ""}),
        (ONE, {"Content-Type": "Application/JSON; Charset=UTF-8"}),
        (ONE, {"Content-Type": 'application/json; charset="utf-8"; x=1'}),
        (lines(flow()), NDJSON),
        (gzip.compress(ONE), {"Content-Encoding": "gzip"}),
        (gzip.compress(ONE), {"Content-Encoding": "X-GZIP"}),
        (gzip.compress(ONE[:7]) + gzip.compress(ONE[7:]), {"Content-Encoding": "gzip"}),
        (zstd.compress(ONE), {"Content-Encoding": "zstd"}),
        (zstd.compress(ONE[:7]) + zstd.compress(ONE[7:]), {"Content-Encoding": "zstd"}),
        (ONE, {"Content-Encoding": "identity"}),
        (gzip.compress(lines(flow())), {"Content-Encoding": "gzip", **NDJSON}),
    ],
)
async def test_every_form_of_a_body_is_the_same_batch(
    server: Server, sent: bytes, headers: dict[str, str]
) -> None:
    reply = await server.request("POST", "/flows", sent, headers)

    assert reply.status == 204
    assert await server.stored() == [flow()]


async def test_a_chunked_body_is_put_together(server: Server) -> None:
    async with await server.connect() as client:
        await client.send(
            b"POST /flows HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        for part in (ONE[:3], ONE[3:50], ONE[50:]):
            await client.send(b"%x\r\n%s\r\n" % (len(part), part))
        await client.send(b"0\r\n\r\n")
        reply = await client.reply("POST")

    assert reply.status == 204
    assert await server.stored() == [flow()]


async def test_a_large_body_arrives_whole(server: Server) -> None:
    flows = many(20_000)

    reply = await server.request("POST", "/flows", body(*flows))

    assert reply.status == 204
    assert await server.stored() == flows


async def test_a_client_may_ask_before_it_sends_a_body(server: Server) -> None:
    async with await server.connect() as client:
        await client.send(
            b"POST /flows HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\nContent-Type: application/json\r\n\r\n" % len(ONE)
        )
        interim = await client.reply("POST")
        await client.send(ONE)
        final = await client.reply("POST")

    assert (interim.status, final.status) == (100, 204)


async def test_an_empty_array_is_a_batch_of_nothing(server: Server) -> None:
    reply = await server.request("POST", "/flows", b"[]")

    assert reply.status == 204
    assert await server.stored() == []


async def test_bad_flows_may_be_left_out_and_are_reported(server: Server) -> None:
    sent = body(flow(), flow(bytes_tx=-1), flow(hour=92))

    reply = await server.request("POST", "/flows?on_error=skip", sent)

    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    report = reply.json
    assert (report["stored"], report["skipped"]) == (2, 1)
    assert [error["pointer"] for error in report["errors"]] == ["/1/bytes_tx"]
    assert report["errors"][0]["reason"]
    assert await server.stored() == [flow(), flow(hour=92)]
    assert server.metric("flowd_flows_skipped_total") == 1
    assert server.metric("flowd_flows_accepted_total") == 2


async def test_what_is_no_flow_at_all_is_refused_even_when_bad_flows_are_skipped(
    server: Server,
) -> None:
    reply = await server.request("POST", "/flows?on_error=skip", b'{"not": "an array"}')

    assert reply.status == 400
    assert await server.stored() == []


async def test_on_error_has_one_value(server: Server) -> None:
    reply = await server.request("POST", "/flows?on_error=ignore", ONE)

    assert reply.status == 400
    assert reply.detail.startswith("on_error: must be skip")
    assert await server.stored() == []


@pytest.mark.parametrize("form", ["{}", '"{}"'])
async def test_a_key_makes_a_retry_harmless(server: Server, form: str) -> None:
    headers = {"Idempotency-Key": form.format(PAST_KEY)}

    first = await server.request("POST", "/flows", ONE, headers)
    again = await server.request("POST", "/flows", ONE, {"Idempotency-Key": PAST_KEY.upper()})
    other = await server.request("POST", "/flows", body(flow(hour=92)), headers)

    assert [first.status, again.status, other.status] == [204, 204, 204]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in other.headers
    assert await server.stored() == [flow(), flow(hour=92)]
    assert [batch.key_time_ms for batch in server.backend.batches] == [1_700_000_000_000] * 2
    assert len({batch.batch_id for batch in server.backend.batches} - {0}) == 2
    assert server.metric("flowd_batches_accepted_total") == 2


async def test_without_a_key_a_batch_has_no_id(server: Server) -> None:
    await server.request("POST", "/flows", ONE)

    (batch,) = server.backend.batches
    assert (batch.batch_id, batch.key_time_ms) == (0, 0)
    assert batch.arrival_ms > 1_700_000_000_000


@pytest.mark.parametrize(
    "headers",
    [
        "Idempotency-Key: \r\n",
        "Idempotency-Key: 12345\r\n",
        f"Idempotency-Key: {uuid.uuid4()}\r\n",
        f'Idempotency-Key: "{PAST_KEY}\r\n',
        f"Idempotency-Key: {PAST_KEY}\r\nIdempotency-Key: {PAST_KEY}\r\n",
    ],
)
async def test_a_key_is_one_uuid_of_version_7(server: Server, headers: str) -> None:
    async with await server.connect() as client:
        head = f"POST /flows HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ONE)}\r\n{headers}\r\n"
        await client.send(head.encode() + ONE)
        reply = await client.reply("POST")

    assert reply.status == 400
    assert "uuid.uuid7()" in reply.detail
    assert await server.stored() == []
    assert server.refused("key") == 1


async def test_a_key_from_the_future_is_refused(server: Server) -> None:
    headers = {"Idempotency-Key": key_at(4_000_000_000_000)}

    reply = await server.request("POST", "/flows", ONE, headers)

    assert reply.status == 400
    assert "in the future" in reply.detail
    assert await server.stored() == []


@pytest.mark.parametrize(
    ("error", "keyed", "status", "problem", "retry", "reason"),
    [
        (ShardUnavailable((1,), "away"), False, 503, "shard-unavailable", True, "shards"),
        (ShardUnavailable((1,), "away"), True, 503, "shard-unavailable", True, "shards"),
        (OutcomeUnknown((1,), "died"), False, 500, "outcome-unknown", False, "outcome_unknown"),
        (OutcomeUnknown((1,), "died"), True, 503, "outcome-unknown", True, "outcome_unknown"),
        (StorageFull("rows", "full"), True, 507, "storage-full", False, "rows"),
        (StorageFull("a full word", "full"), True, 507, "storage-full", False, "disk"),
        (Overloaded("ids", "later"), True, 429, "too-many-keys", True, "ids"),
        (Overloaded("unanswered", "later", 7), False, 503, "overloaded", True, "unanswered"),
    ],
)
async def test_an_error_of_the_backend_becomes_the_right_answer(
    server: Server,
    error: FlowdError,
    keyed: bool,
    status: int,
    problem: str,
    retry: bool,
    reason: str,
) -> None:
    server.backend.ingest_error = error
    headers = {"Idempotency-Key": PAST_KEY} if keyed else {}

    reply = await server.request("POST", "/flows", ONE, headers)

    assert reply.status == status
    assert reply.problem == problem
    assert str(error) in reply.detail
    assert ("retry-after" in reply.headers) == retry
    assert server.refused(reason) == 1
    assert server.metric("flowd_batches_accepted_total") == 0


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), FrameError("oops")])
@pytest.mark.parametrize("keyed", [False, True])
async def test_a_fault_in_mid_append_leaves_the_outcome_unknown(
    server: Server, log: Log, error: Exception, keyed: bool
) -> None:
    log.faults_expected = True
    server.backend.ingest_error = error
    headers = {"Idempotency-Key": PAST_KEY} if keyed else {}

    reply = await server.request("POST", "/flows", ONE, headers)

    assert reply.status == (503 if keyed else 500)
    assert reply.problem == "outcome-unknown"
    assert "oops" not in reply.detail
    (event,) = log.named("ingest_failed")
    assert event["request_id"] == reply.headers["x-request-id"]


async def test_a_client_that_goes_away_in_mid_body_stores_nothing(server: Server, log: Log) -> None:
    async with await server.connect() as client:
        await client.send(b"POST /flows HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n[")
        await server.until(lambda: server.metric("flowd_in_flight_bytes") > 0)
    await server.until(lambda: server.metric("flowd_connections") == 0)

    assert await server.stored() == []
    assert server.metric("flowd_in_flight_bytes") == 0


@pytest.mark.parametrize(
    ("coding", "sent", "reason"),
    [
        ("gzip", gzip.compress(ONE)[:-1], "the gzip stream ends early"),
        ("gzip", b"", "the gzip stream ends early"),
        ("gzip", ONE, "malformed gzip"),
        ("gzip", zlib.compress(ONE), "malformed gzip"),
        ("gzip", gzip.compress(ONE) + b"garbage", "malformed gzip"),
        ("zstd", zstd.compress(ONE)[:-1], "the zstd stream ends early"),
        ("zstd", b"", "the zstd stream ends early"),
        ("zstd", ONE, "malformed zstd"),
    ],
)
async def test_a_damaged_compressed_body_is_refused(
    server: Server, coding: str, sent: bytes, reason: str
) -> None:
    reply = await server.request("POST", "/flows", sent, {"Content-Encoding": coding})

    assert reply.status == 400
    assert reply.detail.startswith(reason)
    assert await server.stored() == []


async def test_malformed_chunks_are_refused_at_once(server: Server) -> None:
    async with await server.connect() as client:
        await client.send(
            b"POST /flows HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[\n\r\n"
        )
        await server.until(lambda: server.metric("flowd_in_flight_bytes") > 0)
        await client.send(b"no size\r\n")
        reply = await client.reply("POST")
        assert await client.closed() == b""

    assert reply.status == 400
    assert "malformed" in reply.detail
    assert await server.stored() == []
