"""Whether a JSON text is nested too deeply, and how many elements it has, without recursion.

Strings are cut out first, then only brackets and commas are looked at, in pieces of bounded size:
time is linear in the text and memory does not grow with it. The text must be well-formed JSON
already.
"""

from typing import Final

DEPTH_MAX: Final = 512
"""The deepest nesting accepted: the array of a JSON body counts 1, a flow in it 2."""

_PIECE_BYTES: Final = 4_096
_LEVELS_MAX: Final = 8  # beyond that, going through the brackets one by one costs less
_OPEN, _CLOSE = b"[]"
_KEEP: Final = b"[]{},"
_DROP: Final = bytes(byte for byte in range(256) if byte not in _KEEP)
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")


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
    return count_elements(text) is None


def count_elements(text: bytes, depth_max: int = DEPTH_MAX) -> int | None:
    """Count the elements of a well-formed JSON array.

    Args:
        text: the array; 1 is the answer for an empty one.
        depth_max: the deepest nesting to accept, the array itself counting 1.

    Returns:
        How many there are, or None when anything is nested deeper.
    """
    if b"\\" in text:
        # Left to right, as escapes are read: what remains of `"` starts or ends a string.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = commas = inside = 0
    for start in range(0, len(text), _PIECE_BYTES):
        parts = text[start : start + _PIECE_BYTES].split(b'"')
        marks = b"".join(parts[inside::2]).translate(_ONE_KIND, _DROP)
        inside ^= (len(parts) - 1) & 1
        # Take out what opens and closes again, level by level: what remains tells how low this
        # piece goes, and how high at most.
        brackets = marks.translate(None, b",")
        levels = 0
        while levels < _LEVELS_MAX and b"[]" in brackets:
            brackets = brackets.replace(b"[]", b"")
            levels += 1
        opened, closed = brackets.count(_OPEN), brackets.count(_CLOSE)
        if depth - closed > 1 and depth + opened + levels <= depth_max:
            depth += opened - closed  # nothing here is too deep, or ends an element
            continue
        for mark in marks:
            if mark == _OPEN:
                depth += 1
                if depth > depth_max:
                    return None
            elif mark == _CLOSE:
                depth -= 1
            elif depth == 1:
                commas += 1
    return commas + 1
