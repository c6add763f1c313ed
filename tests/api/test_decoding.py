import gzip
import zlib

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.api.decoding import (
    MEMBERS_MAX,
    STEP_BYTES,
    BadCoding,
    ContentCoding,
    decode_steps,
)

GZIP, ZSTD = ContentCoding.GZIP, ContentCoding.ZSTD
ENCODE = {GZIP: gzip.compress, ZSTD: zstd.compress}
CODINGS = pytest.mark.parametrize("coding", [GZIP, ZSTD])


def decode(encoded: bytes, coding: ContentCoding) -> bytes:
    return b"".join(decode_steps(encoded, coding))


@CODINGS
@given(parts=st.lists(st.binary(max_size=1_000), min_size=1, max_size=5), times=st.integers(1, 900))
@settings(max_examples=40, deadline=None)
def test_members_decode_to_what_was_encoded(
    coding: ContentCoding, parts: list[bytes], times: int
) -> None:
    contents = [part * times for part in parts]

    actual = decode(b"".join(ENCODE[coding](content) for content in contents), coding)

    assert actual == b"".join(contents)


@CODINGS
@pytest.mark.parametrize("size", [STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, STEP_BYTES * 4])
@pytest.mark.parametrize("byte", [b" ", b"\0"])
def test_sizes_round_a_step_are_decoded_whole(
    coding: ContentCoding, size: int, byte: bytes
) -> None:
    assert decode(ENCODE[coding](byte * size), coding) == byte * size


@CODINGS
def test_no_step_is_larger_than_promised(coding: ContentCoding) -> None:
    steps = [len(step) for step in decode_steps(ENCODE[coding](bytes(10 * STEP_BYTES)), coding)]

    assert max(steps) <= STEP_BYTES
    assert sum(steps) == 10 * STEP_BYTES


@CODINGS
def test_every_cut_is_noticed(coding: ContentCoding) -> None:
    encoded = ENCODE[coding](b"0123456789" * 10)

    for length in range(len(encoded)):
        with pytest.raises(BadCoding, match="ends early"):
            decode(encoded[:length], coding)


@CODINGS
@given(noise=st.binary(min_size=1, max_size=100))
@settings(max_examples=50, deadline=None)
def test_noise_is_refused_and_nothing_else_is_raised(coding: ContentCoding, noise: bytes) -> None:
    with pytest.raises(BadCoding):
        decode(noise, coding)


@CODINGS
def test_too_many_members_are_refused(coding: ContentCoding) -> None:
    member = ENCODE[coding](b"")

    assert decode(member * MEMBERS_MAX, coding) == b""
    with pytest.raises(BadCoding, match=f"more than {MEMBERS_MAX}"):
        decode(member * (MEMBERS_MAX + 1), coding)


def test_a_bomb_may_be_left_after_its_first_step() -> None:
    steps = decode_steps(zlib.compress(bytes(100_000_000), 9, wbits=31), GZIP)

    assert len(next(steps)) == STEP_BYTES
