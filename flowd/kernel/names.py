"""The rule for src_app, dest_app and vpc_id, and a cache of names that passed it.

A name is 1 to 256 bytes of UTF-8 without control characters (Unicode category Cc). Lone surrogates
never get this far: they are no UTF-8, and the JSON decoder refuses their escapes.
"""

import re
from typing import Final

from flowd.flow import NAME_BYTES_MAX
from flowd.kernel.hashing import prefixed

NAME_RULE: Final = f"a string of 1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters"
"""What is allowed, in words."""

CACHED_NAMES_MAX: Final = 16_384
"""How many names `CheckedNames` keeps between bodies; with the longest names some 10 MB."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


class InvalidName(ValueError):
    """A name that breaks the rule; caught in `split`, which then looks at each flow closely."""


def find_control(text: str) -> int | None:
    """Give the place of the first control character, counted in characters from 0."""
    if text.isprintable():  # a quick yes for nearly every name; a no proves nothing
        return None
    match = _CONTROL.search(text)
    return match.start() if match else None


def name_flaw(name: str) -> str | None:
    """Say what is wrong with a name, to be read behind "must be …, "; None when it is fine."""
    size = len(name.encode())
    if size == 0:
        return "not empty"
    if size > NAME_BYTES_MAX:
        return f"not {size:,} bytes"
    place = find_control(name)
    if place is not None:
        return f"has U+{ord(name[place]):04X} at character {place + 1}"
    return None


class CheckedNames(dict[str, bytes]):
    """name → the same prefixed with its length, checked when it is first looked up.

    Looking up a name that breaks the rule raises InvalidName. Equal names give one and the same
    object, so that what follows compares them by identity.
    """

    def __missing__(self, name: str) -> bytes:
        flaw = name_flaw(name)
        if flaw is not None:
            raise InvalidName(flaw)
        encoded = self[name] = prefixed(name.encode())
        return encoded

    def trim(self) -> None:
        """Forget all names when there are too many; to be called between bodies."""
        if len(self) > CACHED_NAMES_MAX:
            self.clear()
