import struct

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from flowd.kernel import Kernel
from flowd.kernel.hashing import prefixed, row_digest, shard_numbers
from tests.kernel.material import make_flow, make_table


def test_a_batch_id_tells_all_its_parts_apart(kernel: Kernel) -> None:
    parts = [
        (1, b"p", b"key", b"body"),
        (2, b"p", b"key", b"body"),
        (1, b"pk", b"ey", b"body"),
        (1, b"p", b"keyb", b"ody"),
        (1, b"p", b"key", b"bod"),
        (1, b"", b"", b""),
    ]
    ids = {kernel.batch_id(*part) for part in parts}
    assert len(ids) == len(parts)
    assert all(0 < number < 2**128 for number in ids)
    assert kernel.batch_id(*parts[0]) == kernel.batch_id(*parts[0])


def test_a_batch_id_is_xxh3_128_of_its_parts_behind_their_lengths(kernel: Kernel) -> None:
    data = b"".join(struct.pack("<Q", len(part)) + part for part in (b"me", b"key", b"[]"))
    assert kernel.batch_id(7, b"me", b"key", b"[]") == xxhash.xxh3_128_intdigest(data, 7)


@given(
    names=st.lists(st.binary(min_size=1, max_size=256), min_size=3, max_size=3),
    hour=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 2**64 - 1),
    shard_count=st.integers(1, 64),
)
def test_a_shard_is_xxh3_64_of_the_names_and_the_day(
    names: list[bytes], hour: int, seed: int, shard_count: int
) -> None:
    data = b"".join(struct.pack("<H", len(name)) + name for name in names)
    data += struct.pack("<I", hour // 24)
    columns = [[prefixed(name)] for name in names]
    found = shard_numbers(*columns, [hour], seed=seed, shard_count=shard_count)
    assert found == [xxhash.xxh3_64_intdigest(data, seed) % shard_count]


def test_a_digest_adds_three_hashes_of_the_key(kernel: Kernel) -> None:
    key = b"\x03\0foo\x03\0bar\x05\0vpc-0"
    h1, h2, h3 = (xxhash.xxh3_128_intdigest(key, seed) for seed in (1, 2, 3))
    assert row_digest(key, 100, 500) == h1 * 100 + h2 * 500 + h3
    table = make_table(kernel, [make_flow(tx=100, rx=500)])
    assert table.digest() == (h1 * 100 + h2 * 500 + h3) % 2**128
