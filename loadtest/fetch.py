"""One GET, timed, its answer read as fast as it comes and dropped."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from loadtest.client import LoadFailure

_READ_BYTES: Final = 256 * 1024
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Fetched:
    """A whole answer to a GET.

    Attributes:
        first_byte_seconds: from the connection's start to the first byte of the answer.
        seconds: from the connection's start to the last byte.
        size_bytes: head and body as they came.
    """

    first_byte_seconds: float
    seconds: float
    size_bytes: int


async def fetch(host: str, port: int, target: str) -> Fetched:
    """GET a path with its query, reading and dropping the answer as fast as it comes.

    Raises:
        LoadFailure: the answer was not a 200, or not whole.
    """
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: flowd\r\nConnection: close\r\n\r\n".encode())
        data = await reader.read(_READ_BYTES)
        first_byte = time.perf_counter()
        if not data.startswith(b"HTTP/1.1 200"):
            raise LoadFailure(f"GET {target}: {data[:2_000].decode(errors='replace')}")
        chunked = b"transfer-encoding: chunked" in data.lower()
        size_bytes, end = 0, b""
        while data:
            size_bytes += len(data)
            end = (end + data)[-len(_LAST_CHUNK) :]
            data = await reader.read(_READ_BYTES)
        if chunked and end != _LAST_CHUNK:
            raise LoadFailure(f"GET {target}: cut off after {size_bytes:,} bytes")
        return Fetched(first_byte - started, time.perf_counter() - started, size_bytes)
    finally:
        writer.close()
