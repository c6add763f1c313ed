"""Content codings: gzip and zstd, decoded in steps of bounded size.

What a few bytes turn into may be enormous (zstd: 1 to 32,000), so output is asked for a step at a
time, and the caller stops when it has enough. Input goes in by pieces too: the decoders copy what
they have not used yet, which would be quadratic for a body of many small members.

Pure: no sockets, no clock. Source: RFC 1952; RFC 8878, and RFC 9659 for the window of 8 MiB.
"""

import sys
import zlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

STEP_BYTES: Final = 256 * 1024
"""The most that one step gives."""

MEMBERS_MAX: Final = 4_096
"""The most gzip members or zstd frames in one body; bgzip's blocks of 64 KiB make 1,024."""

WINDOW_LOG_MAX: Final = 23
"""What a zstd frame may ask to remember, 8 MiB: all levels up to 19 are content with that."""


class ContentCoding(StrEnum):
    """How a body is compressed."""

    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


class BadCoding(ValueError):
    """Bytes that are not what their Content-Encoding says; the text is fit for a client."""


def decode_steps(encoded: bytes, coding: ContentCoding) -> Iterator[bytes]:
    """Decompress, a step at a time.

    Args:
        encoded: the body as sent.
        coding: gzip or zstd.

    Yields:
        Up to STEP_BYTES of the content, now and then none.

    Raises:
        BadCoding: the bytes are malformed, end early, or ask for too much memory.
    """
    if coding is ContentCoding.GZIP:
        return _gzip_steps(encoded)
    return _zstd_steps(encoded)


def _gzip_steps(encoded: bytes) -> Iterator[bytes]:
    members = 0
    stream = None
    for piece in _pieces(encoded):
        pending = piece
        # What a full step left behind comes with later input: at the latest, with the checksum.
        while pending:
            if stream is None:
                members = _count_member(members, ContentCoding.GZIP)
                stream = zlib.decompressobj(wbits=_GZIP_WBITS)
            try:
                chunk = stream.decompress(pending, STEP_BYTES)
            except zlib.error as error:
                raise BadCoding(f"malformed gzip: {error}") from None
            if stream.eof:
                pending, stream = stream.unused_data, None
            else:
                pending = stream.unconsumed_tail
            yield chunk
    if stream is not None or not members:
        raise BadCoding("the gzip stream ends early")


def _zstd_steps(encoded: bytes) -> Iterator[bytes]:
    frames = 0
    stream = None
    for piece in _pieces(encoded):
        pending = piece
        full = False  # whether the last step stopped for want of room, so that more may follow
        while pending or full:
            if stream is None:
                frames = _count_member(frames, ContentCoding.ZSTD)
                stream = ZstdDecompressor(options=_ZSTD_OPTIONS)
            try:
                chunk = stream.decompress(pending, STEP_BYTES)
            except ZstdError as error:
                raise BadCoding(
                    f"malformed zstd, or a window over {2**WINDOW_LOG_MAX} bytes: {error}"
                ) from None
            if stream.eof:
                pending, full, stream = stream.unused_data, False, None
            else:
                pending, full = b"", not stream.needs_input
            yield chunk
    if stream is not None or not frames:
        raise BadCoding("the zstd stream ends early")


def _pieces(encoded: bytes) -> Iterator[bytes]:
    if len(encoded) <= _PIECE_BYTES:
        yield encoded
        return
    for start in range(0, len(encoded), _PIECE_BYTES):
        yield encoded[start : start + _PIECE_BYTES]


def _count_member(members: int, coding: ContentCoding) -> int:
    if members == MEMBERS_MAX:
        raise BadCoding(f"more than {MEMBERS_MAX} {coding} streams in one body")
    return members + 1


_PIECE_BYTES = 64 * 1024
_GZIP_WBITS = 31
_ZSTD_OPTIONS: dict[int, int] = {DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
