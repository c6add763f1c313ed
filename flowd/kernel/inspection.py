"""A close look at a body, flow by flow: which flows are valid, and what is wrong with the others.

Runs only when the quick way gave up, and is the meaning of "valid": nothing here depends on how the
quick way fails. Never builds more than the flows allowed: an unknown member is skipped whatever is
in it.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from flowd.errors import BadFlows, Flaw
from flowd.flow import COUNTER_MAX, HOUR_MAX
from flowd.kernel.flows import (
    FLOW,
    NAME_MEMBERS,
    Counter,
    Flow,
    Hour,
    check_count,
    refuse,
)
from flowd.kernel.interface import BodyFormat
from flowd.kernel.names import NAME_RULE, name_flaw
from flowd.kernel.nesting import DEPTH_MAX, count_elements, too_deep

FLAWS_MAX: Final = 100
"""How many flaws are told; the others are counted."""

_ECHO_CHARACTERS: Final = 40


class _Name(str):
    """Stands for a name in decoders that call `_check_name`, for each value of a doubled member."""

    __slots__ = ()


def _check_name(_type: type, value: Any) -> _Name:
    flaw = name_flaw(value)
    if flaw is not None:
        raise ValueError(flaw)
    return _Name(value)


class _Names(msgspec.Struct, gc=False):
    src_app: _Name
    dest_app: _Name
    vpc_id: _Name


class _LastValues(msgspec.Struct, gc=False):
    """Each member's last value, as it stands in the body."""

    src_app: Raw | UnsetType = UNSET
    dest_app: Raw | UnsetType = UNSET
    vpc_id: Raw | UnsetType = UNSET
    bytes_tx: Raw | UnsetType = UNSET
    bytes_rx: Raw | UnsetType = UNSET
    hour: Raw | UnsetType = UNSET


class Inspected(NamedTuple):
    """A body taken apart.

    flows: the valid ones, in order. skipped: how many are not. flaws: the first 100 of `total`.
    """

    flows: list[Flow]
    skipped: int
    flaws: tuple[Flaw, ...]
    total: int


class _Element(NamedTuple):
    """What stands where a flow should be.

    pointer: where that is. suffix: what to put behind a reason. text: it, well-formed JSON.
    """

    pointer: str
    suffix: str
    text: Raw


_RULES: Final = {
    **dict.fromkeys(NAME_MEMBERS, NAME_RULE),
    "bytes_tx": f"an integer from 0 to {COUNTER_MAX}",
    "bytes_rx": f"an integer from 0 to {COUNTER_MAX}",
    "hour": f"an integer from 0 to {HOUR_MAX}",
}
_TYPES: Final[dict[str, tuple[Any, ...]]] = {
    # str first: it refuses an array or object without building it.
    **dict.fromkeys(NAME_MEMBERS, (str, _Name)),
    "bytes_tx": (Counter,),
    "bytes_rx": (Counter,),
    "hour": (Hour,),
}
_MEMBERS: Final = {
    member: [
        msgspec.json.Decoder(msgspec.defstruct("Member", [(member, kind)]), dec_hook=_check_name)
        for kind in kinds
    ]
    for member, kinds in _TYPES.items()
}
_NAMES: Final = msgspec.json.Decoder(_Names, dec_hook=_check_name)
_LAST_VALUES: Final = msgspec.json.Decoder(_LastValues)
_RAW: Final = msgspec.json.Decoder(Raw)
_RAWS: Final = msgspec.json.Decoder(list[Raw])
_STRING: Final = msgspec.json.Decoder(str)

_LINE: Final = re.compile(rb"[^ \t\r\n][^\n]*")
_MALFORMED: Final = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)")


def inspect(body: bytes, body_format: BodyFormat, flows_max: int) -> Inspected:
    """Take a body apart.

    Args:
        body: UTF-8, see `flows.check_utf8`.
        body_format: one array, or one object a line.
        flows_max: how many flows are allowed.

    Raises:
        BadFlows: the body is no well-formed JSON, no array, or nested too deeply.
        TooLarge: too many flows.
    """
    elements = _array if body_format is BodyFormat.JSON else _lines
    flows: list[Flow] = []
    flaws: list[Flaw] = []
    skipped = total = 0
    for element in elements(body, flows_max):
        flow = _decode_flow(element.text)
        if flow is not None:
            flows.append(flow)
            continue
        skipped += 1
        for member in _bad_members(element.text):
            total += 1
            if total <= FLAWS_MAX:
                flaws.append(_describe_flaw(element, member))
    return Inspected(flows, skipped, tuple(flaws), total)


def _array(body: bytes, flows_max: int) -> Iterator[_Element]:
    raw = _decode_raw(body, "", "the body", 0)
    if _first_byte(raw) != b"[":
        raise refuse("", f"must be an array of flows, not {_describe(raw)}")
    elements = count_elements(body)
    if elements is None:
        raise _refuse_depth("")
    check_count(elements, flows_max)
    for index, text in enumerate(_RAWS.decode(body)):
        yield _Element(f"/{index}", "", text)


def _lines(body: bytes, flows_max: int) -> Iterator[_Element]:
    line, counted_to = 1, 0
    for flows, match in enumerate(_LINE.finditer(body), start=1):
        line += body.count(b"\n", counted_to, match.start())
        counted_to = match.start()
        check_count(flows, flows_max)
        pointer = f"/{line - 1}"
        raw = _decode_raw(match.group(), pointer, f"line {line}", match.start())
        if too_deep(match.group(), 0, 0):
            raise _refuse_depth(pointer)
        yield _Element(pointer, f" (line {line})", raw)


def _refuse_depth(pointer: str) -> BadFlows:
    return refuse(pointer, f"must not be nested deeper than {DEPTH_MAX} levels")


def _decode_raw(text: bytes, pointer: str, what: str, offset: int) -> Raw:
    """Check that a text is one JSON value, `offset` bytes into the body."""
    try:
        return _RAW.decode(text)
    except RecursionError as error:
        raise _refuse_depth(pointer) from error
    except msgspec.DecodeError as error:
        match = _MALFORMED.fullmatch(str(error))
        # The other thing that msgspec says is that the input is too short.
        found, at = match.groups() if match else ("ends in the middle of a value", len(text))
        reason = f"{what} is not JSON: {found} (byte {offset + int(at)} of the body)"
        raise refuse(pointer, reason) from error


def _decode_flow(text: Raw) -> Flow | None:
    try:
        flow = FLOW.decode(text)
        _NAMES.decode(text)
    except msgspec.ValidationError:
        return None
    return flow


def _bad_members(text: Raw) -> list[str]:
    """Name the members at fault; "" is the flow itself, when it is no object."""
    if _first_byte(text) != b"{":
        return [""]
    return [member for member in _MEMBERS if not _accepts(member, text)]


def _accepts(member: str, text: Raw | bytes) -> bool:
    try:
        for decoder in _MEMBERS[member]:
            decoder.decode(text)
    except msgspec.ValidationError:
        return False
    return True


def _describe_flaw(element: _Element, member: str) -> Flaw:
    if not member:
        reason = f"must be an object, not {_describe(element.text)}"
        return Flaw(element.pointer, reason + element.suffix)
    rule = _RULES[member]
    value: Raw | UnsetType = getattr(_LAST_VALUES.decode(element.text), member)
    if value is UNSET:
        reason = f"is missing, must be {rule}"
    elif _accepts(member, b'{"%b":%b}' % (member.encode(), bytes(value))):
        reason = f"is there more than once, and each must be {rule}"
    else:
        reason = f"must be {rule}, {_describe_value(member, value)}"
    return Flaw(f"{element.pointer}/{member}", reason + element.suffix)


def _describe_value(member: str, value: Raw) -> str:
    if member in NAME_MEMBERS and _first_byte(value) == b'"':
        return str(name_flaw(_STRING.decode(value)))
    return f"not {_describe(value)}"


def _describe(value: Raw) -> str:
    """Say what a JSON value is; of a string or number no more than 40 characters."""
    first = _first_byte(value)
    if first == b"{":
        return "an object"
    if first == b"[":
        return "an array"
    text = _STRING.decode(value) if first == b'"' else bytes(value).decode()
    shown = "".join(
        character if character.isprintable() else f"\\u{ord(character):04x}"
        for character in text[:_ECHO_CHARACTERS]
    )
    if len(text) > _ECHO_CHARACTERS:
        shown += "…"
    return f'the string "{shown}"' if first == b'"' else shown


def _first_byte(value: Raw) -> bytes:
    return bytes(memoryview(value)[:1])
