"""Native against reference: the same bodies are accepted, and all bytes are the same."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.errors import BadFlows, TooLarge
from flowd.flow import COUNTER_MAX, HOUR_MAX
from flowd.kernel import BodyFormat, Kernel
from flowd.kernel.reference import ReferenceKernel
from tests.kernel.material import (
    Flow,
    counter_strategy,
    flow_strategy,
    flows_strategy,
    json_body,
    make_flow,
    name_strategy,
    ndjson_body,
    split_body,
)

FLOW = json.dumps(make_flow()).encode()


def outcome(
    kernel: Kernel,
    body: bytes,
    shard_count: int = 3,
    body_format: BodyFormat = BodyFormat.JSON,
    *,
    flows_max: int = 1_000,
    skip_bad: bool = False,
) -> object:
    """Give what split answers, or its error with all that the error tells."""
    try:
        return split_body(
            kernel, body, shard_count, body_format, flows_max=flows_max, skip_bad=skip_bad
        )
    except BadFlows as error:
        return str(error), error.flaws, error.total
    except TooLarge as error:
        return str(error)


def both_answer_alike(native: Kernel, reference: Kernel, body: bytes) -> bool:
    """Hold both against each other, whatever the body is; tell whether any format was accepted."""
    accepted = False
    for body_format in BodyFormat:
        for skip_bad in (False, True):
            found = outcome(native, body, 3, body_format, skip_bad=skip_bad)
            assert found == outcome(reference, body, 3, body_format, skip_bad=skip_bad), body
            accepted |= not isinstance(found, tuple | str)
    return accepted


# Texts of members as clients may write them. Odd ones are as likely as plain ones.
SPACES = ["", "", " ", "  ", "\n", "\t", "\r\n"]
NAMES = [
    '"foo"',
    '"app-17"',
    '"fifteen-bytes-o"',
    '"sixteen-bytes-on"',
    '"seventeen-bytes-o"',
    json.dumps("y" * 255),
    json.dumps("y" * 256),
    json.dumps("y" * 257),
    json.dumps("é" * 128, ensure_ascii=False),
    json.dumps("é" * 129, ensure_ascii=False),
    '"日本"',
    '"\\u65e5"',
    '"\\ud83d\\ude00"',
    '"😀"',
    '"quo\\"te"',
    '"sla\\/sh"',
    '"\\ud800"',
    '"\\ud800x"',
    '"\\udc00\\ud800"',
    '""',
    '"\\u0000"',
    '"foo\\u0000"',
    '"\\n"',
    '"\x7f"',
    '"fifteen-bytes-\x7f"',
    '"a name that is longer \x7f"',
    '"\x80"',
    '"\xa0"',
    '"x\x9fy"',
    '"a name that is longer \x9f"',
    '"\\q"',
    '"\\u12"',
    '"tab\there"',
    '"nul\x00here"',
    "null",
    "5",
    "[]",
]
NUMBERS = [
    "0",
    "1",
    "9",
    "10",
    "1234567",
    "12345678",
    "123456789",
    "1234567812345678",
    "12345678123456781",
    "00",
    "01",
    "012345678",
    "-0",
    "-1",
    "0.0",
    "-0.0",
    "1.0",
    "1e3",
    "1E+2",
    "1e",
    "1.",
    ".5",
    "+1",
    "0x1",
    "1_0",
    str(HOUR_MAX),
    str(HOUR_MAX + 1),
    str(COUNTER_MAX),
    str(COUNTER_MAX + 1),
    str(2**64 - 1),
    str(2**64),
    "99999999999999999999",
    "1" * 30,
    "1" + "0" * 400,
    "true",
    "null",
    '"1"',
    "NaN",
    "\uff11",
]
KEYS = ["src_app", "dest_app", "vpc_id", "bytes_tx", "bytes_rx", "hour"]


@st.composite
def flow_texts(draw: st.DrawFn) -> str:
    """Write a flow the way some client might: mostly well, in any order, with any space."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    flow = draw(flow_strategy)
    members = [(f'"{key}"', json.dumps(flow[key], ensure_ascii=False)) for key in KEYS]
    odd = dice.randrange(8)
    if odd == 0:
        members[dice.randrange(3)] = (members[0][0], dice.choice(NAMES))
    elif odd == 1:
        place = dice.randrange(3, 6)
        members[place] = (members[place][0], dice.choice(NUMBERS))
    elif odd == 2:
        members.append((dice.choice(['"x"', '""', '"src\\u005fapp"']), dice.choice(NAMES)))
    elif odd == 3:
        place = dice.randrange(6)
        members.insert(
            dice.randrange(7), (members[place][0], dice.choice([members[place][1], "0", '"a"']))
        )
    elif odd == 4:
        dice.shuffle(members)
    elif odd == 5:
        del members[dice.randrange(6)]
    space = dice.choice(SPACES)
    return (
        "{"
        + f"{dice.choice(SPACES)},{space}".join(
            f"{space}{key}{dice.choice(SPACES)}:{space}{value}" for key, value in members
        )
        + f"{space}}}"
    )


@settings(max_examples=300, deadline=None)
@given(
    flows=st.lists(flow_texts(), max_size=4),
    comma=st.sampled_from([",", ", ", " ,\n", "\n", "\r\n", "\n\n \n", " "]),
    ends=st.sampled_from([("[", "]"), (" [ ", " ] \n"), ("", ""), ("\n", "\n"), ("[", "]]")]),
)
def test_a_body_as_any_client_may_write_it(
    native: Kernel, reference: Kernel, flows: list[str], comma: str, ends: tuple[str, str]
) -> None:
    body = ends[0] + comma.join(flows) + ends[1]
    both_answer_alike(native, reference, body.encode())


@settings(max_examples=100, deadline=None)
@given(
    flows=flows_strategy,
    shard_count=st.integers(1, 64),
    body_format=st.sampled_from(BodyFormat),
    indent=st.sampled_from([None, 0, 2, 40]),
    ascii_only=st.booleans(),
)
def test_valid_bodies_give_the_same_bytes(
    native: Kernel,
    reference: Kernel,
    flows: list[Flow],
    shard_count: int,
    body_format: BodyFormat,
    indent: int | None,
    ascii_only: bool,
) -> None:
    if body_format is BodyFormat.JSON:
        body = json.dumps(flows, indent=indent, ensure_ascii=ascii_only).encode()
    else:
        body = ndjson_body(flows, "\r\n")
    expected = split_body(reference, body, shard_count, body_format)
    assert split_body(native, body, shard_count, body_format) == expected
    assert expected.flows == len(flows)


@settings(max_examples=200, deadline=None)
@given(
    flows=st.lists(st.builds(make_flow, src=name_strategy, tx=counter_strategy), max_size=3),
    cuts=st.lists(
        st.tuples(st.integers(0, 400), st.binary(max_size=2), st.integers(0, 9)), max_size=3
    ),
    as_lines=st.booleans(),
)
def test_damaged_bodies_are_answered_alike(
    native: Kernel,
    reference: Kernel,
    flows: list[Flow],
    cuts: list[tuple[int, bytes, int]],
    as_lines: bool,
) -> None:
    body = ndjson_body(flows) if as_lines else json_body(flows)
    for place, scrap, gone in cuts:
        body = body[:place] + scrap + body[place + gone :]
    both_answer_alike(native, reference, body)


@pytest.mark.parametrize("member", KEYS)
def test_every_odd_value_is_answered_alike_wherever_it_stands(
    native: Kernel, reference: Kernel, member: str
) -> None:
    """First, second or third flow: read token by token or like the flow before it."""
    accepted = 0
    for value in [*NAMES, *NUMBERS]:
        flow = {key: json.dumps(known) for key, known in make_flow().items()} | {member: value}
        odd = ("{" + ", ".join(f'"{key}": {text}' for key, text in flow.items()) + "}").encode()
        for place in range(3):
            flows = [FLOW] * 3
            flows[place] = odd
            accepted += both_answer_alike(native, reference, b"[" + b", ".join(flows) + b"]")
            accepted += both_answer_alike(native, reference, b"\n".join(flows))
    assert accepted


@pytest.mark.parametrize("missing", KEYS)
@pytest.mark.parametrize("doubled", KEYS)
def test_six_members_of_which_one_is_there_twice_are_answered_alike(
    native: Kernel, reference: Kernel, missing: str, doubled: str
) -> None:
    members = [(doubled if key == missing else key, value) for key, value in make_flow().items()]
    odd = "{" + ",".join(f'"{key}":{json.dumps(value)}' for key, value in members) + "}"
    for flows in ([odd.encode()], [FLOW, odd.encode()], [FLOW, FLOW, odd.encode()]):
        accepted = both_answer_alike(native, reference, b"[" + b", ".join(flows) + b"]")
        assert accepted  # when bad flows are skipped
        assert (
            outcome(native, b"[" + flows[-1] + b"]") == outcome(native, b"[" + FLOW + b"]")
        ) == (missing == doubled)


# What JSON is, and what it is not, as the value of a member that flowd does not know.
VALUES = [
    b"[]", b"[[]]", b"{}", b'{"":0}', b'{"a":[{}]}', b"[1,]", b"[,1]", b"[1 2]", b"[", b"]", b"}",
    b'{"a"}', b'{"a":}', b"{a:1}", b'{"a":1,}', b"{1:1}", b'{"a":1 "b":2}', b'{"a":1,"a":2}',
    b"[1]]", b"[}", b"{]", b"", b"tru", b"True", b"nul", b"nulll", b"nan", b"Infinity", b"-",
    b"--1", b"-01", b"-1", b"1e400", b"-1e400", b"1e-400", b"0e1", b"0e", b"1e+", b"1.2.3", b"0x1",
    b"1" * 30, b"-" + b"1" * 30, b"0." + b"1" * 30, b"1eE2", b"1.e1", b"2.", b"-.1", b"/* */1",
    b"1//", b"'a'", b'"', b'"a', b'"\\"', b'"\\\\"', b'"\\x41"', b'"\\u"', b'"\\u00"', b'"\\u00zz"',
    b'"\\u0000"', b'"\\uD83D\\uDE00"', b'"\\uD83D"', b'"\\uDE00"', b'"\\uD83D\\n"',
    b'"\\uD83D\\u0041"', b'"\\uD83D\\uD83D\\uDE00"', b'"\x00"', b'"\x1f"', b'"\n"', b'"\t"',
    b'"\x7f"', b'"\xc2\x80"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"',
    b'"\xe2\x80\xa8"', b"\xef\xbb\xbf1", b"\xc2\xa01", b"1\x0c", b"1\x00", b"\x0b1", b"[1\n,\t2\r]",
    b'{"\\u0061":1}', b'{"\\uD800":1}', b'{"\xff":1}', b'{"a\n":1}', b'["\\uD800"]', b"1,2",
    b"[" * 100 + b"]" * 100, b"[" * 130 + b"]" * 130, b"[" * 510 + b"]" * 510,
    b"[" * 511 + b"]" * 511, b'{"a":' * 510 + b"1" + b"}" * 510, b"[" * 600,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_any_value_of_an_unknown_member_is_answered_alike(
    native: Kernel, reference: Kernel, value: bytes
) -> None:
    for odd in (FLOW[:-1] + b',"x":' + value + b"}", b'{"x": ' + value + b" ," + FLOW[1:], value):
        both_answer_alike(native, reference, b"[" + FLOW + b", " + odd + b"]")
        both_answer_alike(native, reference, FLOW + b"\n" + odd + b"\n" + FLOW)
    both_answer_alike(native, reference, value)
    both_answer_alike(native, reference, b"\xef\xbb\xbf[" + FLOW + b"]")
    both_answer_alike(native, reference, b"[" + FLOW + b"] " + value)


def test_every_end_of_a_body_is_answered_alike(native: Kernel, reference: Kernel) -> None:
    for body in (json_body([make_flow()] * 3), ndjson_body([make_flow()] * 3)):
        for size in range(len(body)):
            both_answer_alike(native, reference, body[:size])


@pytest.mark.parametrize("flows_max", [2, 3])
@pytest.mark.parametrize("last", [FLOW, b"5", b"nope", b'{"x":1,' + FLOW[1:]])
def test_the_limit_of_flows_is_the_same(
    native: Kernel, reference: Kernel, flows_max: int, last: bytes
) -> None:
    for body_format, body in (
        (BodyFormat.JSON, b"[" + b",".join([FLOW, FLOW, last]) + b"]"),
        (BodyFormat.NDJSON, b"\n".join([FLOW, FLOW, last])),
    ):
        found = outcome(native, body, 3, body_format, flows_max=flows_max)
        assert found == outcome(reference, body, 3, body_format, flows_max=flows_max)


def test_many_names_hours_and_shards_give_the_same_bytes(native: Kernel, reference: Kernel) -> None:
    """More than either kernel keeps from body to body, and more hours than a table has room for."""
    dice = random.Random(5)
    for count, hours in ((20_000, 100), (3_000, HOUR_MAX), (3_000, 5_000), (20, 24)):
        flows = [
            make_flow(
                f"{'a long name of an application ' * dice.randrange(2)}{dice.randrange(count)}",
                f"app-{dice.randrange(count)}",
                f"vpc-{dice.randrange(50)}",
                dice.getrandbits(dice.randrange(63)),
                dice.getrandbits(dice.randrange(63)),
                dice.randrange(hours + 1),
            )
            for _ in range(count)
        ]
        body = json_body(flows)
        for shard_count in (1, 2, 7, 64):
            expected = split_body(reference, body, shard_count, flows_max=count)
            assert split_body(native, body, shard_count, flows_max=count) == expected


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    principal=st.binary(max_size=300),
    key=st.binary(max_size=300),
    body=st.binary(max_size=300),
)
def test_batch_ids_are_the_same(
    native: Kernel, reference: Kernel, seed: int, principal: bytes, key: bytes, body: bytes
) -> None:
    found = native.batch_id(seed, principal, key, body)
    assert found == reference.batch_id(seed, principal, key, body)


@pytest.mark.parametrize(
    "body",
    [
        json_body([make_flow(), make_flow("é", "x" * 256, tx=COUNTER_MAX)] * 2),
        json.dumps([make_flow("😀", 'quo"te')] * 3, indent=3).encode(),
        b"[" + FLOW[:-1] + b', "x": [{"y": null}, 1.5]}, ' + FLOW + b"]",
        b" [ ] ",
    ],
)
def test_valid_bodies_do_not_need_the_reference(
    native: Kernel, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReferenceKernel, "split", None)
    assert split_body(native, body).flows == len(json.loads(body))
    with pytest.raises(TypeError):
        split_body(native, body + b"x")
