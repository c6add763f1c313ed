import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.errors import FrameError
from flowd.flow import COUNTER_MAX, RowKey
from flowd.kernel import Kernel
from flowd.kernel.rendering import CACHED_NAMES_MAX, Renderer
from flowd.query import GROUP_ALL, AnswerFormat, Filters
from tests.kernel.material import (
    Flow,
    Shard,
    answer_rows,
    flows_strategy,
    make_flow,
    make_frame,
    make_table,
    merge,
    page_rows,
    plain_sum,
)

NONE = Filters()


def pages_of(kernel: Kernel, flows: list[Flow], size: int = 7) -> list[bytes]:
    """Give all rows of some flows as pages in key order, a few rows each."""
    shard = Shard(kernel)
    if flows:
        shard.apply(make_frame(kernel, flows))
    pages = []
    for hour in sorted(shard.tables):
        after, last = None, False
        while not last:
            page, last = shard.tables[hour].page(hour, NONE, GROUP_ALL, after, size)
            pages.append(page)
            after = page_rows(page)[-1][0]
    return pages


@settings(max_examples=40, deadline=None)
@given(
    sources=st.lists(flows_strategy, min_size=1, max_size=5), size=st.integers(1, 9), data=st.data()
)
def test_merging_sums_equal_keys_in_key_order_whatever_the_order_of_sources(
    kernel: Kernel, sources: list[list[Flow]], size: int, data: st.DataObject
) -> None:
    pages = [pages_of(kernel, flows, size) for flows in sources]
    answer = merge(kernel, pages)
    expected = plain_sum(flow for flows in sources for flow in flows)
    assert answer_rows(answer) == expected
    assert list(answer_rows(answer)) == sorted(expected)
    assert merge(kernel, data.draw(st.permutations(pages))) == answer


@settings(max_examples=25, deadline=None)
@given(sources=st.lists(flows_strategy, min_size=3, max_size=3))
def test_merging_is_associative(kernel: Kernel, sources: list[list[Flow]]) -> None:
    def merged(*parts: list[Flow]) -> list[Flow]:
        return json.loads(merge(kernel, [pages_of(kernel, part) for part in parts]))

    one, two, three = sources
    assert merged(merged(one, two), three) == merged(one, merged(two, three))


@settings(max_examples=30, deadline=None)
@given(
    sources=st.lists(flows_strategy, min_size=1, max_size=4),
    limit=st.integers(1, 40),
    size=st.integers(1, 9),
)
def test_a_limit_gives_the_first_rows_and_tells_whether_there_are_more(
    kernel: Kernel, sources: list[list[Flow]], limit: int, size: int
) -> None:
    expected = sorted(plain_sum(flow for flows in sources for flow in flows).items())
    merger = kernel.new_merger(len(sources), AnswerFormat.JSON, GROUP_ALL, limit)
    waiting = [pages_of(kernel, flows, size) for flows in sources]
    answer = b""
    fed: list[RowKey | None] = [None] * len(sources)
    while not merger.done:
        for source in merger.wanted():
            assert merger.fed_to(source) == fed[source]
            page = [waiting[source].pop(0)] if waiting[source] else []
            if page:
                fed[source] = page_rows(page[0])[-1][0]
            merger.feed(source, page, not waiting[source])
        answer += merger.drain()
    assert list(answer_rows(answer).items()) == expected[:limit]
    assert merger.rows == len(expected[:limit])
    assert merger.more == (len(expected) > limit)
    assert merger.last_key == (expected[:limit][-1][0] if expected else None)
    assert merger.wanted() == []
    assert merger.drain() == b""


def test_the_row_at_the_limit_has_what_every_source_gives_it(kernel: Kernel) -> None:
    pages = [pages_of(kernel, [make_flow("a", tx=n), make_flow("b")], 1) for n in (1, 2, 3)]
    answer = merge(kernel, pages, limit=1)
    assert [row["bytes_tx"] for row in json.loads(answer)] == [6]


def test_a_reached_limit_with_rows_in_hand_waits_for_no_source(kernel: Kernel) -> None:
    merger = kernel.new_merger(2, AnswerFormat.JSON, GROUP_ALL, 1)
    merger.feed(0, pages_of(kernel, [make_flow("a")]), False)
    merger.feed(1, pages_of(kernel, [make_flow("b")]), False)
    assert len(json.loads(merger.drain())) == 1
    assert (merger.done, merger.more, merger.wanted()) == (True, True, [])


def test_an_empty_page_of_a_source_with_more_keeps_it_wanted(kernel: Kernel) -> None:
    merger = kernel.new_merger(2, AnswerFormat.NDJSON, GROUP_ALL, None)
    assert merger.wanted() == [0, 1]
    merger.feed(0, pages_of(kernel, [make_flow("a")]), True)
    merger.feed(1, [], False)
    assert merger.drain() == b""
    assert merger.wanted() == [1]
    assert merger.fed_to(1) is None
    merger.feed(1, [], True)
    assert json.loads(merger.drain())["src_app"] == "a"
    assert merger.done


def test_rows_come_as_soon_as_no_source_can_change_them(kernel: Kernel) -> None:
    merger = kernel.new_merger(2, AnswerFormat.NDJSON, GROUP_ALL, None)
    merger.feed(0, pages_of(kernel, [make_flow("a"), make_flow("c")]), False)
    merger.feed(1, pages_of(kernel, [make_flow("b"), make_flow("d")]), False)
    found = [json.loads(line)["src_app"] for line in merger.drain().splitlines()]
    assert found == ["a", "b", "c"]
    assert merger.wanted() == [0]
    assert not merger.done


def test_equal_keys_saturate(kernel: Kernel) -> None:
    answer = merge(kernel, [pages_of(kernel, [make_flow(tx=COUNTER_MAX, rx=2)])] * 3)
    assert list(answer_rows(answer).values()) == [(COUNTER_MAX, 6)]


ODD = [make_flow('a"b\\c', "com,ma", " é😀", 1, 2, 91), make_flow("x", "y", "z", 3, 4, 92)]


def test_json_has_one_row_a_line(kernel: Kernel) -> None:
    answer = merge(kernel, [pages_of(kernel, ODD)])
    assert answer.decode() == (
        "[\n"
        r'{"src_app":"a\"b\\c","dest_app":"com,ma","vpc_id":" é😀",'
        '"bytes_tx":1,"bytes_rx":2,"hour":91}'
        ",\n"
        '{"src_app":"x","dest_app":"y","vpc_id":"z","bytes_tx":3,"bytes_rx":4,"hour":92}\n'
        "]\n"
    )
    assert json.loads(answer) == ODD


def test_ndjson_is_one_object_a_line(kernel: Kernel) -> None:
    answer = merge(kernel, [pages_of(kernel, ODD, 1)], AnswerFormat.NDJSON)
    assert [json.loads(line) for line in answer.splitlines()] == ODD


def test_csv_has_a_header_and_quotes_what_needs_it(kernel: Kernel) -> None:
    answer = merge(kernel, [pages_of(kernel, ODD, 1)], AnswerFormat.CSV)
    assert answer.decode() == (
        "src_app,dest_app,vpc_id,bytes_tx,bytes_rx,hour\n"
        '"a""b\\c","com,ma", é😀,1,2,91\n'
        "x,y,z,3,4,92\n"
    )
    rows = list(csv.DictReader(io.StringIO(answer.decode())))
    assert [row["src_app"] for row in rows] == ['a"b\\c', "x"]


@pytest.mark.parametrize(
    ("answer_format", "empty"),
    [
        (AnswerFormat.JSON, b"[]\n"),
        (AnswerFormat.NDJSON, b""),
        (AnswerFormat.CSV, b"src_app,dest_app,vpc_id,bytes_tx,bytes_rx,hour\n"),
    ],
)
def test_an_answer_without_rows_is_well_formed(
    kernel: Kernel, answer_format: AnswerFormat, empty: bytes
) -> None:
    assert merge(kernel, [[], []], answer_format) == empty


@pytest.mark.parametrize(
    ("group", "row"),
    [
        (("hour",), {"bytes_tx": 4, "bytes_rx": 6, "hour": 91}),
        (("dest_app",), {"dest_app": "bar", "bytes_tx": 4, "bytes_rx": 6}),
        ((), {"bytes_tx": 4, "bytes_rx": 6}),
    ],
)
def test_a_group_leaves_the_other_members_out(
    kernel: Kernel, group: tuple[str, ...], row: dict[str, object]
) -> None:
    flows = [make_flow("a", tx=1, rx=2), make_flow("b", tx=1, rx=1)]
    pages = [[make_table(kernel, flows).page(91, NONE, group, None, 5)[0]] for _ in range(2)]
    assert json.loads(merge(kernel, pages, group=group)) == [row]


def test_a_damaged_page_is_refused(kernel: Kernel) -> None:
    (page,) = pages_of(kernel, ODD[:1])
    merger = kernel.new_merger(1, AnswerFormat.JSON, GROUP_ALL, None)
    with pytest.raises(FrameError):
        merger.feed(0, [page[:-1]], True)


def test_the_names_of_an_answer_are_not_all_kept() -> None:
    renderer = Renderer(AnswerFormat.NDJSON, ("src_app",))
    for start in range(0, 3 * CACHED_NAMES_MAX, 1_000):
        rows = [((0, b"", b"%06d" % number, b""), 1, 2) for number in range(start, start + 1_000)]
        lines = renderer.rows(rows, first=start == 0).splitlines()
        assert lines[-1] == b'{"src_app":"%06d","bytes_tx":1,"bytes_rx":2}' % (start + 999)
        assert len(renderer._escaped) <= CACHED_NAMES_MAX + 1_000
