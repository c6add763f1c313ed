import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.errors import BadFlows, TooLarge
from flowd.flow import COUNTER_MAX, HOUR_MAX
from flowd.kernel import BodyFormat, Kernel
from flowd.kernel.flows import decode_quickly
from flowd.kernel.inspection import inspect
from tests.kernel.material import Shard, flaws_of, json_body, make_flow, ndjson_body, split_body

FLOW = json.dumps(make_flow()).encode()
OPEN = FLOW[:-1]  # for another member

COUNTER = f"must be an integer from 0 to {COUNTER_MAX}"
HOUR = f"must be an integer from 0 to {HOUR_MAX}"
NAME = "must be a string of 1 to 256 bytes of UTF-8 without control characters"
DEEP = "must not be nested deeper than 512 levels"


def with_value(member: str, value: bytes) -> bytes:
    """Make a body whose second flow has an odd value."""
    flow = make_flow()
    del flow[member]
    rest = json.dumps(flow).encode()[:-1]
    return b'[%b,%b,"%b":%b}]' % (FLOW, rest, member.encode(), value)


def nested(levels: int) -> bytes:
    """Nest arrays in an unknown member."""
    return OPEN + b',"x":' + b"[" * levels + b"]" * levels + b"}"


WHOLE = [
    (b"", "the body is not JSON: ends in the middle of a value (byte 0 of the body)"),
    (b"nope", "the body is not JSON: invalid character (byte 1 of the body)"),
    (b"[" + FLOW, "the body is not JSON: ends in the middle of a value"),
    (b"[" + FLOW + b",]", "the body is not JSON: trailing comma in array"),
    (b"[" + FLOW + b"]]", "the body is not JSON: trailing characters"),
    (b"\xef\xbb\xbf[]", "the body is not JSON: invalid character (byte 0 of the body)"),
    (b"[NaN]", "the body is not JSON: invalid character (byte 1 of the body)"),
    (b"{}", "must be an array of flows, not an object"),
    (FLOW, "must be an array of flows, not an object"),
    (b"null", "must be an array of flows, not null"),
    (b" -1.5e3 ", "must be an array of flows, not -1.5e3"),
    (b'"flows"', 'must be an array of flows, not the string "flows"'),
    (b'["\xff"]', "the body is not UTF-8: byte 0xff at offset 2 (line 1)"),
    (b"[" + OPEN + b',"x":"\xc3"}]', "the body is not UTF-8: byte 0xc3 at offset"),
    (b"[" + OPEN + b',"x":"\xed\xa0\x80"}]', "the body is not UTF-8: byte 0xed at offset"),
    (b"[" + OPEN + rb',"x":"\ud800 and some more"}]', "the body is not JSON: "),
    (b"[" + OPEN + rb',"\udc00 and some more":1}]', "the body is not JSON: "),
    (with_value("src_app", rb'"\ud800 and some more"'), "the body is not JSON: "),
    (with_value("src_app", b'"\n"'), "the body is not JSON: invalid character"),
    (with_value("hour", b"091"), "the body is not JSON: invalid number"),
    (b"[" + nested(511) + b"]", DEEP),
    (b"[" + nested(900) + b"]", DEEP),
    (b"[" + nested(10**5) + b"]", DEEP),
    (b"[" * 513 + b"]" * 513, DEEP),
    (b"[" * 10**5 + b"]" * 10**5, DEEP),
    (b"[" * 10**5, DEEP),
    (b'[{"":' * 10**5, DEEP),
]


@pytest.mark.parametrize(("body", "reason"), WHOLE, ids=range(len(WHOLE)))
def test_a_body_that_cannot_be_read_is_refused_as_a_whole(
    kernel: Kernel, body: bytes, reason: str
) -> None:
    ((pointer, found),) = flaws_of(kernel, body)
    assert pointer == ""
    assert found.startswith(reason)


VALUES = [
    ("bytes_tx", b"-5", f"{COUNTER}, not -5"),
    ("bytes_tx", b"9223372036854775808", f"{COUNTER}, not 9223372036854775808"),
    ("bytes_tx", b"18446744073709551616", f"{COUNTER}, not 18446744073709551616"),
    ("bytes_rx", b"9" * 5_000, f"{COUNTER}, not {'9' * 40}…"),
    ("bytes_rx", b"1.0", f"{COUNTER}, not 1.0"),
    ("bytes_rx", b"1e3", f"{COUNTER}, not 1e3"),
    ("bytes_rx", b"1E400", f"{COUNTER}, not 1E400"),
    ("bytes_rx", b"-0.0", f"{COUNTER}, not -0.0"),
    ("bytes_rx", b"true", f"{COUNTER}, not true"),
    ("bytes_rx", b"null", f"{COUNTER}, not null"),
    ("bytes_rx", b'"1"', f'{COUNTER}, not the string "1"'),
    ("bytes_rx", b'"\\u001b[31m"', f'{COUNTER}, not the string "\\u001b[31m"'),
    ("bytes_rx", b"[ 1 ]", f"{COUNTER}, not an array"),
    ("bytes_rx", b'{"a": 1}', f"{COUNTER}, not an object"),
    ("hour", b"-1", f"{HOUR}, not -1"),
    ("hour", b"4294967296", f"{HOUR}, not 4294967296"),
    ("hour", b'"' + b"x" * 300 + b'"', f'{HOUR}, not the string "{"x" * 40}…"'),
    ("src_app", b'""', f"{NAME}, not empty"),
    ("src_app", b'"' + b"x" * 257 + b'"', f"{NAME}, not 257 bytes"),
    ("src_app", '"{}"'.format("é" * 129).encode(), f"{NAME}, not 258 bytes"),
    ("src_app", b"null", f"{NAME}, not null"),
    ("dest_app", b"5", f"{NAME}, not 5"),
    ("dest_app", b"[[]]", f"{NAME}, not an array"),
    ("dest_app", rb'"\u0000"', f"{NAME}, has U+0000 at character 1"),
    ("vpc_id", rb'"a\n"', f"{NAME}, has U+000A at character 2"),
    ("vpc_id", b'"\x7f"', f"{NAME}, has U+007F at character 1"),
    ("vpc_id", '"vpc\x9f"'.encode(), f"{NAME}, has U+009F at character 4"),
]


@pytest.mark.parametrize(("member", "value", "reason"), VALUES)
def test_a_value_out_of_range_is_told_by_pointer_and_reason(
    kernel: Kernel, member: str, value: bytes, reason: str
) -> None:
    assert flaws_of(kernel, with_value(member, value)) == ((f"/1/{member}", reason),)


def test_each_missing_member_is_a_flaw(kernel: Kernel) -> None:
    flaws = flaws_of(kernel, b'[{"hour": 91, "bytes_tx": 0, "bytes_rx": 0}]')
    missing = f"is missing, {NAME}"
    assert flaws == (
        ("/0/src_app", missing),
        ("/0/dest_app", missing),
        ("/0/vpc_id", missing),
    )


@pytest.mark.parametrize(
    ("flow", "found"),
    [(b"5", "5"), (b"[]", "an array"), (b"false", "false"), (b'"x"', 'the string "x"')],
)
def test_a_flow_that_is_no_object_is_a_flaw(kernel: Kernel, flow: bytes, found: str) -> None:
    body = b"[%b, %b]" % (FLOW, flow)
    assert flaws_of(kernel, body) == (("/1", f"must be an object, not {found}"),)


DOUBLED = [
    (b'"bytes_tx": -1', "bytes_tx", COUNTER),
    (b'"hour": "91"', "hour", HOUR),
    (b'"hour": null', "hour", HOUR),
    (b'"src_app": ""', "src_app", NAME),
    (b'"src_app": 5', "src_app", NAME),
    (b'"dest_app": "\\u0007"', "dest_app", NAME),
    (b'"vpc_id": "' + b"x" * 257 + b'"', "vpc_id", NAME),
    (rb'"vpc\u005Fid": ""', "vpc_id", NAME),
    (b'"vpc_id": {"a": []}', "vpc_id", NAME),
]


@pytest.mark.parametrize(("member", "name", "rule"), DOUBLED)
@pytest.mark.parametrize("body_format", BodyFormat)
def test_a_doubled_member_must_be_valid_each_time(
    kernel: Kernel, member: bytes, name: str, rule: str, body_format: BodyFormat
) -> None:
    flow = b"{" + member + b"," + FLOW[1:]
    body, suffix = b"[" + flow + b"]", ""
    if body_format is BodyFormat.NDJSON:
        body, suffix = flow, " (line 1)"
    flaws = flaws_of(kernel, body, body_format)
    assert flaws == ((f"/0/{name}", f"is there more than once, and each {rule}{suffix}"),)


LINES = [
    (b"[]", "/0", "must be an object, not an array (line 1)"),
    (FLOW + b"\n\n" + FLOW + b"\nnope\n", "/3", "line 4 is not JSON: invalid character (byte"),
    (FLOW + b"\n" + FLOW[:-1], "/1", "line 2 is not JSON: ends in the middle of a value"),
    (FLOW + b" " + FLOW, "/0", "line 1 is not JSON: trailing characters"),
    (FLOW + FLOW + b"\n" + FLOW, "/0", "line 1 is not JSON: trailing characters"),
    (FLOW + b"\r" + FLOW, "/0", "line 1 is not JSON: trailing characters"),
    (FLOW + b"," + b"\n" + FLOW, "/0", "line 1 is not JSON: trailing characters"),
    (FLOW.replace(b", ", b",\n", 1) + FLOW, "/0", "line 1 is not JSON: ends in the middle"),
    (FLOW + b"\n" + FLOW.replace(b"91", b"-91"), "/1/hour", f"{HOUR}, not -91 (line 2)"),
    (FLOW + b"\n\xff", "", "the body is not UTF-8: byte 0xff at offset"),
    (FLOW + b"\n" + nested(512), "/1", DEEP),
    (FLOW + b"\n\n" + nested(512), "/2", DEEP),
    (FLOW + b"\n\n" + nested(10**5), "/2", DEEP),
]


@pytest.mark.parametrize(("body", "pointer", "reason"), LINES, ids=range(len(LINES)))
def test_a_bad_line_is_told_by_its_number(
    kernel: Kernel, body: bytes, pointer: str, reason: str
) -> None:
    ((at, found),) = flaws_of(kernel, body, BodyFormat.NDJSON)
    assert at == pointer
    assert found.startswith(reason)


def test_nesting_of_512_levels_is_accepted(kernel: Kernel) -> None:
    assert split_body(kernel, b"[" + nested(510) + b"]").flows == 1
    body = FLOW + b"\n" + nested(511) + b"\n"
    assert split_body(kernel, body, body_format=BodyFormat.NDJSON).flows == 2


def test_brackets_in_strings_are_no_nesting(kernel: Kernel) -> None:
    tricky = OPEN + b',"x":"' + b"[{" * 1_000 + rb"\"[\\" + b'"}'
    assert split_body(kernel, b"[" + tricky + b"]").flows == 1


def test_a_huge_unknown_member_beside_a_flaw_costs_no_more_than_its_bytes(kernel: Kernel) -> None:
    body = b'[{"hour":-1,"x":[' + b"[]," * 200_000 + b"1]}]"
    assert len(flaws_of(kernel, body)) == 6


def test_an_array_of_many_scraps_is_counted_before_it_is_taken_apart(kernel: Kernel) -> None:
    with pytest.raises(TooLarge, match=r"limits\.flows"):
        split_body(kernel, b"[" + b"1," * 200_000 + b"1]")


odd_value = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)
odd_flow = st.one_of(
    odd_value,
    st.builds(
        lambda changes, drop: {
            member: value for member, value in (make_flow() | changes).items() if member not in drop
        },
        st.dictionaries(st.sampled_from([*make_flow(), "x", "y"]), odd_value, max_size=3),
        st.sets(st.sampled_from([*make_flow()]), max_size=1),
    ),
)


@settings(max_examples=150, deadline=None)
@given(flows=st.lists(odd_flow | st.builds(make_flow), max_size=4))
def test_the_close_look_accepts_what_the_quick_way_accepts(flows: list[object]) -> None:
    body = json_body(flows)
    found = inspect(body, BodyFormat.JSON, 1_000)
    quick = decode_quickly(body, BodyFormat.JSON, 1_000)
    assert len(found.flows) + found.skipped == len(flows)
    assert (found.total == 0) == (found.skipped == 0) == (found.flaws == ())
    if not found.skipped:
        assert quick is None or quick == found.flows
    if quick is None:
        # Nothing but a flaw or a doubtful name makes the quick way give up on one array.
        assert found.skipped or b"\\u00" in body


@settings(max_examples=150, deadline=None)
@given(
    flows=st.lists(st.builds(make_flow, src=st.sampled_from(["a", "é", '"'])), max_size=3),
    cuts=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2)), max_size=2),
    as_lines=st.booleans(),
)
def test_whatever_the_bytes_split_answers_or_refuses(
    kernel: Kernel, flows: list[object], cuts: list[tuple[int, bytes]], as_lines: bool
) -> None:
    body = ndjson_body(flows) if as_lines else json_body(flows)
    for place, scrap in cuts:
        body = body[:place] + scrap + body[place + len(scrap) :]
    body_format = BodyFormat.NDJSON if as_lines else BodyFormat.JSON
    try:
        part = split_body(kernel, body, 3, body_format)
    except BadFlows:
        return
    lines = [line for line in body.split(b"\n") if line.strip()]
    expected = [json.loads(line) for line in lines] if as_lines else json.loads(body)
    assert part.flows == len(expected)
    stored = Shard(kernel)
    for frame in part.frames.values():
        stored.apply(frame)
    assert len(stored.rows()) <= len(expected)
