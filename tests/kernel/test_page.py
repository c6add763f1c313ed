from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.flow import COUNTER_MAX, RowKey
from flowd.kernel import Kernel, Table
from flowd.query import GROUP_ALL, Filters
from tests.kernel.material import (
    Flow,
    apply_flows,
    flow_strategy,
    make_flow,
    make_frame,
    make_table,
    page_rows,
    plain_sum,
    table_rows,
)

HOUR = 91
NONE = Filters()

hour_flows = st.lists(flow_strategy, min_size=1, max_size=14).map(
    lambda flows: [flow | {"hour": HOUR} for flow in flows]
)


def read_pages(
    table: Table, size: int, filters: Filters = NONE, group: tuple[str, ...] = GROUP_ALL
) -> list[tuple[RowKey, tuple[int, int]]]:
    rows: list[tuple[RowKey, tuple[int, int]]] = []
    after, last = None, False
    while not last:
        page, last = table.page(HOUR, filters, group, after, size)
        found = page_rows(page)
        assert len(found) <= size
        assert found or last
        rows += found
        after = found[-1][0] if found else None
    return rows


@settings(max_examples=40, deadline=None)
@given(flows=hour_flows, size=st.integers(1, 30))
def test_pages_give_every_row_once_in_key_order(
    kernel: Kernel, flows: list[Flow], size: int
) -> None:
    rows = read_pages(make_table(kernel, flows), size)
    assert rows == sorted(plain_sum(flows).items())


def test_strings_are_ordered_by_their_utf8_bytes(kernel: Kernel) -> None:
    names = ["Z", "a", "é", "\uffff", "\U00010000", "zz", "z"]
    rows = read_pages(make_table(kernel, [make_flow(vpc=name) for name in names]), 2)
    found = [key.vpc_id for key, _ in rows]
    assert found == sorted(names, key=str.encode)


def test_vpc_comes_before_source_and_destination(kernel: Kernel) -> None:
    flows = [
        make_flow(src, dest, vpc) for src in ("s2", "s1") for dest in "ba" for vpc in ("v2", "v1")
    ]
    keys = [key for key, _ in read_pages(make_table(kernel, flows), 3)]
    assert keys == sorted(keys, key=lambda key: (key.vpc_id, key.src_app, key.dest_app))


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(hour_flows, min_size=2, max_size=6), size=st.integers(1, 8))
def test_paging_skips_and_repeats_nothing_while_rows_are_added(
    kernel: Kernel, batches: list[list[Flow]], size: int
) -> None:
    table = make_table(kernel, batches[0])
    first = set(plain_sum(batches[0]))
    seen: list[RowKey] = []
    after, last = None, False
    coming = iter(batches[1:])
    while not last:
        page, last = table.page(HOUR, NONE, GROUP_ALL, after, size)
        seen += [key for key, _ in page_rows(page)]
        after = seen[-1]
        if flows := next(coming, None):
            apply_flows(kernel, table, flows, 2)
            last = False
    assert seen == sorted(set(seen))
    assert first <= set(seen)


def test_many_rows_stay_sorted_as_more_come_in_small_and_large_lots(kernel: Kernel) -> None:
    """Crosses all ways in which the sorted rows are kept up: insert, sort anew, merge down."""
    table = kernel.new_table(kernel.new_names())
    expected = set()
    start = 0
    for lsn, size in enumerate([700, 3, 1, 5_000, 40, 700, 2, 9_000, 5], start=1):
        flows = [
            make_flow(f"s{number * 7919 % 104_729}", vpc=f"v{number % 7}")
            for number in range(start, start + size)
        ]
        start += size
        apply_flows(kernel, table, flows, lsn)
        expected |= set(plain_sum(flows))
        assert [key for key, _ in read_pages(table, 3_000)] == sorted(expected)
        assert [key for key, _ in table_rows(table, HOUR)] == sorted(expected)


@settings(max_examples=30, deadline=None)
@given(
    flows=st.lists(
        st.builds(
            make_flow,
            src=st.sampled_from("abc"),
            dest=st.sampled_from("abc"),
            vpc=st.sampled_from("abc"),
        ),
        min_size=1,
        max_size=20,
    ),
    filters=st.builds(Filters, *[st.sets(st.sampled_from(["a", "b", "?"])).map(tuple)] * 3),
    size=st.integers(1, 9),
)
def test_filters_let_exactly_their_names_pass(
    kernel: Kernel, flows: list[Flow], filters: Filters, size: int
) -> None:
    expected = {
        key: sums
        for key, sums in plain_sum(flows).items()
        if all(
            not names or getattr(key, member) in names
            for member, names in filters._asdict().items()
        )
    }
    assert read_pages(make_table(kernel, flows), size, filters) == sorted(expected.items())


def test_a_filter_that_is_no_unicode_lets_nothing_pass(kernel: Kernel) -> None:
    table = make_table(kernel, [make_flow()])
    page, last = table.page(HOUR, Filters(src_app=("\udc80",)), GROUP_ALL, None, 5)
    assert (page_rows(page), last) == ([], True)


def test_a_page_starts_behind_a_key_that_no_row_has(kernel: Kernel) -> None:
    table = make_table(kernel, [make_flow(name) for name in "aceg"])
    page, last = table.page(HOUR, NONE, GROUP_ALL, RowKey(HOUR, "vpc-0", "d", ""), 1)
    assert [key.src_app for key, _ in page_rows(page)] == ["e"]
    assert not last


@pytest.mark.parametrize("group", [GROUP_ALL, ("src_app",)], ids=["rows", "groups"])
def test_the_page_with_the_last_row_says_so(kernel: Kernel, group: tuple[str, ...]) -> None:
    table = make_table(kernel, [make_flow(name) for name in "ab"])
    lasts = [table.page(HOUR, NONE, group, None, limit)[1] for limit in (1, 2, 3)]
    assert lasts == [False, True, True]


def test_a_key_of_another_hour_stands_before_or_behind_all_rows(kernel: Kernel) -> None:
    table = make_table(kernel, [make_flow("b"), make_flow("a")])
    all_rows = table_rows(table, HOUR)
    page, last = table.page(HOUR, NONE, GROUP_ALL, RowKey(HOUR - 1, "z", "z", "z"), 5)
    assert (page_rows(page), last) == (all_rows, True)
    page, last = table.page(HOUR, NONE, GROUP_ALL, RowKey(HOUR + 1, "", "", ""), 5)
    assert (page_rows(page), last) == ([], True)


def test_rows_are_labelled_with_the_hour_that_is_asked_for(kernel: Kernel) -> None:
    page, _ = make_table(kernel, [make_flow(hour=93)]).page(92, NONE, GROUP_ALL, None, 1)
    assert [key.hour for key, _ in page_rows(page)] == [92]


GROUPS = [
    tuple(member for place, member in enumerate(GROUP_ALL) if mask >> place & 1)
    for mask in range(16)
]


@pytest.mark.parametrize("group", GROUPS, ids="+".join)
@settings(max_examples=8, deadline=None)
@given(
    flows=st.lists(
        st.builds(
            make_flow,
            src=st.sampled_from("ab"),
            dest=st.sampled_from("ab"),
            vpc=st.sampled_from("ab"),
            tx=st.sampled_from([1, COUNTER_MAX]),
        ),
        min_size=1,
        max_size=20,
    ),
    size=st.integers(1, 3),
)
def test_any_group_of_members_is_summed(
    kernel: Kernel, group: tuple[str, ...], flows: list[Flow], size: int
) -> None:
    sums: defaultdict[RowKey, list[int]] = defaultdict(lambda: [0, 0])
    for key, (tx, rx) in plain_sum(flows).items():
        kept = {member: getattr(key, member) for member in group}
        total = sums[RowKey(**({"hour": 0, "vpc_id": "", "src_app": "", "dest_app": ""} | kept))]
        total[0] = min(total[0] + tx, COUNTER_MAX)
        total[1] = min(total[1] + rx, COUNTER_MAX)
    expected = sorted((key, tuple(total)) for key, total in sums.items())
    assert read_pages(make_table(kernel, flows), size, group=group) == expected


def test_a_page_of_an_empty_table_is_an_empty_frame(kernel: Kernel) -> None:
    page, last = kernel.new_table(kernel.new_names()).page(HOUR, NONE, GROUP_ALL, None, 5)
    assert last
    assert kernel.frame_flows(page) == 0
    assert kernel.buckets(page) == []


def test_a_page_is_the_same_bytes_whatever_else_the_shard_holds(kernel: Kernel) -> None:
    alone = make_table(kernel, [make_flow("b"), make_flow("a")])
    names = kernel.new_names()
    for flows in ([make_flow("zzz"), make_flow("a", "b")], [make_flow("a"), make_flow("b")]):
        crowded = kernel.new_table(names)
        ((_, part),) = kernel.buckets(make_frame(kernel, flows))
        crowded.apply(part, 1)
    pages = [table.page(HOUR, NONE, GROUP_ALL, None, 5) for table in (alone, crowded)]
    assert pages[0] == pages[1]
