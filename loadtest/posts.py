"""Whole POST requests, head and body, to be written to a connection as they are."""

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import cycle


def post_request(body: bytes, key: str | None = None) -> bytes:
    """Make the whole of a POST: head and body, to be written as it is; `key` makes it keyed."""
    keyed = "" if key is None else f"Idempotency-Key: {key}\r\n"
    head = (
        f"POST /flows HTTP/1.1\r\nHost: flowd\r\nContent-Type: application/json\r\n{keyed}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def keyed_requests(bodies: Sequence[bytes]) -> Iterator[bytes]:
    """Make POSTs without end, each with a key of its own."""
    for body in cycle(bodies):
        yield post_request(body, _uuid7())


def _uuid7() -> str:
    """Make a key as RFC 9562, section 5.7, lays it out: the time in ms, then chance."""
    chance = random.getrandbits(74)
    value = int(time.time() * 1000) << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance % 2**62
    return str(uuid.UUID(int=value))
