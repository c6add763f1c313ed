"""Asks a flowd over HTTP, as any other client would; `flowd query` is made of this.

An answer that was cut off is an error and never a shorter answer.
"""

import contextlib
import http.client
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from flowd.errors import FlowdError
from flowd.flow import HOUR_MAX

SECONDS_PER_HOUR: Final = 3_600

_TIMEOUT_SECONDS = 60.0
_CHUNK_BYTES = 64 * 1024
_PROBLEM_BYTES_MAX = 64 * 1024


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
    has_more: whether there are rows behind the limit.
    """

    content: Iterator[bytes]
    has_more: bool


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
        ValueError: it is neither, or no hour that a flow may have.
    """
    if text.isascii() and text.isdecimal():
        hour = int(text)
    else:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp()
        hour = int(-(-seconds // SECONDS_PER_HOUR) if round_up else seconds // SECONDS_PER_HOUR)
    if not 0 <= hour <= HOUR_MAX:
        raise ValueError(f"hour {hour} is not within 0 and {HOUR_MAX}")
    return hour


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
    has_more = 'rel="next"' in response.getheader("Link", "")
    return Answer(_read(url, connection, response), has_more)


def read_rows(url: str, answer: Answer) -> list[AnsweredRow]:
    """Read a whole answer in JSON.

    Raises:
        ClientError: it was cut off, or is no list of rows.
    """
    try:
        return msgspec.json.decode(b"".join(answer.content), type=list[AnsweredRow])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(f"{url}: not the answer of a flowd: {error}") from None


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
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed before its end"
    return str(error) or type(error).__name__
