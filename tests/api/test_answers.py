"""GETs: what an answer looks like, how it comes in parts, and that a part is never the whole."""

import asyncio
import csv
import io
import json
from typing import Any
from urllib.parse import quote

import pytest

from flowd.errors import FrameError, OutcomeUnknown, ShardUnavailable
from flowd.flow import RowKey
from flowd.query import encode_cursor
from tests.api.conftest import Log, Server, Start
from tests.api.flows import Flow, body, flow, many
from tests.api.http_client import request_bytes

FAS_EXAMPLE = [
    flow(src_app="baz", dest_app="qux", hour=2),
    flow(vpc_id="vpc-1"),
    flow(src_app="a*c"),
    flow(),
]


def key_of(row: Flow) -> tuple[Any, ...]:
    return row["hour"], row["vpc_id"], row["src_app"], row["dest_app"]


async def store(server: Server, flows: list[Flow]) -> None:
    assert (await server.request("POST", "/flows", body(*flows))).status == 204


@pytest.mark.parametrize("path", ["/flows", "/fas/flows"])
async def test_rows_come_sorted_with_their_members_in_order(server: Server, path: str) -> None:
    await store(server, FAS_EXAMPLE)

    reply = await server.request("GET", f"{path}?hour=91")

    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json == [FAS_EXAMPLE[2], FAS_EXAMPLE[3], FAS_EXAMPLE[1]]
    assert list(reply.json[0]) == list(flow())


async def test_an_hour_without_flows_is_an_empty_array(server: Server) -> None:
    assert (await server.request("GET", "/flows?hour=5")).json == []


async def test_a_range_and_filters_choose_rows(server: Server) -> None:
    await store(server, FAS_EXAMPLE)

    async def rows(query: str) -> Any:
        return (await server.request("GET", f"/flows?{query}")).json

    assert await rows("from=2&to=91") == [FAS_EXAMPLE[0]]
    assert await rows("hour=91&src_app=a%5c*c") == [FAS_EXAMPLE[2]]
    assert len(await rows("hour=91&src_app=foo&src_app=a%5C*c&vpc_id=vpc-0")) == 2
    assert await rows("from=0&to=99&dest_app=qux&src_app=foo") == []


@pytest.mark.parametrize(
    ("query", "accept", "media_type"),
    [
        ("", "", "application/json"),
        ("", "*/*", "application/json"),
        ("", "text/csv", "text/csv"),
        ("", "application/x-ndjson, application/json;q=0.5", "application/x-ndjson"),
        ("", "text/*;q=0.5, application/json;q=0.4", "text/csv"),
        ("", "image/png", "application/json"),
        ("&format=csv", "application/json", "text/csv"),
        ("&format=ndjson", "", "application/x-ndjson"),
    ],
)
async def test_a_client_chooses_the_format(
    server: Server, query: str, accept: str, media_type: str
) -> None:
    await store(server, FAS_EXAMPLE)

    reply = await server.request("GET", f"/flows?hour=2{query}", headers={"Accept": accept})

    assert reply.headers["content-type"] == media_type
    assert reply.headers["vary"] == "Accept"
    text = reply.body.decode()
    if media_type == "text/csv":
        (row,) = csv.DictReader(io.StringIO(text))
        assert {name: str(value) for name, value in FAS_EXAMPLE[0].items()} == row
    elif media_type == "application/x-ndjson":
        assert [json.loads(line) for line in text.splitlines()] == [FAS_EXAMPLE[0]]
    else:
        assert json.loads(text) == [FAS_EXAMPLE[0]]


async def test_a_large_answer_comes_in_chunks_and_is_complete(server: Server) -> None:
    flows = many(5_000)
    await store(server, flows)

    reply = await server.request("GET", "/flows?hour=91")

    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.complete
    assert reply.json == flows
    assert reply.headers["x-request-id"]
    assert server.backend.answers_closed == 1


async def test_a_connection_goes_on_after_a_large_answer(server: Server) -> None:
    await store(server, many(5_000))
    async with await server.connect() as client:
        first = await client.request("GET", "/flows?hour=91")
        second = await client.request("GET", "/flows?hour=91&limit=1")

    assert len(first.json) == 5_000
    assert len(second.json) == 1


async def test_an_old_client_gets_a_large_answer_without_chunks(server: Server) -> None:
    await store(server, many(5_000))
    async with await server.connect() as client:
        await client.send(b"GET /flows?hour=91 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = await client.reply()
        assert await client.closed() == b""

    assert "transfer-encoding" not in reply.headers
    assert reply.headers["connection"] == "close"
    assert len(reply.json) == 5_000


async def test_an_old_client_may_keep_its_connection(server: Server) -> None:
    async with await server.connect() as client:
        for _ in range(2):
            await client.send(b"GET /-/healthy HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            reply = await client.reply()
            assert reply.headers["connection"] == "keep-alive"
        await client.send(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        reply = await client.reply()
        assert await client.closed() == b""

    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "error", [ShardUnavailable((1,), "shard 1 went away"), OutcomeUnknown((), "odd")]
)
async def test_a_shard_that_fails_in_the_middle_leaves_no_complete_body(
    server: Server, log: Log, version: str, error: Exception
) -> None:
    await store(server, many(5_000))
    server.backend.pages_before_failure = 30
    server.backend.page_error = error
    async with await server.connect() as client:
        await client.send(f"GET /flows?hour=91 HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        reply = await client.reply()

    assert reply.status == 200
    assert not reply.complete
    (event,) = log.named("answer_cut")
    assert event["request_id"] == reply.headers["x-request-id"]
    assert event["reason"] == str(error)
    assert server.backend.answers_closed == 1
    assert server.metric("flowd_in_flight_queries") == 0


@pytest.mark.parametrize("error", [FrameError("oops"), ZeroDivisionError("oops")])
async def test_a_fault_in_the_middle_leaves_no_complete_body(
    server: Server, log: Log, error: Exception
) -> None:
    log.faults_expected = True
    await store(server, many(5_000))
    server.backend.pages_before_failure = 30
    server.backend.page_error = error

    reply = await server.request("GET", "/flows?hour=91")

    assert reply.status == 200
    assert not reply.complete
    assert (await server.request("GET", "/-/healthy")).status == 200


@pytest.mark.parametrize("query", ["hour=91", "hour=91&limit=4000"])
async def test_a_shard_that_fails_before_the_first_byte_is_an_honest_503(
    server: Server, query: str
) -> None:
    await store(server, many(5_000))
    server.backend.pages_before_failure = 1

    reply = await server.request("GET", f"/flows?{query}")

    assert reply.status == 503
    assert reply.problem == "shard-unavailable"
    assert reply.headers["retry-after"] == "1"
    assert reply.json["shards"] == [1]


@pytest.mark.parametrize("target", ["/flows?hour=91", "/hours"])
@pytest.mark.parametrize("error", [FrameError("oops"), ZeroDivisionError("oops")])
async def test_a_fault_of_ours_tells_a_client_nothing_but_the_request_id(
    server: Server, log: Log, target: str, error: Exception
) -> None:
    log.faults_expected = True
    server.backend.query_error = error

    reply = await server.request("GET", target)

    assert reply.status == 500
    assert reply.problem == "internal"
    assert "oops" not in reply.detail
    (event,) = log.named("fault")
    assert event["request_id"] == reply.headers["x-request-id"]


async def test_a_missing_shard_is_503_or_said(server: Server) -> None:
    await store(server, many(100))
    server.backend.shards[1].away = True

    whole = await server.request("GET", "/flows?hour=91")
    part = await server.request("GET", "/flows?hour=91&partial=1")
    page = await server.request("GET", "/flows?hour=91&partial=1&limit=10")
    hours = await server.request("GET", "/hours")
    some_hours = await server.request("GET", "/hours?partial=1")
    ready = await server.request("GET", "/-/ready")

    assert (whole.status, whole.headers["retry-after"]) == (503, "1")
    assert (part.status, part.headers["flowd-shards"]) == (200, "2/3")
    assert 0 < len(part.json) < 100
    assert page.headers["flowd-shards"] == "2/3"
    assert hours.status == 503
    assert (some_hours.status, some_hours.headers["flowd-shards"]) == (200, "2/3")
    assert some_hours.json[0]["rows"] == len(part.json)
    assert (ready.status, ready.body) == (503, b"2 of 3 shards are ready\n")


async def test_pages_follow_their_links_to_the_end(server: Server) -> None:
    flows = [*many(25, hour=91), *many(5, hour=92)]
    odd = [flow(vpc_id='v"&=#é %*', src_app=app, hour=91) for app in ("ä", "ö", "\u2028")]
    await store(server, flows + odd)
    expected = sorted(flows + odd, key=key_of)

    rows, target, pages = [], "/fas/flows?from=0&to=99&limit=7&partial=0", 0
    while True:
        reply = await server.request("GET", target)
        assert reply.status == 200
        assert len(reply.json) <= 7
        rows += reply.json
        pages += 1
        if "link" not in reply.headers:
            break
        link, relation = reply.headers["link"].split("; ")
        assert relation == 'rel="next"'
        target = link.strip("<>")
        assert target.startswith("/fas/flows?from=0&to=99&limit=7&partial=0&cursor=")

    assert rows == expected
    assert pages == 5


async def test_a_link_keeps_filters_whatever_is_in_them(server: Server) -> None:
    name = 'v"&=#é %+\\'
    await store(server, [flow(vpc_id=name, src_app=app) for app in "abc"])
    pattern = quote(name.replace("\\", "\\\\"), safe="")

    first = await server.request("GET", f"/flows?hour=91&limit=2&vpc_id={pattern}")
    link = first.headers["link"].split("; ")[0].strip("<>")
    second = await server.request("GET", link)

    assert [row["src_app"] for row in first.json + second.json] == ["a", "b", "c"]
    assert "link" not in second.headers


async def test_a_cursor_may_point_where_no_row_is(server: Server) -> None:
    await store(server, many(3))
    cursor = encode_cursor(RowKey(91, "vpc-0", "app-00001", "zzz"))

    reply = await server.request("GET", f"/flows?hour=91&limit=5&cursor={cursor}")

    assert [row["src_app"] for row in reply.json] == ["app-00002"]


async def test_hours_are_told_with_their_sums_and_digests(server: Server) -> None:
    await store(server, FAS_EXAMPLE)

    plain = (await server.request("GET", "/hours")).json
    with_digest = (await server.request("GET", "/hours?digest=1")).json

    assert plain == [
        {"hour": 2, "width": 1, "rows": 1, "bytes_tx": 100, "bytes_rx": 300, "tier": "memory"},
        {"hour": 91, "width": 1, "rows": 3, "bytes_tx": 300, "bytes_rx": 900, "tier": "memory"},
    ]
    assert [len(hour.pop("digest")) for hour in with_digest] == [32, 32]
    assert with_digest == plain


@pytest.mark.parametrize(
    "target",
    ["/flows?hour=91", "/flows?hour=91&limit=2", "/hours", "/metrics", "/-/healthy", "/-/ready"],
)
async def test_head_gives_what_get_gives_without_the_body(server: Server, target: str) -> None:
    await store(server, many(3_000))
    async with await server.connect() as client:
        got = await client.request("GET", target)
        head = await client.request("HEAD", target)
        again = await client.request("GET", target)

    assert head.status == got.status == again.status == 200
    assert head.body == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers.get("content-length") in (None, got.headers.get("content-length"))
    assert head.headers.get("link") == got.headers.get("link")


async def test_a_head_of_an_error_has_its_status(server: Server) -> None:
    assert (await server.request("HEAD", "/flows")).status == 400


async def test_metrics_are_prometheus_text(server: Server) -> None:
    reply = await server.request("GET", "/metrics")

    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert reply.body == b"# HELP flowd_up 1\n"


async def test_requests_are_counted_by_route_method_and_status(server: Server) -> None:
    await store(server, [flow()])
    await server.request("GET", "/flows?hour=91&src_app=secret")
    await server.request("GET", "/secret")
    await server.request("PROPFIND", "/flows")

    def count(route: str, method: str, status: str) -> float:
        return server.metric(
            "flowd_http_request_seconds_count", route=route, method=method, status=status
        )

    assert count("/flows", "POST", "204") == 1
    assert count("/flows", "GET", "200") == 1
    assert count("unrouted", "GET", "404") == 1
    assert count("/flows", "other", "405") == 1


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    requests = [
        request_bytes("POST", "/flows", body(flow())),
        request_bytes("GET", "/flows?hour=91"),
        request_bytes("GET", "/nowhere"),
        request_bytes("POST", "/flows", body(flow())),
        request_bytes("GET", "/flows?hour=91"),
    ] * 10
    async with await server.connect() as client:
        await client.send(b"".join(requests))
        methods = ["POST", "GET", "GET", "POST", "GET"] * 10
        replies = [await client.reply(method) for method in methods]

    assert [reply.status for reply in replies] == [204, 200, 404, 204, 200] * 10
    sums = [reply.json[0]["bytes_tx"] for reply in replies if reply.status == 200]
    assert sums == [100 * n for n in range(1, 21)]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == 50


async def test_a_drain_finishes_what_is_in_hand_and_takes_no_more(server: Server) -> None:
    server.backend.ingest_gate.clear()
    async with await server.connect() as idle, await server.connect() as busy:
        assert (await idle.request("GET", "/-/healthy")).status == 200
        sent = request_bytes("POST", "/flows", body(flow()))
        await busy.send(sent[:-1])
        await server.until(lambda: server.metric("flowd_in_flight_bytes") > 0)

        server.stop.set()
        assert await idle.closed() == b""
        with pytest.raises(ConnectionError):
            await server.connect()
        await busy.send(sent[-1:])
        server.backend.ingest_gate.set()
        reply = await busy.reply("POST")
        assert await busy.closed() == b""

    assert reply.status == 204
    assert reply.headers["connection"] == "close"
    assert server.serving is not None
    await asyncio.wait_for(server.serving, 5)
    assert len(server.backend.batches) == 1


async def test_a_drain_does_not_wait_for_ever(
    limited: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowd.api.app.DRAIN_SECONDS", 0.1)
    server = await limited()
    server.backend.ingest_gate.clear()
    async with await server.connect() as client:
        await client.send(request_bytes("POST", "/flows", body(flow())))
        await server.until(lambda: server.metric("flowd_in_flight_bytes") > 0)
        server.stop.set()
        assert server.serving is not None
        await asyncio.wait_for(server.serving, 10)
        assert await client.closed() == b""
