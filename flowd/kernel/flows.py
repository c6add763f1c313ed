"""Flows as msgspec decodes them: the quick way through a body that has nothing wrong with it.

`decode_quickly` gives up where anything needs a closer look; `inspection` then takes the body flow
by flow and finds the words. What both must agree on: a flow that one accepts the other accepts,
with the same values.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flowd.errors import BadFlows, Flaw, TooLarge
from flowd.flow import COUNTER_MAX, HOUR_MAX
from flowd.kernel.interface import BodyFormat
from flowd.kernel.nesting import too_deep

Counter = Annotated[int, Meta(ge=0, le=COUNTER_MAX)]
Hour = Annotated[int, Meta(ge=0, le=HOUR_MAX)]


class Flow(msgspec.Struct, gc=False):
    """One flow; its names are not checked yet."""

    src_app: str
    dest_app: str
    vpc_id: str
    bytes_tx: Counter
    bytes_rx: Counter
    hour: Hour


NAME_MEMBERS: Final = ("src_app", "dest_app", "vpc_id")

FLOW: Final = msgspec.json.Decoder(Flow)
_FLOWS: Final = msgspec.json.Decoder(list[Flow])

_QUOTES: Final = 18  # of a flow with its six members and no other: six keys, three strings
_NAME_KEYS: Final = tuple(b'"%b"' % member.encode() for member in NAME_MEMBERS)


def check_utf8(body: bytes) -> None:
    """Refuse a body that is not UTF-8, in members too that nobody looks at.

    Raises:
        BadFlows: with the place of the first wrong byte.
    """
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{body[error.start]:02x} at offset {error.start:,} (line {line:,})"
        raise refuse("", f"the body is not UTF-8: {found}") from error


def refuse(pointer: str, reason: str) -> BadFlows:
    """Make the error for a body that is refused for one reason."""
    return BadFlows((Flaw(pointer, reason),), 1)


def check_count(flows: int, flows_max: int) -> None:
    """Refuse a batch of too many flows.

    Raises:
        TooLarge: with the setting to change.
    """
    if flows > flows_max:
        raise TooLarge(f"more than {flows_max:,} flows in one batch (limits.flows)")


def decode_quickly(body: bytes, body_format: BodyFormat, flows_max: int) -> list[Flow] | None:
    """Decode a body, names unchecked, or give None where it has to be looked at flow by flow.

    Args:
        body: UTF-8, see `check_utf8`.
        body_format: one array, or one object a line.
        flows_max: how many flows are allowed.

    Raises:
        TooLarge: too many flows.
    """
    try:
        as_array = body_format is BodyFormat.JSON
        flows = _FLOWS.decode(body) if as_array else FLOW.decode_lines(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    check_count(len(flows), flows_max)
    if not as_array and not _one_a_line(body, len(flows)):
        return None
    if body.count(b'"') == _QUOTES * len(flows):
        return flows  # six members each: nothing nested, nothing doubled
    outer = 1 if as_array else 0
    if too_deep(body, outer + len(flows), outer + 1):
        return None
    # msgspec checks each value of a doubled counter. Of a doubled name it keeps the last, and the
    # rule for names has not seen the others. (A key can be spelled with escapes like \u0073.)
    if b"\\u00" in body or any(body.count(key) != len(flows) for key in _NAME_KEYS):
        return None
    return flows


def _one_a_line(body: bytes, flows: int) -> bool:
    """Tell whether each object is a line and no line is blank; a no proves nothing."""
    ends = body.count(b"\n")
    between = ends - body.endswith(b"\n")
    if between != max(flows - 1, 0):
        return False
    # Between two objects there is a newline, or there is not: inside of one "}", newline, "{" is no
    # JSON.
    return body.count(b"}\n{") == between or body.count(b"}\r\n{") == between
