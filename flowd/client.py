"""Asks a flowd over HTTP, as any other client would; `flowd query` is made of this.

An answer that was cut off is an error and never a shorter answer.
"""

import contextlib
import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from flowd.errors import FlowdError
from flowd.flow import HOUR_MAX
from flowd.query import LIMIT_MAX

SECONDS_PER_HOUR: Final = 3_600

_TIMEOUT_SECONDS = 60.0
_CHUNK_BYTES = 64 * 1024
_PROBLEM_BYTES_MAX = 64 * 1024
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next\b')
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


class ClientError(FlowdError):
    """flowd could not be asked, or refused to answer."""


class AnsweredRow(msgspec.Struct, frozen=True):
    """One row of an answer in JSON."""

    src_app: str
    dest_app: str
    vpc_id: str
    bytes_tx: int
    bytes_rx: int
    hour: int


class Answer(NamedTuple):
    """An answer that has begun.

    content: the body, as it comes; raises ClientError when it is cut off.
    cursor: where the rows behind the limit begin; None when there are none.
    """

    content: Iterator[bytes]
    cursor: str | None


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""


def parse_hour(text: str, *, round_up: bool = False) -> int:
    """Read an hour: a number as flows carry it, or an ISO 8601 time as hours since 1970.

    Args:
        text: `491900`, `2026-02-12`, `2026-02-12T20:00`, `2026-02-12T20:00+01:00`; UTC unless it
            says.
        round_up: take the next hour for a time within one, as the end of a range needs.

    Raises:
        ValueError: it is neither, or no hour that a flow may have; what is said follows `text`.
    """
    try:
        seconds: float = int(text) * SECONDS_PER_HOUR if _is_number(text) else _read_seconds(text)
    except ValueError:
        raise ValueError("is neither an hour's number nor an ISO 8601 time") from None
    hour = int(-(-seconds // SECONDS_PER_HOUR) if round_up else seconds // SECONDS_PER_HOUR)
    if hour < 0:
        raise ValueError("is before 1970, where hours begin")
    if hour > HOUR_MAX:
        raise ValueError(f"is above the last hour, {HOUR_MAX}")
    return hour


def is_date(text: str) -> bool:
    """Tell whether a text that `parse_hour` reads is a day without a time."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return not _is_number(text)


def ask_pages(
    url: str, parameters: Sequence[tuple[str, str]], limit: int | None, form: str
) -> Iterator[Answer]:
    """Ask GET /flows for more rows than one answer may have, page by page.

    Args:
        url: as for `ask_flows`.
        parameters: the query's, without limit and format.
        limit: how many rows at most; None for all, in one answer.
        form: the answer's format: `json`, `ndjson` or `csv`.

    Returns:
        The pages. Their contents, one behind the other, are one document of that format; read each
        to its end before taking the next. No more than one page of `LIMIT_MAX` rows is held.

    Raises:
        ClientError: as `ask_flows`.
    """
    cursor = None
    while True:
        page = list(parameters)
        if limit is not None:
            page.append(("limit", str(min(limit, LIMIT_MAX))))
        page.append(("format", form))
        if cursor is not None:
            page.append(("cursor", cursor))
        answer = ask_flows(url, page)
        is_last = limit is None or limit <= LIMIT_MAX or answer.cursor is None
        if cursor is None and is_last:
            yield answer
        else:
            content = _joint(url, answer, form, is_first=cursor is None, is_last=is_last)
            yield answer._replace(content=content)
        if limit is None or is_last:
            return
        limit -= LIMIT_MAX
        cursor = answer.cursor


def ask_flows(url: str, parameters: Sequence[tuple[str, str]]) -> Answer:
    """Ask GET /flows.

    Args:
        url: where flowd is: `http://127.0.0.1:8000`, with a path before `/flows` if need be.
        parameters: the query's, decoded.

    Raises:
        ClientError: nobody answers there, or the answer is an error.
    """
    place = urlsplit(url)
    target = f"{place.path.rstrip('/')}/flows?{urlencode(parameters)}"
    connection = _connect(url)
    with contextlib.ExitStack() as stack:
        stack.callback(connection.close)
        try:
            connection.request("GET", target, headers={"Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status != 200:
                problem = response.read(_PROBLEM_BYTES_MAX)
                raise ClientError(f"{url}: {response.status} {_describe(response, problem)}")
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"{url}: {_reason(error)}") from error
        stack.pop_all()  # from here on the reader closes it
    following = _NEXT.search(response.getheader("Link", ""))
    cursors = parse_qs(urlsplit(following[1]).query).get("cursor") if following else None
    return Answer(_read(url, connection, response), cursors[0] if cursors else None)


def decode_rows(url: str, content: bytes) -> list[AnsweredRow]:
    """Read a whole answer in JSON.

    Raises:
        ClientError: it is no list of rows.
    """
    try:
        return msgspec.json.decode(content, type=list[AnsweredRow])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(f"{url}: not the answer of a flowd: {error}") from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _read_seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _joint(url: str, page: Answer, form: str, *, is_first: bool, is_last: bool) -> Iterator[bytes]:
    """Give a page without what must stand only once in the whole."""
    body = b"".join(page.content)
    if form == "csv" and not is_first:
        yield body.partition(b"\n")[2]
    elif form == "json":
        array = body.strip()
        if array[:1] != b"[" or array[-1:] != b"]":
            raise ClientError(f"{url}: not the answer of a flowd")
        rows = array[1:-1].strip()
        if rows:
            yield (b"[\n" if is_first else b",\n") + rows
        if is_last:
            yield b"\n]\n"
    else:
        yield body


def _connect(url: str) -> http.client.HTTPConnection:
    place = urlsplit(url)
    try:
        port = place.port
    except ValueError as error:
        raise ClientError(f"{url}: {error}") from None
    if place.hostname and place.scheme == "http":
        return http.client.HTTPConnection(place.hostname, port, timeout=_TIMEOUT_SECONDS)
    if place.hostname and place.scheme == "https":
        return http.client.HTTPSConnection(place.hostname, port, timeout=_TIMEOUT_SECONDS)
    raise ClientError(f"{url}: not a URL like http://127.0.0.1:8000")


def _read(
    url: str, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK_BYTES):
            yield chunk
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException) as error:
        raise ClientError(f"{url}: the answer was cut off: {_reason(error)}") from error
    finally:
        connection.close()


def _describe(response: http.client.HTTPResponse, body: bytes) -> str:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return response.reason
    return ": ".join(part for part in (problem.title or response.reason, problem.detail) if part)


def _reason(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is flowd running there?"
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT_SECONDS:g} seconds"
    if isinstance(error, socket.gaierror):
        return f"the host's name cannot be looked up: {error.strerror}"
    if isinstance(error, ssl.SSLError):
        if error.reason in _NO_TLS:
            return "does not speak TLS; is it http: instead of https:?"
        return f"TLS failed: {str(error.reason).replace('_', ' ').lower()}"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed before its end"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
