"""split: one body in, one frame out for each shard that any of its flows belongs to.

Columns, not flows, are what it works on: each step is one C loop over a column. Whatever is wrong
with a body is found and worded by `inspection`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from flowd.errors import BadFlows, Flaw
from flowd.kernel.flows import Flow, check_utf8, decode_quickly
from flowd.kernel.frame import encode_frame, number_names
from flowd.kernel.hashing import shard_numbers
from flowd.kernel.inspection import inspect
from flowd.kernel.interface import BodyFormat, Split
from flowd.kernel.names import CheckedNames, InvalidName


class _Columns(NamedTuple):
    """Valid flows, a column a member; names are prefixed, and equal ones are the same object."""

    src: Sequence[bytes]
    dest: Sequence[bytes]
    vpc: Sequence[bytes]
    tx: Sequence[int]
    rx: Sequence[int]
    hours: Sequence[int]


class Splitter:
    """Splits bodies; keeps the names that it saw, so that they are checked once."""

    def __init__(self) -> None:
        self._names = CheckedNames()

    def split(
        self,
        body: bytes,
        body_format: BodyFormat,
        *,
        shard_count: int,
        seed: int,
        flows_max: int,
        skip_bad: bool,
    ) -> Split:
        """See `interface.Kernel.split`."""
        check_utf8(body)
        try:
            columns, skipped, flaws = self._decode(body, body_format, flows_max, skip_bad)
        finally:
            self._names.trim()
        frames = {
            shard: _encode(columns, rows)
            for shard, rows in enumerate(_divide(columns, seed, shard_count))
            if rows
        }
        return Split(frames, len(columns.hours), skipped, flaws)

    def _decode(
        self, body: bytes, body_format: BodyFormat, flows_max: int, skip_bad: bool
    ) -> tuple[_Columns, int, tuple[Flaw, ...]]:
        flows = decode_quickly(body, body_format, flows_max)
        columns = None if flows is None else self._check_names(flows)
        if columns is not None:
            return columns, 0, ()
        inspected = inspect(body, body_format, flows_max)
        if inspected.flaws and not skip_bad:
            raise BadFlows(inspected.flaws, inspected.total)
        return self._columns(inspected.flows), inspected.skipped, inspected.flaws

    def _check_names(self, flows: list[Flow]) -> _Columns | None:
        try:
            return self._columns(flows)
        except InvalidName:
            return None

    def _columns(self, flows: list[Flow]) -> _Columns:
        checked = self._names.__getitem__
        return _Columns(
            [checked(flow.src_app) for flow in flows],
            [checked(flow.dest_app) for flow in flows],
            [checked(flow.vpc_id) for flow in flows],
            [flow.bytes_tx for flow in flows],
            [flow.bytes_rx for flow in flows],
            [flow.hour for flow in flows],
        )


def _divide(columns: _Columns, seed: int, shard_count: int) -> list[Sequence[int]]:
    """Give the rows of each shard, ascending."""
    if shard_count == 1:
        return [range(len(columns.hours))]
    shards = shard_numbers(
        columns.src,
        columns.dest,
        columns.vpc,
        columns.hours,
        seed=seed,
        shard_count=shard_count,
    )
    rows_of: list[list[int]] = [[] for _ in range(shard_count)]
    for row, shard in enumerate(shards):
        rows_of[shard].append(row)
    return [*rows_of]


def _encode(columns: _Columns, rows: Sequence[int]) -> bytes:
    pick = _picker(rows)
    src, dest, vpc, tx, rx, hours = map(pick, columns)
    names, numbers = number_names(chain.from_iterable(zip(src, dest, vpc, strict=True)))
    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    for row, hour in enumerate(hours):
        rows_of[hour].append(row)
    groups = sorted(rows_of.items())
    by_hour = _picker(list(chain.from_iterable(members for _, members in groups)))
    return encode_frame(
        [name[2:] for name in names],
        [(hour, len(members)) for hour, members in groups],
        [by_hour(numbers[column::3]) for column in range(3)],
        by_hour(tx),
        by_hour(rx),
    )


def _picker(rows: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Make a function that picks some rows of a column, one or more, in one C loop."""
    if len(rows) == 1:
        row = rows[0]
        return lambda column: (column[row],)
    return itemgetter(*rows)
