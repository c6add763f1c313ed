"""The list of bad input: each its 4xx that says what and where; nothing stored, nothing in the log.

The `log` fixture, in force for every test here, fails on any traceback.
"""

import gzip
import json

import pytest
from backports import zstd

from tests.api.conftest import Log, Server, Start
from tests.api.flows import body, flow
from tests.api.http_client import request_bytes

GOOD = json.dumps(flow())


def with_member(name: str, text: str) -> bytes:
    """A good flow, then one in which a member is this JSON text."""
    members = {key: json.dumps(value) for key, value in flow().items()} | {name: text}
    second = ",".join(f'"{key}":{value}' for key, value in members.items())
    return f"[{GOOD},{{{second}}}]".encode("utf-8", "surrogatepass")


NOT_A_FLOW = {
    "missing member": (b"[%s,{}]" % GOOD.encode(), "/1"),
    "a number for a flow": (b"[%s,7]" % GOOD.encode(), "/1"),
    "null for a flow": (b"[null]", "/0"),
    "negative": (with_member("bytes_tx", "-1"), "/1/bytes_tx"),
    "2^63": (with_member("bytes_rx", str(2**63)), "/1/bytes_rx"),
    "30 digits": (with_member("bytes_rx", "9" * 30), "/1/bytes_rx"),
    "1.0": (with_member("bytes_tx", "1.0"), "/1/bytes_tx"),
    "1e3": (with_member("bytes_tx", "1e3"), "/1/bytes_tx"),
    "true": (with_member("bytes_tx", "true"), "/1/bytes_tx"),
    "null": (with_member("bytes_tx", "null"), "/1/bytes_tx"),
    "text for a number": (with_member("bytes_tx", '"1"'), "/1/bytes_tx"),
    "hour of 2^32": (with_member("hour", str(2**32)), "/1/hour"),
    "negative hour": (with_member("hour", "-1"), "/1/hour"),
    "text for an hour": (with_member("hour", '"ninety"'), "/1/hour"),
    "number for a name": (with_member("src_app", "1"), "/1/src_app"),
    "empty name": (with_member("src_app", '""'), "/1/src_app"),
    "257 bytes": (with_member("dest_app", json.dumps("x" * 257)), "/1/dest_app"),
    "258 bytes in 129 characters": (with_member("dest_app", '"' + "é" * 129 + '"'), "/1/dest_app"),
    "NUL": (with_member("vpc_id", r'"a\u0000b"'), "/1/vpc_id"),
    "control character of C1": (with_member("vpc_id", r'"\u0085"'), "/1/vpc_id"),
}

MALFORMED = {
    "empty": b"",
    "not JSON": b"hello",
    "not an array": GOOD.encode(),
    "cut off": body(flow())[:-1],
    "two arrays": body(flow()) * 2,
    "depth 10^5": b"[" * 100_000,
    "depth 10^5 in a skipped member": with_member("more", "[" * 100_000 + "]" * 100_000),
    "depth 513 in a skipped member": with_member("more", "[" * 511 + "]" * 511),
    "lone surrogate": with_member("src_app", r'"\ud800"'),
    "lone surrogate in a skipped member": with_member("more", r'"\udc00"'),
    "encoded surrogate": with_member("src_app", '"\ud800"'),
    "invalid UTF-8": with_member("src_app", '"x"').replace(b'"x"', b'"\xff"'),
    "invalid UTF-8 in a skipped member": with_member("more", '"x"').replace(b'"x"', b'"\xff"'),
    "raw control character": with_member("src_app", '"\x01"'),
    "NaN": with_member("bytes_tx", "NaN"),
    "byte order mark": b"\xef\xbb\xbf[]",
}


@pytest.mark.parametrize("name", NOT_A_FLOW)
async def test_what_is_no_valid_flow_is_named_with_its_place(
    server: Server, log: Log, name: str
) -> None:
    sent, pointer = NOT_A_FLOW[name]

    reply = await server.request("POST", "/flows", sent)

    assert reply.status == 400
    assert reply.problem == "invalid-flows"
    assert pointer in reply.detail
    errors = reply.json["errors"]
    assert errors[0]["pointer"].startswith(pointer)
    assert errors[0]["reason"]
    assert reply.json["errors_total"] == len(errors)
    assert await server.stored() == []
    assert server.refused("invalid") == 1
    (event,) = log.named("refused")
    assert event["request_id"] == reply.headers["x-request-id"]
    assert event["status"] == 400


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_array_of_flows_is_refused_whatever_it_comes_in(
    server: Server, name: str, coding: str
) -> None:
    encode = {"identity": bytes, "gzip": gzip.compress, "zstd": zstd.compress}[coding]
    sent = encode(MALFORMED[name])

    reply = await server.request("POST", "/flows", sent, {"Content-Encoding": coding})

    assert reply.status == 400
    assert reply.problem == "invalid-flows"
    assert reply.detail
    assert await server.stored() == []


async def test_the_first_hundred_flaws_are_named_and_all_are_counted(server: Server) -> None:
    reply = await server.request("POST", "/flows", body(*[flow(hour=-1)] * 1_000))

    assert reply.status == 400
    assert len(reply.json["errors"]) == 100
    assert reply.json["errors"][99]["pointer"] == "/99/hour"
    assert reply.json["errors_total"] == 1_000


async def test_the_last_of_doubled_members_counts(server: Server) -> None:
    sent = with_member("src_app", '"first","src_app":"last"')

    assert (await server.request("POST", "/flows", sent)).status == 204
    assert [row["src_app"] for row in await server.stored()] == ["foo", "last"]


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        ("application/x-www-form-urlencoded", "send application/json"),
        ("text/plain", "send application/json"),
        ("application/json; charset=latin-1", "send UTF-8"),
        (";", "send application/json"),
    ],
)
async def test_other_kinds_of_content_are_refused_with_what_to_send(
    server: Server, content_type: str, said: str
) -> None:
    reply = await server.request("POST", "/flows", body(flow()), {"Content-Type": content_type})

    assert reply.status == 415
    assert said in reply.detail
    assert await server.stored() == []


async def test_other_codings_are_refused_with_what_is_taken(server: Server) -> None:
    reply = await server.request("POST", "/flows", b"x", {"Content-Encoding": "br"})

    assert reply.status == 415
    assert reply.headers["accept-encoding"] == "gzip, zstd"
    assert "'br'" in reply.detail


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
async def test_a_wrong_method_is_told_the_right_ones(server: Server, method: str) -> None:
    reply = await server.request(method, "/flows")

    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD, POST"
    assert (await server.request("POST", "/hours", b"")).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/flow", "/flows/", "/FLOWS", "/flows/91", "/%"])
async def test_an_unknown_path_is_told_the_known_ones(server: Server, path: str) -> None:
    reply = await server.request("GET", path)

    assert reply.status == 404
    assert "/flows" in reply.detail


@pytest.mark.parametrize(
    ("target", "parameter"),
    [
        ("/flows", "hour"),
        ("/flows?", "hour"),
        ("/flows?hour", "hour"),
        ("/flows?hour=-1", "hour"),
        ("/flows?hour=ninety", "hour"),
        ("/flows?hour=91&hour=91", "hour"),
        ("/flows?hour=%39%31&colour=red", "colour"),
        ("/flows?hour=91&src_app=%ff", "src_app"),
        ("/flows?hour=91&src_app=%zz", "src_app"),
        ("/flows?hour=91&%ff=1", "%ff"),
        ("/flows?hour=91&src_app=%00", "src_app"),
        ("/hours?digest=yes", "digest"),
        ("/hours?hour=1", "hour"),
    ],
)
async def test_a_bad_parameter_is_named(server: Server, target: str, parameter: str) -> None:
    reply = await server.request("GET", target)

    assert reply.status == 400
    assert reply.problem == "invalid-parameter"
    assert reply.json["parameter"] == parameter
    assert reply.detail.startswith(f"{parameter}: ")


async def test_an_unknown_parameter_of_a_post_is_refused(server: Server) -> None:
    reply = await server.request("POST", "/flows?hour=91", body(flow()))

    assert reply.status == 400
    assert reply.detail == "hour: unknown parameter; known here: on_error"
    assert await server.stored() == []


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /flows HTTP/1.1\r\n\r\n",
        b"GET /flows HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /flows HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /flows HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /flows HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /flows HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /flows HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 1_000 + b"\r\n",
        b"GET /flows?hour=91&src_app=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET flows HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /flows HTTP/9.9\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_cut_off(
    server: Server, log: Log, sent: bytes
) -> None:
    async with await server.connect() as client:
        await client.send(sent)
        reply = await client.reply()
        assert await client.closed() == b""

    assert reply.status == 400
    assert reply.problem == "malformed-request"
    assert reply.detail.startswith("not well-formed HTTP: ")
    assert reply.headers["connection"] == "close"
    (event,) = log.named("malformed")
    assert event["log_level"] == "debug"
    assert not log.named("refused")


async def test_a_request_with_garbage_behind_it_is_refused_with_it(server: Server) -> None:
    sent = body(flow())
    async with await server.connect() as client:
        await client.send(request_bytes("POST", "/flows", sent) + b"\0garbage\r\n\r\n")
        reply = await client.reply()
        assert await client.closed() == b""

    assert reply.status == 400
    assert await server.stored() == []


async def test_the_server_as_a_whole_has_no_methods(server: Server) -> None:
    assert (await server.request("OPTIONS", "*")).status == 404


async def test_a_body_over_the_limit_of_flows_is_too_large(limited: Start) -> None:
    server = await limited(flows=2)

    refused = await server.request("POST", "/flows", body(*[flow()] * 3))
    taken = await server.request("POST", "/flows", body(*[flow()] * 2))

    assert refused.status == 413
    assert "limits.flows" in refused.detail
    assert taken.status == 204
