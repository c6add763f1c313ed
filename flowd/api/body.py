"""Reads a request's body: bounded in bytes, time and memory, and decompressed.

Room is taken before anything is read, for as much as will be held; the limits of size are checked
before reading where the client says the length, and while reading where it does not.
"""

import asyncio
from typing import Final

from aiohttp import web

from flowd.api.connection import BUFFERED_BYTES_MAX, Connection, Phase
from flowd.api.decoding import BadCoding, ContentCoding, decode_steps
from flowd.api.in_flight import Hold
from flowd.api.problems import MALFORMED_REQUEST, Problem
from flowd.config import LimitsConfig
from flowd.errors import TooLarge

_PARTS_MAX: Final = 256
_STEPS_A_TURN: Final = 4  # about 2 ms, before other requests get their turn


class BodyReader:
    """Reads the bodies of one router.

    Args:
        limits: the whole flowd's.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self._body_bytes_max = limits.body_bytes
        self._decoded_bytes_max = limits.body_decoded_bytes
        # Decoding is bound by the CPU, so that two at once are no faster, but hold two states.
        self._decoding = asyncio.Lock()

    async def read(
        self, request: web.BaseRequest, connection: Connection, coding: ContentCoding, hold: Hold
    ) -> bytes:
        """Read and decode a body.

        Args:
            request: whose.
            connection: what it comes on; in its HANDLER phase before and after.
            coding: how it is compressed.
            hold: the request's part of the bytes in flight; grows by what is returned.

        Returns:
            The content, at most `limits.body_decoded_bytes`.

        Raises:
            TooLarge: it is over a limit of size.
            Overloaded: there is no room for it now.
            Problem: it is malformed.
            ConnectionError: the client went away.
        """
        length = request.content_length
        if length is not None:
            self._check_length(length, coding)
            hold.grow(length)
        payload = request.content
        if length is not None and payload.is_eof():
            body = payload.read_nowait()
        else:
            body = await self._receive(request, connection, coding, hold)
        if coding is ContentCoding.IDENTITY:
            return body
        return await self._decode(body, coding, hold)

    def _check_length(self, length: int, coding: ContentCoding) -> None:
        if length > self._body_bytes_max:
            raise TooLarge(
                f"the body has {length} bytes, over "
                f"limits.body_bytes = {self._body_bytes_max}; send smaller batches"
            )
        if coding is ContentCoding.IDENTITY and length > self._decoded_bytes_max:
            raise TooLarge(self._over_decoded())

    def _over_decoded(self) -> str:
        return (
            f"the decoded body is over limits.body_decoded_bytes = {self._decoded_bytes_max}; "
            "send smaller batches"
        )

    async def _receive(
        self, request: web.BaseRequest, connection: Connection, coding: ContentCoding, hold: Hold
    ) -> bytes:
        if not connection.connected:
            raise ConnectionResetError("the client went away")
        connection.enter(Phase.BODY)
        if request.headers.get("Expect", "").lower() == "100-continue":
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = request.content_length
        try:
            if length is not None and length <= BUFFERED_BYTES_MAX:
                await request.content.wait_eof()
                body = request.content.read_nowait()
            else:
                body = await self._receive_parts(request, coding, hold)
        except web.RequestPayloadError as error:
            raise Problem(
                MALFORMED_REQUEST,
                f"the body's transfer coding is malformed: {error}",
                reason="malformed",
                close=True,
            ) from None
        connection.enter(Phase.HANDLER)
        return body

    async def _receive_parts(
        self, request: web.BaseRequest, coding: ContentCoding, hold: Hold
    ) -> bytes:
        counted = request.content_length is None
        size = 0
        parts: list[bytes] = []
        # A client may send its body byte by byte, so that parts may be all overhead.
        joined = bytearray()
        while part := await request.content.readany():
            size += len(part)
            if counted:
                self._check_length(size, coding)
                hold.grow(len(part))
            parts.append(part)
            if len(parts) == _PARTS_MAX:
                joined += b"".join(parts)
                parts.clear()
        return b"".join((joined, *parts))

    async def _decode(self, body: bytes, coding: ContentCoding, hold: Hold) -> bytes:
        decoded = bytearray()
        async with self._decoding:
            try:
                for step, part in enumerate(decode_steps(body, coding)):
                    if len(decoded) + len(part) > self._decoded_bytes_max:
                        raise TooLarge(self._over_decoded())
                    hold.grow(len(part))
                    decoded += part
                    if step % _STEPS_A_TURN == _STEPS_A_TURN - 1:
                        await asyncio.sleep(0)
            except BadCoding as error:
                raise Problem(MALFORMED_REQUEST, f"{error}", reason="malformed") from None
        hold.shrink(len(body))
        return bytes(decoded)
