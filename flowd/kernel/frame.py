"""Frames: the one columnar encoding of batches, bucket blocks and query pages.

docs/frame-format.md has every byte.

Encoding is canonical: the same rows in the same order give the same bytes in every kernel. Decoding
checks every field, so that whoever holds a `Frame` may index its names without looking. What the
rows mean, and whether two of them may be equal, is the business of whoever asked for the frame.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, count, pairwise
from operator import add
from typing import Final, NamedTuple, TypeVar

from flowd.errors import FrameError
from flowd.flow import COUNTER_MAX
from flowd.kernel.names import find_control

FRAME_VERSION: Final = 1
HEADER_BYTES: Final = 32

_HEADER: Final = struct.Struct("<8B4IQ")
_NAME_WIDTHS: Final = frozenset((0, 1, 2, 4))
_SUM_WIDTHS: Final = frozenset((1, 2, 4, 8))
_TYPECODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}

_Name = TypeVar("_Name")


class FrameHeader(NamedTuple):
    """What the first 32 bytes tell.

    widths: bytes a value of the columns src_app, dest_app, vpc_id, bytes_tx, bytes_rx; 0 if absent.
    rows, names, groups: how many of each there are. name_bytes: the length of all names together.
    """

    widths: tuple[int, ...]
    rows: int
    names: int
    name_bytes: int
    groups: int


class Frame:
    """A decoded frame; every index is sound.

    Attributes:
        header: its first 32 bytes.
        names: the distinct names, in UTF-8.
        groups: (hour, rows), by ascending hour.
        src: for each row the index of its name; empty when the column is absent.
        dest: see `src`.
        vpc: see `src`.
        tx: for each row 0 … 2**63 - 1.
        rx: see `tx`.
        interned_by: whose ids `keys` holds; see `ReferenceNames.row_keys`.
        keys: for each row the ids of its names.
        found_by: whose ids `found` holds; see `ReferenceNames.find_row_keys`.
        found: for each row the ids of its names.
    """

    __slots__ = (
        "dest", "found", "found_by", "groups", "header", "interned_by", "keys", "names", "rx",
        "src", "tx", "vpc",
    )  # fmt: skip

    def __init__(
        self,
        header: FrameHeader,
        names: list[bytes],
        groups: list[tuple[int, int]],
        columns: list[Sequence[int]],
    ) -> None:
        self.header = header
        self.names = names
        self.groups = groups
        self.src, self.dest, self.vpc, self.tx, self.rx = columns
        self.interned_by: object = None
        self.keys: list[tuple[int, int, int]] = []
        self.found_by: object = None
        self.found: list[tuple[int, int, int]] = []

    @property
    def complete(self) -> bool:
        """Whether all three name columns are there."""
        return all(self.header.widths)


class FrameSlice:
    """`flows` rows of a frame, all of one hour: the rows `span`."""

    __slots__ = ("flows", "frame", "span")

    def __init__(self, frame: Frame, start: int, flows: int) -> None:
        self.frame = frame
        self.span = slice(start, start + flows)
        self.flows = flows


def number_names(walk: Iterable[_Name]) -> tuple[list[_Name], list[int]]:
    """Number names in the order in which they first appear.

    Args:
        walk: names, or anything that stands for them, in the canonical order.

    Returns:
        The distinct ones, and for each step of the walk the number of its name.
    """
    numbers: defaultdict[_Name, int] = defaultdict(count().__next__)
    steps = list(map(numbers.__getitem__, walk))
    return list(numbers), steps


def encode_frame(
    names: Sequence[bytes],
    groups: Sequence[tuple[int, int]],
    name_columns: Sequence[Sequence[int] | None],
    tx: Sequence[int],
    rx: Sequence[int],
) -> bytes:
    """Encode rows.

    Args:
        names: the distinct names, 1 to 256 bytes of UTF-8 each, in the order in which the rows use
            them.
        groups: (hour, rows) by ascending hour, rows 1 or more, their sum the number of rows.
        name_columns: src_app, dest_app, vpc_id as indexes into `names`; None leaves a column out.
        tx: bytes_tx of each row, 0 … 2**63 - 1.
        rx: bytes_rx of each row, likewise.
    """
    rows = len(tx)
    widths = [_name_width(column, len(names)) for column in name_columns]
    widths += [_width(max(tx, default=0)), _width(max(rx, default=0))]
    joined = b"".join(names)
    header = _HEADER.pack(
        FRAME_VERSION, 0, *widths, 0, rows, len(names), len(joined), len(groups), 0
    )
    directory = struct.pack(f"<{2 * len(groups)}I", *chain.from_iterable(groups))
    columns = [
        struct.pack(f"<{rows}{_TYPECODES[width]}", *column)
        for width, column in zip(widths, (*name_columns, tx, rx), strict=True)
        if column is not None
    ]
    return b"".join((header, directory, bytes([len(n) - 1 for n in names]), joined, *columns))


def read_header(frame: bytes | memoryview) -> FrameHeader:
    """Read and check a frame's header, and its length against it.

    Raises:
        FrameError: a field is out of range or the length is not what the header says.
    """
    if len(frame) < HEADER_BYTES:
        raise FrameError(f"a frame of {len(frame)} bytes, shorter than its header")
    version, flags, *widths, zero, rows, names, name_bytes, groups, reserved = _HEADER.unpack_from(
        frame
    )
    if version != FRAME_VERSION:
        raise FrameError(f"frame version {version}, this flowd reads {FRAME_VERSION}")
    if flags or zero or reserved:
        raise FrameError("frame with a reserved field that is not zero")
    if not (_NAME_WIDTHS.issuperset(widths[:3]) and _SUM_WIDTHS.issuperset(widths[3:])):
        raise FrameError(f"frame with column widths {widths}")
    expected = HEADER_BYTES + 8 * groups + names + name_bytes + rows * sum(widths)
    if len(frame) != expected:
        raise FrameError(f"frame of {len(frame)} bytes, its header says {expected}")
    return FrameHeader(tuple(widths), rows, names, name_bytes, groups)


def decode_frame(frame: bytes | memoryview) -> Frame:
    """Decode and check a whole frame.

    Raises:
        FrameError: the bytes are not a well-formed frame.
    """
    header = read_header(frame)
    data = bytes(frame)
    directory = struct.unpack_from(f"<{2 * header.groups}I", data, HEADER_BYTES)
    groups = list(zip(directory[::2], directory[1::2], strict=True))
    _check_groups(groups, header.rows)
    offset = HEADER_BYTES + 8 * header.groups
    names = _decode_names(data, offset, header)
    offset += header.names + header.name_bytes
    columns: list[Sequence[int]] = []
    for width in header.widths:
        columns.append(_decode_column(data, offset, width, header.rows))
        offset += header.rows * width
    for width, column in zip(header.widths[:3], columns, strict=False):
        # A full table of names has no unsound index of its width: spare the search for one.
        if column and len(names) < 1 << 8 * width and max(column) >= len(names):
            raise FrameError(f"frame with name index {max(column)} of {len(names)} names")
    for width, column in zip(header.widths[3:], columns[3:], strict=True):
        if width == 8 and column and max(column) > COUNTER_MAX:
            raise FrameError(f"frame with {max(column)} bytes in a row, over {COUNTER_MAX}")
    return Frame(header, names, groups, columns)


def _check_groups(groups: list[tuple[int, int]], rows: int) -> None:
    if sum(size for _, size in groups) != rows or any(size == 0 for _, size in groups):
        raise FrameError(f"frame of {rows} rows whose groups do not add up to them")
    if any(hour >= following for (hour, _), (following, _) in pairwise(groups)):
        raise FrameError("frame whose hours do not ascend")


def _decode_names(data: bytes, offset: int, header: FrameHeader) -> list[bytes]:
    start = offset + header.names
    sizes = data[offset:start]  # one less than they are
    ends = [0, *map(add, accumulate(sizes), count(1))]
    if ends[-1] != header.name_bytes:
        raise FrameError(f"frame with {header.name_bytes} bytes of names that end at {ends[-1]}")
    joined = data[start : start + header.name_bytes]
    names = [joined[begin:end] for begin, end in pairwise(ends)]
    try:
        text = joined.decode()
    except UnicodeDecodeError as error:
        raise FrameError(f"frame with a name that is not UTF-8: {error}") from error
    if find_control(text) is not None:
        raise FrameError("frame with a control character in a name")
    # What is UTF-8 as a whole may still be cut inside of a character: then a name starts with
    # 10xxxxxx.
    if len(text) != len(joined) and any(name[0] & 0xC0 == 0x80 for name in names):
        raise FrameError("frame with a name cut inside of a character")
    if len(set(names)) != len(names):
        raise FrameError("frame that has a name twice")
    return names


def _decode_column(data: bytes, offset: int, width: int, rows: int) -> Sequence[int]:
    if width <= 1:
        return data[offset : offset + rows * width]
    return struct.unpack_from(f"<{rows}{_TYPECODES[width]}", data, offset)


def _width(largest: int) -> int:
    if largest < 1 << 8:
        return 1
    if largest < 1 << 16:
        return 2
    return 4 if largest < 1 << 32 else 8


def _name_width(column: Sequence[int] | None, names: int) -> int:
    if column is None:
        return 0
    if names <= 1 << 8:
        return 1
    return _width(max(column))
