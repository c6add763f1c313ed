"""What the kernel's tests are made of: flows, bodies, plain sums, and a plain reading of pages."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from flowd.errors import BadFlows, Flaw
from flowd.flow import COUNTER_MAX, HOUR_MAX, RowKey
from flowd.kernel import BodyFormat, Kernel, Names, Split, Table
from flowd.kernel.frame import decode_frame
from flowd.query import GROUP_ALL, AnswerFormat, Filters

Flow = dict[str, Any]
Sums = dict[RowKey, tuple[int, int]]
Tables = dict[int, Table]

SEED = 0x5EED


def make_flow(
    src: str = "foo",
    dest: str = "bar",
    vpc: str = "vpc-0",
    tx: int = 1,
    rx: int = 2,
    hour: int = 91,
) -> Flow:
    return {
        "src_app": src,
        "dest_app": dest,
        "vpc_id": vpc,
        "bytes_tx": tx,
        "bytes_rx": rx,
        "hour": hour,
    }


# One draw each: a test draws hundreds of flows.
name_strategy = st.sampled_from(
    [
        "a",
        "ab",
        "c",
        "bc",
        'quo"te',
        "back\\slash",
        "com,ma",
        "é",
        "日本",
        "😀",
        "\u2028",
        "z" * 256,
    ]
)

counter_strategy = st.sampled_from(
    [0, 1, 2, 77, 2**8 - 1, 2**8, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**62, COUNTER_MAX]
)

hour_strategy = st.sampled_from([0, 1, 23, 24, 91, 473_000, HOUR_MAX])

flow_strategy = st.builds(
    make_flow,
    src=name_strategy,
    dest=name_strategy,
    vpc=name_strategy,
    tx=counter_strategy,
    rx=counter_strategy,
    hour=hour_strategy,
)

flows_strategy = st.lists(flow_strategy, max_size=16)


def json_body(flows: Iterable[Any]) -> bytes:
    return json.dumps(list(flows), ensure_ascii=False).encode()


def ndjson_body(flows: Iterable[Any], newline: str = "\n") -> bytes:
    return "".join(json.dumps(flow, ensure_ascii=False) + newline for flow in flows).encode()


def key_of(flow: Flow) -> RowKey:
    return RowKey(flow["hour"], flow["vpc_id"], flow["src_app"], flow["dest_app"])


def plain_sum(flows: Iterable[Flow]) -> Sums:
    sums: defaultdict[RowKey, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for flow in flows:
        tx, rx = sums[key_of(flow)]
        sums[key_of(flow)] = (
            min(tx + flow["bytes_tx"], COUNTER_MAX),
            min(rx + flow["bytes_rx"], COUNTER_MAX),
        )
    return dict(sums)


def split(kernel: Kernel, flows: Iterable[Any], shard_count: int = 1, **changes: Any) -> Split:
    return split_body(kernel, json_body(flows), shard_count, **changes)


def split_body(
    kernel: Kernel,
    body: bytes,
    shard_count: int = 1,
    body_format: BodyFormat = BodyFormat.JSON,
    *,
    seed: int = SEED,
    flows_max: int = 1_000,
    skip_bad: bool = False,
) -> Split:
    return kernel.split(
        body,
        body_format,
        shard_count=shard_count,
        seed=seed,
        flows_max=flows_max,
        skip_bad=skip_bad,
    )


def flaws_of(
    kernel: Kernel, body: bytes, body_format: BodyFormat = BodyFormat.JSON
) -> tuple[Flaw, ...]:
    with pytest.raises(BadFlows) as caught:
        split_body(kernel, body, 2, body_format)
    assert caught.value.total == len(caught.value.flaws)
    return caught.value.flaws


def make_frame(kernel: Kernel, flows: Iterable[Flow]) -> bytes:
    (frame,) = split(kernel, flows, flows_max=100_000).frames.values()
    return frame


class Shard:
    """The tables of one shard."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.names: Names = kernel.new_names()
        self.tables: Tables = {}

    def apply(self, frame: bytes, lsn: int = 1) -> int:
        new = 0
        for hour, part in self.kernel.buckets(frame):
            if hour not in self.tables:
                self.tables[hour] = self.kernel.new_table(self.names)
            new += self.tables[hour].apply(part, lsn)
        return new

    def rows(self) -> Sums:
        return {
            key: sums
            for hour, table in self.tables.items()
            for key, sums in table_rows(table, hour)
        }


def make_table(kernel: Kernel, flows: Iterable[Flow], lsn: int = 1) -> Table:
    """Make a table of flows of one hour."""
    table = kernel.new_table(kernel.new_names())
    apply_flows(kernel, table, flows, lsn)
    return table


def apply_flows(kernel: Kernel, table: Table, flows: Iterable[Flow], lsn: int) -> int:
    ((_, part),) = kernel.buckets(make_frame(kernel, flows))
    return table.apply(part, lsn)


def page_rows(page: bytes) -> list[tuple[RowKey, tuple[int, int]]]:
    """Read a page; a member that it does not have is "" or 0."""
    frame = decode_frame(page)
    names = [name.decode() for name in frame.names]
    hours = [hour for hour, rows in frame.groups for _ in range(rows)]
    src, dest, vpc = (
        [names[index] for index in column] or [""] * frame.header.rows
        for column in (frame.src, frame.dest, frame.vpc)
    )
    keys = [RowKey(*parts) for parts in zip(hours, vpc, src, dest, strict=True)]
    return list(zip(keys, zip(frame.tx, frame.rx, strict=True), strict=True))


def table_rows(table: Table, hour: int) -> list[tuple[RowKey, tuple[int, int]]]:
    page, last = table.page(hour, Filters(), GROUP_ALL, None, table.rows + 1)
    assert last
    return page_rows(page)


def merge(
    kernel: Kernel,
    sources: Sequence[Sequence[bytes]],
    answer_format: AnswerFormat = AnswerFormat.JSON,
    limit: int | None = None,
    group: Sequence[str] = GROUP_ALL,
) -> bytes:
    """Merge all pages of several sources, fed one at a time as they are wanted."""
    merger = kernel.new_merger(len(sources), answer_format, group, limit)
    waiting = [list(pages) for pages in sources]
    answer = b""
    while not merger.done:
        for source in merger.wanted():
            page = [waiting[source].pop(0)] if waiting[source] else []
            merger.feed(source, page, not waiting[source])
        answer += merger.drain()
    return answer


def answer_rows(answer: bytes) -> Sums:
    return {key_of(row): (row["bytes_tx"], row["bytes_rx"]) for row in json.loads(answer)}
