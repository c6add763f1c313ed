"""Rows as JSON, NDJSON and CSV.

An answer is a head, rows, and an end. JSON has one row a line: `[`, the rows joined by commas, `]`,
so that line tools can read it; `[]` when empty. CSV is RFC 4180 but for its line ends, which are
newlines alone. Members come in the order in which flows have them, only those that rows are told
apart by, and both sums.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final, TypeAlias

from flowd.query import AnswerFormat

MergedRow: TypeAlias = tuple[tuple[int, bytes, bytes, bytes], int, int]
"""((hour, vpc_id, src_app, dest_app), bytes_tx, bytes_rx)"""

_MEMBERS: Final = ("src_app", "dest_app", "vpc_id", "bytes_tx", "bytes_rx", "hour")
_NAMES: Final = {"vpc_id": 1, "src_app": 2, "dest_app": 3}
CACHED_NAMES_MAX: Final = 16_384
"""How many names a `Renderer` keeps between calls."""


class _Escaped(dict[bytes, str]):
    """name → what stands for it in the answer."""

    def __init__(self, escape: Callable[[str], str]) -> None:
        super().__init__()
        self._escape = escape

    def __missing__(self, name: bytes) -> str:
        text = self[name] = self._escape(name.decode())
        return text


class Renderer:
    """Renders one answer.

    Args:
        answer_format: what it is written in.
        group: the members that rows are told apart by.

    Attributes:
        head: what comes before all rows.
    """

    def __init__(self, answer_format: AnswerFormat, group: Sequence[str]) -> None:
        self._members = [m for m in _MEMBERS if m in group or m.startswith("bytes_")]
        self._json = answer_format is AnswerFormat.JSON
        if answer_format is AnswerFormat.CSV:
            self.head = (",".join(self._members) + "\n").encode()
            self._template = ",".join("%s" if m in _NAMES else "%d" for m in self._members)
            self._escaped = _Escaped(_escape_csv)
        else:
            self.head = b"[" if self._json else b""
            pairs = (f'"{m}":"%s"' if m in _NAMES else f'"{m}":%d' for m in self._members)
            self._template = "{" + ",".join(pairs) + "}"
            self._escaped = _Escaped(_escape_json)

    def rows(self, rows: Sequence[MergedRow], *, first: bool) -> bytes:
        """Render rows.

        Args:
            rows: at least one.
            first: whether they are the answer's first.
        """
        if len(self._escaped) > CACHED_NAMES_MAX:
            self._escaped.clear()
        columns = [self._column(member, rows) for member in self._members]
        lines = map(self._template.__mod__, zip(*columns, strict=True))
        if self._json:
            return (("\n" if first else ",\n") + ",\n".join(lines)).encode()
        return ("\n".join(lines) + "\n").encode()

    def end(self, *, empty: bool) -> bytes:
        """Render what comes behind all rows; `empty` when there were none."""
        if not self._json:
            return b""
        return b"]\n" if empty else b"\n]\n"

    def _column(self, member: str, rows: Sequence[MergedRow]) -> Iterable[str | int]:
        if member == "bytes_tx":
            return map(itemgetter(1), rows)
        if member == "bytes_rx":
            return map(itemgetter(2), rows)
        keys: Iterator[tuple[int, bytes, bytes, bytes]] = map(itemgetter(0), rows)
        if member == "hour":
            return map(itemgetter(0), keys)
        return map(self._escaped.__getitem__, map(itemgetter(_NAMES[member]), keys))


def _escape_json(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')  # names have no control characters


def _escape_csv(name: str) -> str:
    if '"' in name or "," in name:
        return '"' + name.replace('"', '""') + '"'
    return name
