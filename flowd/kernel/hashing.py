"""The hashes that must never change: of shards, of sets of rows, of batches.

All take names length-prefixed (`prefixed`), so that ("ab", "c") and ("a", "bc") differ. `hash()` is
salted a process and is not used for anything here. The exact bytes are in docs/frame-format.md.

Source: XXH3, https://github.com/Cyan4973/xxHash, through the xxhash package.
"""

from collections.abc import Iterable
from itertools import repeat
from typing import Final

import xxhash

from flowd.flow import HOURS_PER_DAY

DIGEST_MASK: Final = 2**128 - 1
"""Digests are sums modulo 2**128."""


class _Days(dict[int, bytes]):
    """hour → its day, 4 bytes little-endian."""

    def __missing__(self, hour: int) -> bytes:
        day = self[hour] = (hour // HOURS_PER_DAY).to_bytes(4, "little")
        return day


def prefixed(name: bytes) -> bytes:
    """Put a name's length, 2 bytes little-endian, before it."""
    return len(name).to_bytes(2, "little") + name


def shard_numbers(
    src: Iterable[bytes],
    dest: Iterable[bytes],
    vpc: Iterable[bytes],
    hours: Iterable[int],
    *,
    seed: int,
    shard_count: int,
) -> list[int]:
    """Tell each flow's shard: xxh3_64(src_app, dest_app, vpc_id, day; seed) mod `shard_count`.

    Args:
        src: the src_app of each flow, prefixed.
        dest: the dest_app of each flow, prefixed.
        vpc: the vpc_id of each flow, prefixed.
        hours: the hour of each flow, 0 … 2**32 - 1.
        seed: the data directory's, 0 … 2**64 - 1.
        shard_count: 1 … 64.

    Returns:
        A shard number, 0 … shard_count - 1, for each flow.
    """
    keys = map(b"".join, zip(src, dest, vpc, map(_Days().__getitem__, hours), strict=True))
    hashes = map(xxhash.xxh3_64_intdigest, keys, repeat(seed))
    return [value % shard_count for value in hashes]


def row_digest(key: bytes, bytes_tx: int, bytes_rx: int) -> int:
    """Give one row's part of a digest, not yet reduced modulo 2**128.

    Args:
        key: prefixed src_app, dest_app and vpc_id, one behind the other.
        bytes_tx: the row's sum.
        bytes_rx: the row's sum.
    """
    return (
        xxhash.xxh3_128_intdigest(key, 1) * bytes_tx
        + xxhash.xxh3_128_intdigest(key, 2) * bytes_rx
        + xxhash.xxh3_128_intdigest(key, 3)
    )


def batch_id(seed: int, principal: bytes, key: bytes, body: bytes) -> int:
    """Name a keyed batch; 0 is kept for batches without a key.

    Args:
        seed: the data directory's, 0 … 2**64 - 1.
        principal: who sent it.
        key: the Idempotency-Key.
        body: the body after decompression.

    Returns:
        xxh3_128 of the three, each behind its length in 8 bytes; 1 … 2**128 - 1.
    """
    state = xxhash.xxh3_128(seed=seed)
    for part in (principal, key, body):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.intdigest() or 1
