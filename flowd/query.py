"""What a GET asks for: one frozen value, parsed and checked in one place.

The router hands a Query to every shard and to the merge unchanged, so that all of them mean the
same rows. Knows nothing of HTTP; `parse_query` takes the decoded parameters in the order in which
they came.
"""

import base64
import re
import struct
import zlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from flowd.errors import BadQuery
from flowd.flow import HOUR_MAX, NAME_BYTES_MAX, RowKey

GROUP_ALL: Final = ("hour", "vpc_id", "src_app", "dest_app")
"""What rows are told apart by, in the order in which answers are sorted."""

LIMIT_MAX: Final = 10_000
"""The largest `limit`: such an answer is made whole before it is sent."""


class AnswerFormat(StrEnum):
    """How an answer is rendered."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


class Filters(NamedTuple):
    """Names to let pass; an empty tuple lets every name pass."""

    src_app: tuple[str, ...] = ()
    dest_app: tuple[str, ...] = ()
    vpc_id: tuple[str, ...] = ()


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question.

    Attributes:
        hour_from: the first hour asked for.
        hour_to: the first hour no longer asked for, above `hour_from`, at most 2**32.
        filters: which names.
        width: the width in hours of the buckets to answer in.
        group: the members rows are told apart by, a subset of GROUP_ALL in that order.
        after: only rows behind this key.
        limit: at most this many rows; None for all.
        partial: answer with what the living shards have.
        answer_format: how to render it.
    """

    hour_from: int
    hour_to: int
    filters: Filters = Filters()
    width: int = 1
    group: tuple[str, ...] = GROUP_ALL
    after: RowKey | None = None
    limit: int | None = None
    partial: bool = False
    answer_format: AnswerFormat = AnswerFormat.JSON


class BucketsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A question about the buckets held.

    Attributes:
        digest: whether to compute each bucket's digest.
        partial: answer with what the living shards have.
    """

    digest: bool = False
    partial: bool = False


def parse_query(
    parameters: Sequence[tuple[str, str]], answer_format: AnswerFormat = AnswerFormat.JSON
) -> Query:
    """Make a Query of the parameters of a GET.

    Args:
        parameters: names and values, percent-decoded, in the order in which they came.
        answer_format: how to render the answer when no `format` says it.

    Raises:
        BadQuery: a parameter is unknown, missing, doubled or out of range.
    """
    values = collect_parameters(parameters, single=_SINGLE, repeatable=_FILTERS)
    hour_from, hour_to = _parse_hours(values)
    limit = _parse_limit(values)
    return Query(
        hour_from=hour_from,
        hour_to=hour_to,
        filters=Filters(*(_parse_names(member, values) for member in _FILTERS)),
        after=_parse_cursor(values, hour_from, hour_to),
        limit=limit,
        partial=_parse_switch(values, "partial"),
        answer_format=_parse_format(values, answer_format),
    )


def parse_buckets_query(parameters: Sequence[tuple[str, str]]) -> BucketsQuery:
    """Make a BucketsQuery of the parameters of a GET.

    Args:
        parameters: as for `parse_query`.

    Raises:
        BadQuery: a parameter is unknown, doubled or out of range.
    """
    values = collect_parameters(parameters, single=("digest", "partial"))
    return BucketsQuery(
        digest=_parse_switch(values, "digest"), partial=_parse_switch(values, "partial")
    )


def collect_parameters(
    parameters: Sequence[tuple[str, str]], *, single: Sequence[str], repeatable: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Sort parameters by name.

    Args:
        parameters: names and values in the order in which they came.
        single: the names that may come once.
        repeatable: the names that may come any number of times.

    Raises:
        BadQuery: a name is neither, or a single one came twice.
    """
    values: dict[str, list[str]] = {}
    for name, value in parameters:
        if name in repeatable:
            values.setdefault(name, []).append(value)
        elif name not in single:
            known = ", ".join((*single, *repeatable))
            raise BadQuery(name[:_NAME_SHOWN], f"unknown parameter; known here: {known or 'none'}")
        elif name in values:
            raise BadQuery(name, "given more than once")
        else:
            values[name] = [value]
    return values


def encode_cursor(key: RowKey) -> str:
    """Write the key of an answer's last row as a cursor: what follows it comes next.

    Returns:
        Base64url without padding: u8 version, u32 hour, then u16 length and UTF-8 of vpc_id,
        src_app and dest_app, then the CRC-32 of all that, little-endian. Opaque to clients.
    """
    names = [name.encode() for name in key[1:]]
    plain = _CURSOR_HEAD.pack(_CURSOR_VERSION, key.hour)
    plain += b"".join(_CURSOR_LENGTH.pack(len(name)) + name for name in names)
    checksum = zlib.crc32(plain).to_bytes(4, "little")
    return base64.urlsafe_b64encode(plain + checksum).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> RowKey:
    """Read a cursor back.

    Raises:
        BadQuery: it is none that `encode_cursor` wrote.
    """
    try:
        padding = "=" * (-len(cursor) % 4)
        raw = base64.b64decode((cursor + padding).encode("ascii"), altchars=b"-_", validate=True)
        plain, checksum = raw[:-4], raw[-4:]
        if zlib.crc32(plain).to_bytes(4, "little") != checksum:
            raise ValueError("checksum")
        version, hour = _CURSOR_HEAD.unpack_from(plain)
        if version != _CURSOR_VERSION:
            raise ValueError("version")
        names, offset = [], _CURSOR_HEAD.size
        for _ in RowKey._fields[1:]:
            (length,) = _CURSOR_LENGTH.unpack_from(plain, offset)
            offset += _CURSOR_LENGTH.size
            names.append(plain[offset : offset + length].decode())
            offset += length
        if offset != len(plain):
            raise ValueError("length")
    except (ValueError, struct.error):
        raise BadQuery("cursor", "not a cursor of an earlier answer's Link header") from None
    return RowKey(hour, *names)


def _parse_hours(values: dict[str, list[str]]) -> tuple[int, int]:
    if "hour" in values:
        for name in ("from", "to"):
            if name in values:
                raise BadQuery(name, "given together with hour; give hour, or from and to")
        hour = _parse_number("hour", values["hour"][0], 0, HOUR_MAX)
        return hour, hour + 1
    if "from" not in values and "to" not in values:
        raise BadQuery("hour", "missing; give hour=91, or from=91&to=115 for 91 ≤ hour < 115")
    for name in ("from", "to"):
        if name not in values:
            raise BadQuery(name, "missing; a range has both from and to")
    hour_from = _parse_number("from", values["from"][0], 0, HOUR_MAX)
    hour_to = _parse_number("to", values["to"][0], 1, HOUR_MAX + 1)
    if hour_from >= hour_to:
        raise BadQuery("to", f"{hour_to} is not above from={hour_from}")
    return hour_from, hour_to


def _parse_limit(values: dict[str, list[str]]) -> int | None:
    if "limit" in values:
        return _parse_number("limit", values["limit"][0], 1, LIMIT_MAX)
    if "cursor" in values:
        raise BadQuery("limit", "missing; a cursor goes with a limit")
    return None


def _parse_cursor(values: dict[str, list[str]], hour_from: int, hour_to: int) -> RowKey | None:
    if "cursor" not in values:
        return None
    key = decode_cursor(values["cursor"][0])
    if not hour_from <= key.hour < hour_to:
        raise BadQuery("cursor", f"of an answer for other hours: it stands at hour {key.hour}")
    return key


def _parse_number(name: str, text: str, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX:
        number = int(text)
        if least <= number <= most:
            return number
    raise BadQuery(name, f"must be a decimal integer from {least} to {most}")


def _parse_switch(values: dict[str, list[str]], name: str) -> bool:
    text = values.get(name, ["0"])[0]
    if text not in ("0", "1"):
        raise BadQuery(name, "must be 0 or 1")
    return text == "1"


def _parse_format(values: dict[str, list[str]], otherwise: AnswerFormat) -> AnswerFormat:
    if "format" not in values:
        return otherwise
    try:
        return AnswerFormat(values["format"][0])
    except ValueError:
        raise BadQuery("format", f"must be one of {', '.join(AnswerFormat)}") from None


def _parse_names(member: str, values: dict[str, list[str]]) -> tuple[str, ...]:
    # A name twice is the same question as once, and costs the shards less.
    return tuple(dict.fromkeys(_parse_name(member, text) for text in values.get(member, ())))


def _parse_name(member: str, pattern: str) -> str:
    name = _ESCAPE.sub(lambda match: _unescape(member, match[0]), pattern)
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise BadQuery(member, "holds a lone surrogate; names are UTF-8") from None
    if not 1 <= length <= NAME_BYTES_MAX:
        raise BadQuery(member, f"has {length} bytes; a name has 1 to {NAME_BYTES_MAX}")
    if _CONTROL.search(name):
        raise BadQuery(member, "holds a control character; no name does")
    return name


def _unescape(member: str, found: str) -> str:
    if found == "*":
        raise BadQuery(member, r"a bare * is reserved; write \* for a star in a name")
    if found in ("\\*", "\\\\"):
        return found[1]
    raise BadQuery(member, r"a backslash stands before * or another backslash only")


_FILTERS = Filters._fields
_SINGLE = ("hour", "from", "to", "limit", "cursor", "partial", "format")
_ESCAPE = re.compile(r"\\.?|\*", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DIGITS_MAX = 10  # of 2**32
_NAME_SHOWN = 64
_CURSOR_VERSION = 1
_CURSOR_HEAD = struct.Struct("<BI")
_CURSOR_LENGTH = struct.Struct("<H")
