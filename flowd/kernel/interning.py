"""Interning: each distinct name of a shard is kept once, and rows hold its integer id.

Ids count from 0 in the order of arrival and mean something in one process only: nothing durable has
them.
"""

from itertools import count
from typing import TypeAlias

from flowd.kernel.frame import Frame

RowIds: TypeAlias = tuple[int, int, int]
"""A row's src_app, dest_app and vpc_id, as ids."""


class _Ids(dict[bytes, int]):
    """name → id; looking up an unknown name gives it the next id."""

    def __init__(self, strings: list[bytes]) -> None:
        super().__init__()
        self.strings = strings
        self.size = 0

    def __missing__(self, name: bytes) -> int:
        new = self[name] = len(self.strings)
        self.strings.append(name)
        self.size += len(name)
        return new


class ReferenceNames:
    """See `interface.Names`.

    Attributes:
        strings: id → name, in UTF-8; grows only.
    """

    def __init__(self) -> None:
        self.strings: list[bytes] = []
        self._ids = _Ids(self.strings)

    def row_keys(self, frame: Frame) -> list[RowIds]:
        """Give the ids of each row of a complete frame, interning its names; once a frame."""
        if frame.interned_by is not self:
            frame.keys = _zip_ids(frame, list(map(self._ids.__getitem__, frame.names)))
            frame.interned_by = self
        return frame.keys

    def find_row_keys(self, frame: Frame) -> list[RowIds]:
        """Give the ids of each row without interning; an unknown name has a negative id of its own.

        Done once a frame, as long as no name is added.
        """
        if frame.found_by != (self, self.count):
            unknown = count(-1, -1)
            frame.found = _zip_ids(frame, list(map(self._ids.get, frame.names, unknown)))
            frame.found_by = (self, self.count)
        return frame.found

    def find(self, name: str) -> int | None:
        """Give a name's id, None when it is not held."""
        return self._ids.get(utf8(name))

    @property
    def count(self) -> int:
        """See `interface.Names.count`."""
        return len(self.strings)

    @property
    def bytes(self) -> int:
        """See `interface.Names.bytes`."""
        return self._ids.size


def utf8(text: str) -> bytes:
    """Encode text that came with a query; what is not Unicode becomes bytes that no name has."""
    return text.encode(errors="surrogatepass")


def _zip_ids(frame: Frame, ids: list[int]) -> list[RowIds]:
    look = ids.__getitem__
    return list(zip(map(look, frame.src), map(look, frame.dest), map(look, frame.vpc), strict=True))
