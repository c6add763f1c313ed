import socket
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowd import client
from flowd.client import ClientError, ask_flows, ask_pages, is_date, parse_hour
from flowd.flow import HOUR_MAX
from tests.canned_server import answer, canned_server

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@given(hour=st.integers(0, HOUR_MAX))
def test_a_number_is_the_hour_itself(hour: int):
    assert parse_hour(str(hour)) == hour


@given(hour=st.integers(0, 24 * 365 * 8_000), second=st.integers(1, 3_599))
def test_a_time_is_in_its_hour_since_1970(hour: int, second: int):
    start = datetime.fromtimestamp(hour * 3_600, UTC)
    within = datetime.fromtimestamp(hour * 3_600 + second, UTC)
    for moment in (start, within):
        assert parse_hour(moment.isoformat()) == hour
        assert parse_hour(moment.replace(tzinfo=None).isoformat()) == hour
    assert parse_hour(start.isoformat(), round_up=True) == hour
    assert parse_hour(within.isoformat(), round_up=True) == hour + 1


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("1970-01-01", 0),
        ("1970-01-02", 24),
        ("1970-01-01T05", 5),
        ("1970-01-01T05:59:59Z", 5),
        ("1970-01-01T05:00+05:00", 0),
        ("1970-01-01T01:30+01:00", 0),
        ("19700102", 19_700_102),  # digits alone are always a number
    ],
)
def test_the_forms_of_a_time(text: str, hour: int):
    assert parse_hour(text) == hour


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "neither") for text in ("", "noon", "-1", "1.0", "٣", "2026-13-01", "9" * 5_000)),
        ("1969-12-31", "is before 1970"),
        ("1970-01-01T00:30+01:00", "is before 1970"),
        (str(HOUR_MAX + 1), f"is above the last hour, {HOUR_MAX}"),
    ],
)
def test_what_is_no_hour_is_refused_with_its_reason(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        parse_hour(text)


def test_a_day_is_told_from_a_time_and_from_a_number():
    assert is_date("2026-11-23")
    assert not any(is_date(text) for text in ("2026-11-23T00", "20261123", "noon"))


@pytest.mark.parametrize("path", ["", "/", "/prefix", "/prefix/"])
def test_the_question_is_sent_encoded_below_the_urls_path(path: str):
    with canned_server(answer(b"[]")) as server:
        found = ask_flows(
            server.url + path, [("hour", "1"), ("src_app", "a b&c"), ("src_app", "ü")]
        )
        assert b"".join(found.content) == b"[]"
        assert server.targets == [path.rstrip("/") + "/flows?hour=1&src_app=a+b%26c&src_app=%C3%BC"]


def test_the_answer_comes_whole_and_says_whether_there_is_more():
    body = bytes(range(256)) * 4_096
    with canned_server(answer(body, "200 OK", 'Link: </flows?cursor=x>; rel="next"')) as server:
        found = ask_flows(server.url, [])
        assert found.cursor == "x"
        assert b"".join(found.content) == body
    with canned_server(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") as server:
        found = ask_flows(server.url, [])
        assert found.cursor is None
        assert b"".join(found.content) == b"abcde"


@pytest.mark.parametrize(
    ("link", "cursor"),
    [
        ('</flows?limit=1&cursor=a%2Fb>; rel="next"', "a/b"),
        ("<https://proxy.example/x?cursor=a>;rel=next", "a"),
        ('</help>; rel="help", </flows?cursor=a>; rel="next"', "a"),
        ('</flows?cursor=a>; rel="prev"', None),
        ('</flows>; rel="next"', None),
    ],
)
def test_the_cursor_is_that_of_the_next_link(link: str, cursor: str | None):
    with canned_server(answer(b"[]", "200 OK", f"Link: {link}")) as server:
        found = ask_flows(server.url, [])
        assert (found.cursor, b"".join(found.content)) == (cursor, b"[]")


def test_a_page_is_asked_for_when_the_one_before_was_taken():
    content = answer(b"[]", "200 OK", "Link: </flows?cursor=x>; rel=next")
    with canned_server(content) as server:
        for number, page in enumerate(ask_pages(server.url, [("hour", "1")], 30_000, "json"), 1):
            assert len(server.targets) == number
            b"".join(page.content)
        assert number == 3


@pytest.mark.parametrize(
    "content",
    [
        CHUNKED,
        CHUNKED + b"3\r\nab",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabc\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
    ],
)
def test_an_answer_that_is_cut_off_is_an_error(content: bytes):
    with canned_server(content) as server:
        found = ask_flows(server.url, [])
        with pytest.raises(ClientError, match="the answer was cut off: the connection was closed"):
            b"".join(found.content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            answer(b'{"title":"Unknown parameter","detail":"hours"}', "400 Bad Request"),
            "400 Unknown parameter: hours",
        ),
        (answer(b'{"title":"Full"}', "507 Insufficient Storage"), "507 Full"),
        (answer(b'{"detail":"x"}', "503 Service Unavailable"), "503 Service Unavailable: x"),
        (answer(b"<html>", "502 Bad Gateway"), "502 Bad Gateway"),
        (answer(b"\xff", "502 Bad Gateway"), "502 Bad Gateway"),
        (b"220 mail.example ESMTP\r\n", "220 mail.example"),
        (b"", "Remote end closed connection without response"),
    ],
)
def test_an_error_is_told_in_the_servers_words(content: bytes, reason: str):
    with canned_server(content) as server:
        with pytest.raises(ClientError, match=reason) as failure:
            ask_flows(server.url, [])
        assert str(failure.value).startswith(server.url + ": ")


def test_nobody_there_is_told_with_what_to_do():
    with canned_server(b"") as server:
        url = server.url
    with pytest.raises(ClientError, match=r"connection refused; is flowd running there\?"):
        ask_flows(url, [])


def test_a_name_that_nobody_knows_is_told_in_plain_words():
    with pytest.raises(ClientError, match=r": the host's name cannot be looked up: [A-Z][a-z ]+$"):
        ask_flows("http://no-such-host.invalid", [])


def test_a_host_that_does_not_answer_is_told_with_how_long_it_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "_TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClientError, match=r"no answer within 0\.05 seconds"):
            ask_flows(url, [])


def test_other_failures_are_told_in_the_systems_words(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ClientError, match=r"http://\[ff02::1\]:1: [A-Z][a-z ]+$"):
        ask_flows("http://[ff02::1]:1", [])


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://localhost", "http://", "http://h:port", "http://h:99999"]
)
def test_what_is_no_url_is_refused(url: str):
    with pytest.raises(ClientError):
        ask_flows(url, [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no TLS here, certainly\r\n", "does not speak TLS; is it http: instead of https:"),
        (answer(b"", "400 Bad Request"), "does not speak TLS; is it http: instead of https:"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "TLS failed: [a-z0-9 ]*handshake failure"),
    ],
)
def test_https_is_spoken_to_https(content: bytes, reason: str):
    with canned_server(content) as server, pytest.raises(ClientError, match=reason):
        ask_flows(server.url.replace("http:", "https:"), [])
