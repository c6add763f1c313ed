"""What request headers and query strings say, read strictly and without doing anything.

Pure: no sockets, no clock. Source: RFC 9110 sections 8.3, 8.4 and 12.5.1; RFC 9562 section 5.7
(UUIDv7); RFC 8941 section 3.3.3 (a quoted Idempotency-Key).
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from flowd.api.decoding import ContentCoding
from flowd.api.problems import MALFORMED_REQUEST, UNSUPPORTED_MEDIA, Problem
from flowd.errors import BadQuery
from flowd.kernel.interface import BodyFormat
from flowd.query import AnswerFormat

MEDIA_TYPES: Final = {
    AnswerFormat.JSON: "application/json",
    AnswerFormat.NDJSON: "application/x-ndjson",
    AnswerFormat.CSV: "text/csv",
}
"""What answers are called; the first is what a client gets that does not care."""

KEY_AHEAD_MS_MAX: Final = 5 * 60 * 1000
"""How far a key's time may be ahead of ours, for clocks that differ."""


class IdempotencyKey(NamedTuple):
    """A batch's name.

    value: the UUID's 16 bytes.
    time_ms: the time inside it, in milliseconds since 1970.
    """

    value: bytes
    time_ms: int


def body_format(content_type: str | None) -> BodyFormat:
    """Tell how a body holds its flows.

    Args:
        content_type: the header's value; None, a missing header, means JSON.

    Raises:
        Problem: 415, with what to send.
    """
    if content_type is None or content_type == "application/json":
        return BodyFormat.JSON
    media_type, *parameters = content_type.split(";")
    found = _BODY_FORMATS.get(media_type.strip().lower())
    if found is None:
        raise Problem(
            UNSUPPORTED_MEDIA,
            f"Content-Type {_shown(media_type)} is not taken; send application/json "
            "(curl: -H 'Content-Type: application/json') or application/x-ndjson",
            reason="media",
            headers=(("Accept", "application/json, application/x-ndjson"),),
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8"):
            raise Problem(
                UNSUPPORTED_MEDIA,
                f"charset {_shown(charset)} is not taken; send UTF-8",
                reason="media",
            )
    return found


def content_coding(content_encoding: str | None) -> ContentCoding:
    """Tell how a body is compressed.

    Args:
        content_encoding: the header's value; None, a missing header, means not at all.

    Raises:
        Problem: 415, with what is taken.
    """
    if content_encoding is None:
        return ContentCoding.IDENTITY
    found = _CODINGS.get(content_encoding.strip().lower())
    if found is None:
        raise Problem(
            UNSUPPORTED_MEDIA,
            f"Content-Encoding {_shown(content_encoding)} is not taken; send gzip, zstd or none",
            reason="media",
            headers=(("Accept-Encoding", "gzip, zstd"),),
        )
    return found


def idempotency_key(values: list[str], now_ms: int) -> IdempotencyKey:
    """Read the key that makes a batch's retries safe.

    Args:
        values: the values of all Idempotency-Key headers, one or more.
        now_ms: the wall clock, in milliseconds since 1970.

    Raises:
        Problem: 400; it is no UUIDv7, is doubled, or lies in the future.
    """
    match = _UUID7.fullmatch(values[0])
    if match is None or len(values) > 1:
        raise Problem(
            MALFORMED_REQUEST,
            "Idempotency-Key must be one UUIDv7, a new one for each batch: Python's uuid.uuid7() "
            "(3.14), `uuidgen --time-v7` or the line in README.md makes one",
            reason="key",
        )
    value = bytes.fromhex(match[2].replace("-", ""))
    time_ms = int.from_bytes(value[:6], "big")
    if time_ms > now_ms + KEY_AHEAD_MS_MAX:
        raise Problem(
            MALFORMED_REQUEST,
            f"Idempotency-Key was made {(time_ms - now_ms) // 1000} s in the future; "
            "set the clock of one of the two machines",
            reason="key",
        )
    return IdempotencyKey(value, time_ms)


def accepted_format(accept: str | None) -> AnswerFormat:
    """Choose how to render an answer; JSON for a client that takes nothing flowd has.

    Args:
        accept: the header's value, or None.
    """
    if accept is None or accept == "*/*":
        return AnswerFormat.JSON
    best, best_quality = AnswerFormat.JSON, 0.0
    for part in accept.split(","):
        media_range, _, parameters = part.strip().lower().partition(";")
        quality = _QUALITY.search(parameters)
        weight = float(quality[1]) if quality else 1.0
        for answer_format, media_type in MEDIA_TYPES.items():
            ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
            if media_range.strip() in ranges and weight > best_quality:
                best, best_quality = answer_format, weight
    return best


def query_parameters(query_string: str) -> list[tuple[str, str]]:
    """Split and percent-decode a query string.

    Args:
        query_string: what follows the question mark, as it came.

    Returns:
        Names and values in the order in which they came.

    Raises:
        BadQuery: an escape is none, or the bytes are not UTF-8.
    """
    parameters = []
    for part in query_string.split("&"):
        if part:
            name, _, value = part.partition("=")
            parameters.append((_percent_decoded(name, name), _percent_decoded(name, value)))
    return parameters


def _percent_decoded(name: str, text: str) -> str:
    shown = ascii(name[:_SHOWN_MAX])[1:-1]
    if _BAD_ESCAPE.search(text):
        raise BadQuery(shown, "a % that is not followed by two hexadecimal digits; write %25")
    raw = unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape"))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadQuery(shown, "not UTF-8 after percent-decoding") from None


def _shown(text: str) -> str:
    return ascii(text.strip()[:_SHOWN_MAX])


_BODY_FORMATS = {
    "application/json": BodyFormat.JSON,
    "application/x-ndjson": BodyFormat.NDJSON,
}
_CODINGS = {
    "": ContentCoding.IDENTITY,
    "identity": ContentCoding.IDENTITY,
    "gzip": ContentCoding.GZIP,
    "x-gzip": ContentCoding.GZIP,
    "zstd": ContentCoding.ZSTD,
}
_UUID7 = re.compile(
    r'("?)([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\1', re.IGNORECASE
)
_QUALITY = re.compile(r"(?:^|;)\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)")
_BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")
_SHOWN_MAX = 64
