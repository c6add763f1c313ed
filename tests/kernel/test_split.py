import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.errors import BadFlows, Flaw, TooLarge
from flowd.kernel import BodyFormat, Kernel
from flowd.kernel.names import CACHED_NAMES_MAX
from flowd.kernel.split import Splitter
from tests.kernel.material import (
    Flow,
    Shard,
    flows_strategy,
    json_body,
    make_flow,
    ndjson_body,
    plain_sum,
    split,
    split_body,
)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(flows_strategy, max_size=4),
    shard_count=st.integers(1, 7),
    body_format=st.sampled_from(BodyFormat),
)
def test_split_then_apply_is_a_plain_sum_at_any_number_of_shards(
    kernel: Kernel, batches: list[list[Flow]], shard_count: int, body_format: BodyFormat
) -> None:
    shards = [Shard(kernel) for _ in range(shard_count)]
    new_rows = 0
    for lsn, flows in enumerate(batches, start=1):
        body = json_body(flows) if body_format is BodyFormat.JSON else ndjson_body(flows)
        parts = split_body(kernel, body, shard_count, body_format)
        assert parts.flows == len(flows) == sum(map(kernel.frame_flows, parts.frames.values()))
        assert list(parts.frames) == sorted(parts.frames)
        for number, frame in parts.frames.items():
            new_rows += shards[number].apply(frame, lsn)
    rows = [shard.rows() for shard in shards]
    expected = plain_sum(flow for flows in batches for flow in flows)
    assert {key: sums for part in rows for key, sums in part.items()} == expected
    assert sum(map(len, rows)) == len(expected) == new_rows


def test_the_seed_decides_where_a_flow_lives(kernel: Kernel) -> None:
    flows = [make_flow(src=f"app-{number}") for number in range(64)]
    one, same, other = (
        {
            shard: kernel.frame_flows(f)
            for shard, f in split(kernel, flows, 7, seed=s).frames.items()
        }
        for s in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_the_hours_of_a_day_stay_in_one_shard_and_days_are_spread(kernel: Kernel) -> None:
    def shards_of(hours: range) -> set[int]:
        return set(split(kernel, [make_flow(hour=hour) for hour in hours], 64).frames)

    assert len(shards_of(range(24 * 7, 24 * 8))) == 1
    assert len(shards_of(range(0, 24 * 100, 24))) > 20


def test_names_that_read_the_same_joined_are_different_rows(kernel: Kernel) -> None:
    shard = Shard(kernel)
    flows = [make_flow("ab", "c", tx=1), make_flow("a", "bc", tx=2), make_flow("a", "b", "cvpc-0")]
    shard.apply(split(kernel, flows).frames[0])
    assert shard.rows() == plain_sum(flows)
    assert len(shard.rows()) == 3


def test_an_empty_batch_has_no_frames(kernel: Kernel) -> None:
    assert split_body(kernel, b" [ ] ").frames == {}
    assert split_body(kernel, b"", body_format=BodyFormat.NDJSON).frames == {}


@pytest.mark.parametrize(
    "body",
    [
        ndjson_body([make_flow(tx=1), make_flow(tx=2)]),
        ndjson_body([make_flow(tx=1), make_flow(tx=2)], "\r\n"),
        ndjson_body([make_flow(tx=1), make_flow(tx=2)]).rstrip(b"\n"),
        ndjson_body([make_flow(tx=1), make_flow(tx=2)], "\n\n \t\r\n"),
        b"\n\n" + ndjson_body([make_flow(tx=1), make_flow(tx=2)], "  \r\n"),
    ],
    ids=["lines", "CRLF", "no newline at the end", "blank lines", "blank lines first"],
)
def test_ndjson_takes_both_newlines_and_blank_lines(kernel: Kernel, body: bytes) -> None:
    shard = Shard(kernel)
    shard.apply(split_body(kernel, body, body_format=BodyFormat.NDJSON).frames[0])
    assert list(shard.rows().values()) == [(3, 4)]


def test_unknown_members_are_ignored_and_of_doubled_ones_the_last_counts(kernel: Kernel) -> None:
    flow = json.dumps(make_flow("first", tx=1))[:-1]
    doubled = f'{flow}, "src_app": "last", "bytes_tx": 7, "tags": {{"x": [1, null, 1e9]}}}}'
    shard = Shard(kernel)
    shard.apply(split_body(kernel, f"[{doubled}]".encode()).frames[0])
    assert shard.rows() == plain_sum([make_flow("last", tx=7)])


def test_escapes_in_names_and_in_member_names_are_read(kernel: Kernel) -> None:
    body = json_body([make_flow("x\\y")]).replace(b'"bar"', rb'"\u00e9\"\ud83d\ude00"')
    body = body.replace(b'"vpc_id"', rb'"vpc\u005fid"')
    shard = Shard(kernel)
    shard.apply(split_body(kernel, body).frames[0])
    assert shard.rows() == plain_sum([make_flow("x\\y", 'é"😀')])


def test_minus_zero_is_zero(kernel: Kernel) -> None:
    body = json_body([make_flow(tx=11)]).replace(b"11,", b"-0,")
    shard = Shard(kernel)
    shard.apply(split_body(kernel, body).frames[0])
    assert list(shard.rows().values()) == [(0, 2)]


def test_skip_bad_stores_the_good_flows_and_reports_the_others(kernel: Kernel) -> None:
    good = [make_flow("good-1"), make_flow("good-2")]
    bad = [make_flow(hour=-1), make_flow("", tx=-1)]
    part = split(kernel, [good[0], bad[0], 5, good[1], bad[1]], skip_bad=True)
    assert (part.flows, part.skipped) == (2, 3)
    assert [flaw.pointer for flaw in part.flaws] == ["/1/hour", "/2", "/4/src_app", "/4/bytes_tx"]
    assert part.frames == split(kernel, good).frames


def test_skip_bad_still_refuses_a_malformed_body(kernel: Kernel) -> None:
    with pytest.raises(BadFlows, match="is not JSON"):
        split_body(kernel, json_body([make_flow()])[:-1], skip_bad=True)


def test_skip_bad_refuses_a_malformed_line(kernel: Kernel) -> None:
    body = ndjson_body([make_flow(), make_flow()])[:-3]
    with pytest.raises(BadFlows, match=r"^at /1: line 2 is not JSON"):
        split_body(kernel, body, body_format=BodyFormat.NDJSON, skip_bad=True)


@pytest.mark.parametrize("body_format", BodyFormat)
@pytest.mark.parametrize("last", [make_flow(), 5], ids=["valid", "invalid"])
def test_more_flows_than_the_limit_are_refused_by_its_name(
    kernel: Kernel, body_format: BodyFormat, last: object
) -> None:
    flows = [make_flow()] * 1_000
    encode = json_body if body_format is BodyFormat.JSON else ndjson_body
    assert split_body(kernel, encode(flows), body_format=body_format).flows == 1_000
    with pytest.raises(TooLarge, match=r"more than 1,000 flows in one batch \(limits.flows\)"):
        split_body(kernel, encode([*flows, last]), body_format=body_format)


def test_the_first_100_flaws_are_told_and_all_are_counted(kernel: Kernel) -> None:
    with pytest.raises(BadFlows, match=r"\(and 299 more\)") as caught:
        split(kernel, [make_flow(tx=-1, hour=-1)] * 150)
    assert caught.value.total == 300
    assert len(caught.value.flaws) == 100
    assert caught.value.flaws[99].pointer == "/49/hour"


def test_the_names_of_all_bodies_are_not_kept() -> None:
    splitter = Splitter()
    for start in range(0, 2 * CACHED_NAMES_MAX, 1_000):
        flows = [make_flow(src=f"app-{start + number}") for number in range(1_000)]
        part = splitter.split(
            json_body(flows),
            BodyFormat.JSON,
            shard_count=1,
            seed=1,
            flows_max=1_000,
            skip_bad=False,
        )
        assert part.flows == 1_000
        assert len(splitter._names) <= CACHED_NAMES_MAX


@settings(max_examples=25, deadline=None)
@given(flows=st.lists(st.integers(0, 5), min_size=1, max_size=20), seed=st.integers(0, 2**64 - 1))
def test_the_order_of_flows_does_not_move_them(kernel: Kernel, flows: list[int], seed: int) -> None:
    made = [make_flow(src=f"app-{number}", hour=number * 24) for number in flows]
    shuffled = random.Random(seed).sample(made, len(made))
    counts = [
        {s: kernel.frame_flows(f) for s, f in split(kernel, order, 5, seed=seed).frames.items()}
        for order in (made, shuffled)
    ]
    assert counts[0] == counts[1]


def test_a_flaw_is_a_pointer_and_a_reason(kernel: Kernel) -> None:
    with pytest.raises(BadFlows) as caught:
        split(kernel, [make_flow(), make_flow(tx=-5)])
    reason = "must be an integer from 0 to 9223372036854775807, not -5"
    assert caught.value.flaws == (Flaw("/1/bytes_tx", reason),)
