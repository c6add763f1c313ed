"""The seam of the data plane: what a kernel offers, whatever it is written in.

Everything that touches every flow or every row is behind these names. Frames, pages, slices and
tables are opaque outside of `flowd.kernel`; their bytes are described in `docs/frame-format.md` and
are the same for every kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from flowd.errors import Flaw
from flowd.flow import RowKey
from flowd.query import AnswerFormat, Filters


class BodyFormat(StrEnum):
    """How a request's body holds its flows."""

    JSON = "json"
    NDJSON = "ndjson"


@dataclass(frozen=True, slots=True)
class Split:
    """A body, validated and divided among the shards.

    Attributes:
        frames: shard → frame, touched shards only, ascending by shard.
        flows: how many flows all frames hold.
        skipped: how many flows were left out (`skip_bad` only).
        flaws: the first 100 reasons for that, in the order of the body.
    """

    frames: dict[int, bytes]
    flows: int
    skipped: int = 0
    flaws: tuple[Flaw, ...] = ()


class Slice(Protocol):
    """The flows of one hour in one frame; valid as long as the frame's bytes are."""

    @property
    def flows(self) -> int:
        """How many flows it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Sums:
    """Totals of a set of rows; bytes saturate at 2**63 - 1."""

    rows: int
    bytes_tx: int
    bytes_rx: int


class Names(Protocol):
    """The names of one shard, interned: each distinct string is kept once for all of its tables."""

    @property
    def count(self) -> int:
        """How many distinct names are held."""
        ...

    @property
    def bytes(self) -> int:
        """The sum of their lengths in bytes of UTF-8."""
        ...


class Table(Protocol):
    """The rows of one bucket; a row's place never changes, new rows go to the end.

    A block is rows [65,536 · i, 65,536 · (i + 1)). Calls cost in proportion to the slice, page or
    block they are given, not to the table, but for the first `page` after many new rows, which
    sorts those.
    """

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        ...

    @property
    def blocks(self) -> int:
        """How many blocks those make, the last one partly filled."""
        ...

    @property
    def saturations(self) -> int:
        """How many additions were cut off at 2**63 - 1 since the table was made."""
        ...

    def apply(self, part: Slice, lsn: int) -> int:
        """Add each flow of a slice to its row, once for all time.

        A row that was loaded from a block taken at or after `lsn` has the flow already and is left
        alone.

        Args:
            part: a slice of a frame.
            lsn: the number of the log record that the frame came in.

        Returns:
            How many rows are new.
        """
        ...

    def count_new(self, part: Slice) -> int:
        """Say how many rows `apply` would make; changes nothing, interns nothing."""
        ...

    def page(
        self, hour: int, filters: Filters, group: Sequence[str], after: RowKey | None, limit: int
    ) -> tuple[bytes, bool]:
        """Give rows in key order, starting behind a key.

        Args:
            hour: the hour to label the rows with: the start of the bucket they are asked for in.
            filters: which names; an empty tuple lets all pass.
            group: the members to keep, a subset of `query.GROUP_ALL` in that order.
            after: rows at or before this key are left out; None starts at the first row.
            limit: at most this many rows, 1 or more.

        Returns:
            The page, a frame whose rows are sorted, and whether it holds the last row there is.
        """
        ...

    def dump(self, block: int) -> bytes:
        """Give one block as a frame, rows in their order."""
        ...

    def load(self, block: bytes, lsn: int) -> None:
        """Append a dumped block.

        Args:
            block: what `dump` gave.
            lsn: the last log record that was applied when it was dumped.

        Raises:
            FrameError: the bytes are not a well-formed block of distinct rows.
        """
        ...

    def sums(self) -> Sums:
        """Add up all rows; kept up to date by `apply`, so that it costs nothing."""
        ...

    def digest(self) -> int:
        """Σ (h1(key)·tx + h2(key)·rx + h3(key)) mod 2**128 over all rows; docs/frame-format.md."""
        ...


class Merger(Protocol):
    """Merges sorted pages of several sources to one answer, as they come.

    Feed a page of each source; `drain` renders all that no later page can change; `wanted` says
    which sources the next row waits for. Equal keys of different sources become one row with the
    sums.
    """

    @property
    def rows(self) -> int:
        """How many rows were rendered so far."""
        ...

    @property
    def done(self) -> bool:
        """Whether the limit is reached or every source is at its end and rendered."""
        ...

    @property
    def last_key(self) -> RowKey | None:
        """The key of the last rendered row."""
        ...

    @property
    def more(self) -> bool:
        """Whether, once done, there are rows behind the limit."""
        ...

    def wanted(self) -> list[int]:
        """The sources to feed before the next row can be told."""
        ...

    def feed(self, source: int, pages: Sequence[bytes], last: bool) -> None:
        """Add the next rows of a source.

        Args:
            source: 0 … sources - 1.
            pages: frames in key order, each behind the one before; may be empty.
            last: whether the source has no more rows behind these.

        Raises:
            FrameError: a page is not a well-formed frame.
        """
        ...

    def fed_to(self, source: int) -> RowKey | None:
        """Tell the key of the last row fed from a source: the `after` of its next page."""
        ...

    def drain(self) -> bytes:
        """Render the rows that are certain, and the answer's head or end when it is their turn."""
        ...


class Kernel(Protocol):
    """One implementation of the data plane, made by `flowd.kernel.load_kernel`."""

    @property
    def name(self) -> str:
        """What `flowd_build_info` calls it: `reference` or `native`."""
        ...

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
        """Parse, validate and divide a body.

        Args:
            body: the body after decompression.
            body_format: one JSON array, or one JSON object a line.
            shard_count: 1 … 64.
            seed: the data directory's, 0 … 2**64 - 1.
            flows_max: `limits.flows`.
            skip_bad: leave out flows that are well-formed JSON but no valid flow, and report them.

        Returns:
            One frame for each shard that any flow belongs to.

        Raises:
            BadFlows: the body is malformed, or a flow is invalid and `skip_bad` is off.
            TooLarge: more than `flows_max` flows.
        """
        ...

    def batch_id(self, seed: int, principal: bytes, key: bytes, body: bytes) -> int:
        """Name a keyed batch: xxh3_128 of all of these, lengths included; never 0."""
        ...

    def frame_flows(self, frame: bytes) -> int:
        """Read how many flows a frame holds, from its header.

        Raises:
            FrameError: this is no frame.
        """
        ...

    def buckets(self, frame: bytes) -> list[tuple[int, Slice]]:
        """Give a frame's parts by hour, ascending.

        Raises:
            FrameError: the bytes are not a well-formed frame; every index in a returned slice is
            sound.
        """
        ...

    def new_names(self) -> Names:
        """Make an empty set of names, for the tables of one shard."""
        ...

    def new_table(self, names: Names) -> Table:
        """Make an empty table that interns into `names`."""
        ...

    def new_merger(
        self,
        sources: int,
        answer_format: AnswerFormat,
        group: Sequence[str],
        limit: int | None,
    ) -> Merger:
        """Make a merger; `limit` counts rows of the answer, None for all."""
        ...
