"""Native against reference: frames of one are read by the other, and tables answer alike."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.errors import FrameError
from flowd.flow import RowKey
from flowd.kernel import Kernel, Table
from flowd.query import GROUP_ALL, AnswerFormat, Filters
from tests.kernel.material import (
    Flow,
    Shard,
    flow_strategy,
    flows_strategy,
    hour_strategy,
    json_body,
    make_frame,
    merge,
    name_strategy,
    split_body,
)


@settings(max_examples=200, deadline=None)
@given(
    flows=st.lists(flow_strategy, min_size=1, max_size=5),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2),
)
def test_damaged_frames_are_answered_alike(
    native: Kernel, reference: Kernel, flows: list[Flow], changes: list[tuple[int, int]]
) -> None:
    frame = bytearray(make_frame(reference, flows))
    for place, value in changes:
        frame[place % len(frame)] = value

    def read(kernel: Kernel) -> object:
        try:
            return [(hour, part.flows) for hour, part in kernel.buckets(bytes(frame))]
        except FrameError as error:
            return str(error).partition("not UTF-8")[0]

    assert read(native) == read(reference)


def tables_of(kernel: Kernel, batches: Sequence[list[Flow]], other: Kernel) -> Shard:
    """Apply batches that another kernel has split."""
    shard = Shard(kernel)
    for lsn, flows in enumerate(batches, start=1):
        for frame in split_body(other, json_body(flows)).frames.values():
            shard.apply(frame, lsn)
    return shard


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(flows_strategy, max_size=4),
    names=st.lists(name_strategy, max_size=2),
    group=st.sets(st.sampled_from(GROUP_ALL)).map(
        lambda members: tuple(member for member in GROUP_ALL if member in members)
    ),
    after=st.none() | st.builds(RowKey, hour_strategy, *[name_strategy] * 3),
    limit=st.integers(1, 10),
)
def test_what_one_has_split_the_other_sums_pages_and_dumps_alike(
    native: Kernel,
    reference: Kernel,
    batches: list[list[Flow]],
    names: list[str],
    group: tuple[str, ...],
    after: RowKey | None,
    limit: int,
) -> None:
    ours = tables_of(native, batches, reference)
    theirs = tables_of(reference, batches, native)
    assert (ours.names.count, ours.names.bytes) == (theirs.names.count, theirs.names.bytes)
    assert list(ours.tables) == list(theirs.tables)
    filters = Filters(src_app=tuple(names))
    for hour, table in ours.tables.items():
        other = theirs.tables[hour]
        assert described(table) == described(other)
        for wanted in (Filters(), filters):
            found = table.page(hour, wanted, group, after, limit)
            assert found == other.page(hour, wanted, group, after, limit)
        for kernel in (native, reference):
            loaded = kernel.new_table(kernel.new_names())
            for block in range(table.blocks):
                loaded.load(table.dump(block), 9)
            assert described(loaded)[:4] == described(table)[:4]


def described(table: Table) -> tuple[object, ...]:
    dumps = [table.dump(block) for block in range(table.blocks)]
    return table.rows, table.sums(), table.digest(), dumps, table.saturations


@settings(max_examples=60, deadline=None)
@given(
    sources=st.lists(st.lists(flow_strategy, max_size=8), min_size=1, max_size=3),
    answer_format=st.sampled_from(AnswerFormat),
    limit=st.none() | st.integers(1, 12),
    page_rows=st.integers(1, 4),
)
def test_answers_are_the_same(
    native: Kernel,
    reference: Kernel,
    sources: list[list[Flow]],
    answer_format: AnswerFormat,
    limit: int | None,
    page_rows: int,
) -> None:
    pages = []
    for flows in sources:
        shard = tables_of(reference, [flows], reference)
        found = []
        for hour, table in sorted(shard.tables.items()):
            after, last = None, False
            while not last:
                page, last = table.page(hour, Filters(), GROUP_ALL, after, page_rows)
                found.append(page)
                reader = reference.new_merger(1, AnswerFormat.JSON, GROUP_ALL, None)
                reader.feed(0, [page], False)
                after = reader.fed_to(0)
        pages.append(found)
    expected = merge(reference, pages, answer_format, limit)
    assert merge(native, pages, answer_format, limit) == expected
