import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.errors import FrameError
from flowd.flow import COUNTER_MAX
from flowd.kernel import Kernel, Sums
from flowd.kernel.frame import encode_frame
from tests.kernel.material import (
    Flow,
    Shard,
    apply_flows,
    flow_strategy,
    flows_strategy,
    make_flow,
    make_frame,
    make_table,
    page_rows,
    plain_sum,
    split,
    table_rows,
)

BLOCK = 65_536


def one_hour(flows: list[Flow]) -> list[Flow]:
    return [flow | {"hour": 91} for flow in flows]


hour_flows = st.lists(flow_strategy, min_size=1, max_size=14).map(one_hour)


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(hour_flows, min_size=1, max_size=4))
def test_sums_are_the_sums_of_the_rows(kernel: Kernel, batches: list[list[Flow]]) -> None:
    table = kernel.new_table(kernel.new_names())
    for lsn, flows in enumerate(batches, start=1):
        apply_flows(kernel, table, flows, lsn)
    rows = plain_sum(flow for flows in batches for flow in flows)
    tx, rx = (min(sum(sums), COUNTER_MAX) for sums in zip(*rows.values(), strict=True))
    assert table.sums() == Sums(len(rows), tx, rx)
    assert dict(table_rows(table, 91)) == rows


@settings(max_examples=30, deadline=None)
@given(held=hour_flows, coming=hour_flows)
def test_count_new_says_what_apply_will_make_and_changes_nothing(
    kernel: Kernel, held: list[Flow], coming: list[Flow]
) -> None:
    names = kernel.new_names()
    table = kernel.new_table(names)
    ((_, first),) = kernel.buckets(make_frame(kernel, held))
    ((_, second),) = kernel.buckets(make_frame(kernel, coming))
    expected = table.count_new(first)
    assert (table.rows, names.count, names.bytes) == (0, 0, 0)
    assert table.apply(first, 1) == expected == len(plain_sum(held))
    interned = names.count, names.bytes
    expected = table.count_new(second)
    assert table.count_new(second) == expected  # asked again, it has not learned them
    assert (names.count, names.bytes) == interned
    assert table.apply(second, 2) == expected


def test_count_new_of_a_slice_follows_names_that_came_since(kernel: Kernel) -> None:
    names = kernel.new_names()
    table = kernel.new_table(names)
    ((_, part),) = kernel.buckets(make_frame(kernel, [make_flow("a"), make_flow("b")]))
    assert table.count_new(part) == 2
    ((_, other),) = kernel.buckets(make_frame(kernel, [make_flow("a")]))
    table.apply(other, 1)
    assert table.count_new(part) == 1


def test_names_are_held_once_for_all_tables_of_a_shard(kernel: Kernel) -> None:
    shard = Shard(kernel)
    shard.apply(make_frame(kernel, [make_flow("foo", "foo", "é", hour=hour) for hour in range(9)]))
    assert (shard.names.count, shard.names.bytes) == (2, 5)
    assert len(shard.tables) == 9


def test_row_sums_saturate_and_are_counted(kernel: Kernel) -> None:
    table = make_table(kernel, [make_flow(tx=COUNTER_MAX - 5, rx=0), make_flow("x", tx=0, rx=7)])
    assert table.saturations == 0
    assert apply_flows(kernel, table, [make_flow(tx=5, rx=1)], 2) == 0
    assert table.saturations == 0
    assert apply_flows(kernel, table, [make_flow(tx=6, rx=1), make_flow("y", tx=4, rx=0)], 3) == 1
    assert table.saturations == 1
    rows = {key.src_app: sums for key, sums in table_rows(table, 91)}
    assert rows == {"foo": (COUNTER_MAX, 2), "x": (0, 7), "y": (4, 0)}
    assert table.sums() == Sums(3, COUNTER_MAX, 9)


def test_a_sum_over_rows_saturates_without_a_row_doing_so(kernel: Kernel) -> None:
    table = make_table(kernel, [make_flow("a", rx=COUNTER_MAX), make_flow("b", rx=COUNTER_MAX)])
    apply_flows(kernel, table, [make_flow("b", tx=1, rx=0)], 2)
    assert table.sums() == Sums(2, 3, COUNTER_MAX)
    assert table.saturations == 0


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(hour_flows, min_size=1, max_size=3))
def test_a_dumped_table_is_loaded_as_it_was(kernel: Kernel, batches: list[list[Flow]]) -> None:
    table = kernel.new_table(kernel.new_names())
    for lsn, flows in enumerate(batches, start=1):
        apply_flows(kernel, table, flows, lsn)
    assert table.blocks == 1
    names = kernel.new_names()
    copy = kernel.new_table(names)
    copy.load(table.dump(0), len(batches))
    assert copy.dump(0) == table.dump(0)
    assert copy.sums() == table.sums()
    assert copy.digest() == table.digest()
    assert table_rows(copy, 91) == table_rows(table, 91)
    # Replay up to the block's LSN does nothing, the next record counts.
    for lsn, flows in enumerate(batches, start=1):
        assert apply_flows(kernel, copy, flows, lsn) == 0
    assert copy.dump(0) == table.dump(0)
    for either in (table, copy):
        apply_flows(kernel, either, batches[0], len(batches) + 1)
    assert copy.dump(0) == table.dump(0)
    assert copy.saturations <= table.saturations


def test_an_empty_table_has_no_blocks(kernel: Kernel) -> None:
    table = kernel.new_table(kernel.new_names())
    assert (table.rows, table.blocks, table.sums(), table.digest()) == (0, 0, Sums(0, 0, 0), 0)
    for block in (0, -1):
        with pytest.raises(IndexError):
            table.dump(block)


def test_replay_gives_each_row_what_its_block_has_not_seen(kernel: Kernel) -> None:
    """Two blocks dumped at different LSNs while records go on, as a checkpoint does it."""
    flows = [make_flow(f"app-{number}", tx=1, rx=1) for number in range(BLOCK + 10)]
    lots = (flows, flows[-20:] + flows[:10], [make_flow("new"), *flows[:5]], flows[:1])
    frames = [make_frame(kernel, lot) for lot in lots]
    slices = [kernel.buckets(frame)[0][1] for frame in frames]
    table = kernel.new_table(kernel.new_names())
    blocks = []
    table.apply(slices[0], 1)
    blocks.append((table.dump(0), 1))
    table.apply(slices[1], 2)
    blocks.append((table.dump(1), 2))
    table.apply(slices[2], 3)
    table.apply(slices[3], 4)
    assert table.blocks == 2

    recovered = kernel.new_table(kernel.new_names())
    for block, lsn in blocks:
        recovered.load(block, lsn)
    assert recovered.rows == BLOCK + 10
    new = [recovered.apply(part, lsn) for lsn, part in enumerate(slices, start=1)]
    assert new == [0, 0, 1, 0]
    assert recovered.digest() == table.digest()
    assert [recovered.dump(i) for i in (0, 1)] == [table.dump(i) for i in (0, 1)]


def test_rows_applied_between_two_loads_are_not_taken_for_loaded(kernel: Kernel) -> None:
    blocks = [make_table(kernel, [make_flow(name)]).dump(0) for name in ("a", "b")]
    table = kernel.new_table(kernel.new_names())
    table.load(blocks[0], 10)
    apply_flows(kernel, table, [make_flow("between")], 3)
    table.load(blocks[1], 20)
    again = [make_flow("a"), make_flow("between"), make_flow("b")]
    apply_flows(kernel, table, again, 15)
    rows = {key.src_app: sums for key, sums in table_rows(table, 91)}
    assert rows == {"a": (2, 4), "between": (2, 4), "b": (1, 2)}


def test_load_refuses_what_is_no_block_and_stays_as_it_was(kernel: Kernel) -> None:
    names = kernel.new_names()
    table = kernel.new_table(names)
    block = make_table(kernel, [make_flow("a"), make_flow("b")]).dump(0)
    table.load(block, 1)
    before = table.dump(0), table.sums(), names.count
    twice = encode_frame([b"x"], [(0, 2)], ([0, 0], [0, 0], [0, 0]), [1, 1], [1, 1])
    no_vpc = encode_frame([b"x"], [(0, 1)], ([0], [0], None), [1], [1])
    too_many = encode_frame(
        [b"%d" % number for number in range(BLOCK + 1)],
        [(0, BLOCK + 1)],
        [range(BLOCK + 1)] * 3,
        [1] * (BLOCK + 1),
        [1] * (BLOCK + 1),
    )
    batch = make_frame(kernel, [make_flow("c")])
    empty = encode_frame([], [], ([], [], []), [], [])
    for bad in (block, twice, no_vpc, too_many, batch, empty, block[:-1], b""):
        with pytest.raises(FrameError):
            table.load(bad, 2)
    assert (table.dump(0), table.sums(), names.count) == before


@settings(max_examples=25, deadline=None)
@given(flows=flows_strategy, shard_count=st.integers(1, 7), seed=st.integers(0, 2**32))
def test_the_digest_depends_on_rows_alone(
    kernel: Kernel, flows: list[Flow], shard_count: int, seed: int
) -> None:
    """Not on the order of flows, not on how they are batched, not on the number of shards."""

    def digest(order: list[Flow], batch: int, count: int) -> int:
        shards = [Shard(kernel) for _ in range(count)]
        for start in range(0, len(order), batch):
            part = split(kernel, order[start : start + batch], count, seed=seed)
            for number, frame in part.frames.items():
                shards[number].apply(frame)
        tables = [table for shard in shards for table in shard.tables.values()]
        return sum(table.digest() for table in tables) % 2**128

    shuffled = random.Random(seed).sample(flows, len(flows))
    assert digest(flows, 30, 1) == digest(shuffled, 7, shard_count)


def test_the_digest_follows_every_change(kernel: Kernel) -> None:
    table = make_table(kernel, [make_flow(tx=1, rx=2)])
    seen = [table.digest()]
    for change in (make_flow(tx=1, rx=0), make_flow(tx=0, rx=1), make_flow("x", tx=0, rx=0)):
        apply_flows(kernel, table, [change], 2)
        seen.append(table.digest())
    assert len(set(seen)) == 4
    assert table.digest() == seen[-1]
    swapped = make_table(kernel, [make_flow(tx=2, rx=1)])
    assert swapped.digest() != seen[0]


def test_a_block_is_65536_rows(kernel: Kernel) -> None:
    table = kernel.new_table(kernel.new_names())
    rows = range(BLOCK)
    block = encode_frame(
        [b"%d" % number for number in rows], [(0, BLOCK)], [rows] * 3, [1] * BLOCK, [1] * BLOCK
    )
    table.load(block, 1)
    assert table.blocks == 1
    apply_flows(kernel, table, [make_flow("one more")], 2)
    assert table.blocks == 2
    assert table.dump(0) == block
    assert [key.src_app for key, _ in page_rows(table.dump(1))] == ["one more"]


def test_slices_and_names_of_another_kernel_are_refused(kernel: Kernel) -> None:
    table = kernel.new_table(kernel.new_names())
    with pytest.raises(TypeError):
        table.apply(object(), 1)
    with pytest.raises(TypeError):
        table.count_new(object())
    with pytest.raises(TypeError):
        kernel.new_table(object())
