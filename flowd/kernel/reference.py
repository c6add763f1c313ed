"""The reference kernel: the data plane in plain Python, on msgspec and xxhash.

It is the specification: a faster kernel must give the same bytes for the same calls. This file only
ties the parts to the seam; each part says what it means.
"""

from collections.abc import Sequence
from typing import Final

from flowd.errors import FrameError
from flowd.kernel import hashing
from flowd.kernel.frame import FrameSlice, decode_frame, read_header
from flowd.kernel.interface import BodyFormat, Merger, Names, Slice, Split, Table
from flowd.kernel.interning import ReferenceNames
from flowd.kernel.merge import ReferenceMerger
from flowd.kernel.split import Splitter
from flowd.kernel.table import ReferenceTable
from flowd.query import AnswerFormat


class ReferenceKernel:
    """See `interface.Kernel`."""

    name: Final = "reference"

    def __init__(self) -> None:
        self._splitter = Splitter()

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
        return self._splitter.split(
            body,
            body_format,
            shard_count=shard_count,
            seed=seed,
            flows_max=flows_max,
            skip_bad=skip_bad,
        )

    def batch_id(self, seed: int, principal: bytes, key: bytes, body: bytes) -> int:
        """See `interface.Kernel.batch_id`."""
        return hashing.batch_id(seed, principal, key, body)

    def frame_flows(self, frame: bytes | memoryview) -> int:
        """See `interface.Kernel.frame_flows`."""
        return read_header(frame).rows

    def buckets(self, frame: bytes | memoryview) -> list[tuple[int, Slice]]:
        """See `interface.Kernel.buckets`."""
        decoded = decode_frame(frame)
        if not decoded.complete:
            raise FrameError("a frame, but not a batch: a name column is missing")
        parts: list[tuple[int, Slice]] = []
        start = 0
        for hour, flows in decoded.groups:
            parts.append((hour, FrameSlice(decoded, start, flows)))
            start += flows
        return parts

    def new_names(self) -> ReferenceNames:
        """See `interface.Kernel.new_names`."""
        return ReferenceNames()

    def new_table(self, names: Names) -> Table:
        """See `interface.Kernel.new_table`."""
        if not isinstance(names, ReferenceNames):
            raise TypeError(f"names of another kernel: {names!r}")
        return ReferenceTable(names)

    def new_merger(
        self,
        sources: int,
        answer_format: AnswerFormat,
        group: Sequence[str],
        limit: int | None,
    ) -> Merger:
        """See `interface.Kernel.new_merger`."""
        return ReferenceMerger(sources, answer_format, group, limit)
