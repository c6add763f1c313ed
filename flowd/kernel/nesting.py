"""How deep a JSON text is nested and how many elements it has, without parser or recursion.

Strings are cut out first, then only brackets and commas are looked at, in pieces of bounded size:
time is linear in the text and memory does not grow with it. The text must be well-formed JSON
already.
"""

from typing import Final, NamedTuple

DEPTH_MAX: Final = 512
"""The deepest nesting accepted: the array of a JSON body counts 1, a flow in it 2."""

_PIECE_BYTES: Final = 4_096
_OPEN, _CLOSE, _COMMA = b"[],"
_KEEP: Final = b"[]{},"
_DROP: Final = bytes(byte for byte in range(256) if byte not in _KEEP)
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")


class Shape(NamedTuple):
    """The shape of a JSON text.

    depth: the deepest nesting, 0 for a bare string or number. elements: of an array, 1 for an empty
    one.
    """

    depth: int
    elements: int


def too_deep(text: bytes, least: int, base: int) -> bool:
    """Tell whether well-formed JSON texts are nested deeper than 512.

    Args:
        text: one or more texts.
        least: how many brackets open at or above the depth `base`, all together.
        base: the depth that is certain, 0 or more.
    """
    opened = len(text) - len(text.translate(None, b"[{"))
    if opened - least + base <= DEPTH_MAX:  # even one inside of the other they are not too many
        return False
    return measure(text).depth > DEPTH_MAX


def measure(text: bytes) -> Shape:
    """Measure well-formed JSON."""
    if b"\\" in text:
        # Left to right, as escapes are read: what remains of `"` starts or ends a string.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = deepest = commas = inside = 0
    for start in range(0, len(text), _PIECE_BYTES):
        parts = text[start : start + _PIECE_BYTES].split(b'"')
        marks = b"".join(parts[inside::2]).translate(_ONE_KIND, _DROP)
        inside ^= (len(parts) - 1) & 1
        opened, closed = marks.count(_OPEN), marks.count(_CLOSE)
        if depth - closed > 1 and depth + opened <= deepest:
            depth += opened - closed  # nothing here can set a record or end an element
            continue
        for mark in marks:
            if mark == _OPEN:
                depth += 1
                if depth > deepest:
                    deepest = depth
            elif mark == _CLOSE:
                depth -= 1
            elif depth == 1:
                commas += 1
    return Shape(deepest, commas + 1)
