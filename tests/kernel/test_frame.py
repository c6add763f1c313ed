import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.errors import FrameError
from flowd.flow import COUNTER_MAX
from flowd.kernel import Kernel
from flowd.kernel.frame import decode_frame, encode_frame
from flowd.query import GROUP_ALL, AnswerFormat
from tests.kernel.material import (
    Flow,
    Shard,
    flow_strategy,
    key_of,
    make_flow,
    make_frame,
    make_table,
    page_rows,
)

SAMPLE = [
    make_flow("é", "b" * 256, "vpc-0", 1, 2**16, 91),
    make_flow("b" * 256, "é", "vpc-0", 2**32, 0, 90),
    make_flow("c", "c", "c", 255, COUNTER_MAX, 91),
]


@settings(max_examples=50, deadline=None)
@given(flows=st.lists(flow_strategy, min_size=1, max_size=20))
def test_a_frame_holds_the_flows_by_hour_and_otherwise_in_their_order(
    kernel: Kernel, flows: list[Flow]
) -> None:
    frame = make_frame(kernel, flows)
    by_hour = sorted(flows, key=lambda flow: flow["hour"])  # stable
    assert page_rows(frame) == [(key_of(f), (f["bytes_tx"], f["bytes_rx"])) for f in by_hour]
    buckets = kernel.buckets(frame)
    assert [hour for hour, _ in buckets] == sorted({flow["hour"] for flow in flows})
    assert sum(part.flows for _, part in buckets) == kernel.frame_flows(frame) == len(flows)


@settings(max_examples=50, deadline=None)
@given(flows=st.lists(flow_strategy, min_size=1, max_size=20))
def test_frames_are_canonical(kernel: Kernel, flows: list[Flow]) -> None:
    """Names in order of first appearance in the body, the narrowest columns, nothing else."""
    frame = make_frame(kernel, flows)
    decoded = decode_frame(frame)
    walk = [flow[member] for flow in flows for member in ("src_app", "dest_app", "vpc_id")]
    assert [name.decode() for name in decoded.names] == list(dict.fromkeys(walk))
    columns = (decoded.src, decoded.dest, decoded.vpc, decoded.tx, decoded.rx)
    for width, column in zip(decoded.header.widths, columns, strict=True):
        assert width == next(w for w in (1, 2, 4, 8) if max(column) < 256**w)
    assert encode_frame(decoded.names, decoded.groups, columns[:3], *columns[3:]) == frame


def test_columns_widen_with_their_largest_value(kernel: Kernel) -> None:
    def widths(frame: bytes) -> tuple[int, ...]:
        return decode_frame(frame).header.widths

    names = [make_flow(src=f"app-{number}") for number in range(300)]
    # "bar" and "vpc-0" have the indexes 1 and 2, so that their columns stay narrow.
    assert widths(make_frame(kernel, names[:254])) == (1, 1, 1, 1, 1)
    assert widths(make_frame(kernel, names[:255])) == (2, 1, 1, 1, 1)
    assert widths(make_frame(kernel, [make_flow(tx=2**8, rx=2**16)])) == (1, 1, 1, 2, 4)
    assert widths(make_frame(kernel, [make_flow(tx=2**32, rx=COUNTER_MAX)])) == (1, 1, 1, 8, 8)
    assert widths(make_frame(kernel, [make_flow(tx=0, rx=0)])) == (1, 1, 1, 1, 1)


def test_a_dump_and_a_page_with_no_wide_values_are_narrow_too(kernel: Kernel) -> None:
    table = make_table(kernel, [make_flow(tx=1, rx=300), make_flow("x", tx=2, rx=2)])
    assert decode_frame(table.dump(0)).header.widths == (1, 1, 1, 1, 2)


def test_more_than_65536_names_take_four_bytes(kernel: Kernel) -> None:
    flows = [make_flow(src=f"app-{number}") for number in range(65_600)]
    frame = make_frame(kernel, flows)
    assert decode_frame(frame).header.widths == (4, 1, 1, 1, 1)
    assert page_rows(frame)[-1][0].src_app == "app-65599"


def test_every_truncation_is_refused(kernel: Kernel) -> None:
    frame = make_frame(kernel, SAMPLE)
    for size in range(len(frame)):
        with pytest.raises(FrameError):
            kernel.buckets(frame[:size])
        with pytest.raises(FrameError):
            kernel.frame_flows(frame[:size])
    with pytest.raises(FrameError):
        kernel.buckets(frame + b"\0")


def test_any_changed_byte_is_refused_or_gives_a_sound_frame(kernel: Kernel) -> None:
    frame = make_frame(kernel, SAMPLE)
    dice = random.Random(1)
    sound = refused = 0
    for place in range(len(frame)):
        for value in {0, 1, 0xFF, 0x80, frame[place] ^ 1, dice.randrange(256)} - {frame[place]}:
            changed = frame[:place] + bytes([value]) + frame[place + 1 :]
            try:
                kernel.buckets(changed)
            except FrameError:
                refused += 1
                continue
            sound += 1
            Shard(kernel).apply(changed)
            merger = kernel.new_merger(1, AnswerFormat.JSON, GROUP_ALL, None)
            merger.feed(0, [changed], True)
            assert merger.drain()
    assert sound
    assert refused


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200), tail=st.binary(max_size=60))
def test_junk_is_refused_or_sound(kernel: Kernel, junk: bytes, tail: bytes) -> None:
    for data in (junk, make_frame(kernel, SAMPLE)[:32] + tail):
        try:
            parts = kernel.buckets(data)
        except FrameError:
            continue
        assert sum(part.flows for _, part in parts) == kernel.frame_flows(data)


def patched(place: int, form: str, value: int) -> Callable[[bytes], bytes]:
    def patch(frame: bytes) -> bytes:
        changed = bytearray(frame)
        struct.pack_into(form, changed, place, value)
        return bytes(changed)

    return patch


def build(**changes: object) -> bytes:
    parts = {
        "names": [b"a", b"b", b"c"],
        "groups": [(7, 1), (8, 1)],
        "name_columns": ([0, 1], [1, 0], [2, 2]),
        "tx": [1, 2],
        "rx": [3, 2**40],
    } | changes
    return encode_frame(**parts)


FLAWS = [
    ("version 2", patched(0, "<B", 2)(build()), "frame version 2, this flowd reads 1"),
    ("flags", patched(1, "<B", 1)(build()), "reserved field"),
    ("a name width of 8", patched(2, "<B", 8)(build()), "column widths"),
    ("a name width of 3", patched(3, "<B", 3)(build()), "column widths"),
    ("no tx column", patched(5, "<B", 0)(build()), "column widths"),
    ("byte 7", patched(7, "<B", 1)(build()), "reserved field"),
    ("rows", patched(8, "<I", 3)(build()), "its header says"),
    ("reserved", patched(31, "<B", 1)(build()), "reserved field"),
    ("groups that do not add up", build(groups=[(7, 1), (8, 2)]), "do not add up"),
    ("an empty group", build(groups=[(7, 0), (8, 2)]), "do not add up"),
    ("hours that fall", build(groups=[(8, 1), (7, 1)]), "do not ascend"),
    ("an hour twice", build(groups=[(8, 1), (8, 1)]), "do not ascend"),
    ("name lengths", patched(48, "<B", 1)(build()), "bytes of names that end at 4"),
    ("no UTF-8", build(names=[b"a", b"\xff", b"c"]), "not UTF-8"),
    ("a cut character", build(names=[b"a", b"\xc3", b"\xa9"]), "cut inside of a character"),
    ("a control character", build(names=[b"a", b"\x1f", b"c"]), "control character"),
    ("a C1 character", build(names=[b"a", b"\xc2\x9f", b"c"]), "control character"),
    ("a name twice", build(names=[b"a", b"b", b"a"]), "a name twice"),
    ("an index too high", build(name_columns=([0, 1], [3, 0], [2, 2])), "name index 3 of 3"),
    ("a counter too high", build(rx=[3, COUNTER_MAX + 1]), "9223372036854775808 bytes in a row"),
]


@pytest.mark.parametrize(("frame", "reason"), [f[1:] for f in FLAWS], ids=[f[0] for f in FLAWS])
def test_each_field_is_checked(kernel: Kernel, frame: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        kernel.buckets(frame)
    with pytest.raises(FrameError, match=reason):
        kernel.new_table(kernel.new_names()).load(frame, 1)


def test_an_unprintable_character_that_is_no_control_character_is_fine(kernel: Kernel) -> None:
    assert kernel.buckets(build(names=[b"a", "\u200b\u2028".encode(), b"c"]))


def test_a_frame_without_a_name_column_is_no_batch(kernel: Kernel) -> None:
    frame = build(name_columns=([0, 1], None, [2, 2]))
    with pytest.raises(FrameError, match="not a batch"):
        kernel.buckets(frame)


def test_a_memoryview_is_as_good_as_bytes(kernel: Kernel) -> None:
    frame = make_frame(kernel, SAMPLE)
    view = memoryview(b"before" + frame + b"behind")[6:-6]
    assert kernel.frame_flows(view) == len(SAMPLE)
    shard = Shard(kernel)
    assert shard.apply(view) == len(SAMPLE)


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=5),
        min_size=3,
        max_size=3,
    )
)
def test_any_name_that_is_allowed_goes_through(kernel: Kernel, names: list[str]) -> None:
    flow = make_flow(*names)
    assert page_rows(make_frame(kernel, [flow])) == [(key_of(flow), (1, 2))]
