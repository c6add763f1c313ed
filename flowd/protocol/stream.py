"""A stream of bytes to messages and back, however the stream is chunked; see `flowd.protocol`."""

import struct
from enum import IntEnum
from typing import Final

import msgspec

from flowd.errors import ProtocolError

PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""The longest payload; a longer one is garbage or a mistake, found before it is read."""

_HEADER = struct.Struct("<IIQ")  # the type and its zero bytes as one u32


class MessageType(IntEnum):
    """What a message is; beside each request the type of its answer."""

    HELLO = 1
    STATUS = 2
    APPEND = 3  # APPENDED
    APPENDED = 4
    PROBE = 5  # PROBED
    PROBED = 6
    QUERY = 7  # PAGE
    PAGE = 8
    BUCKETS = 9  # BUCKET_SUMS
    BUCKET_SUMS = 10
    METRICS = 11  # SNAPSHOT
    SNAPSHOT = 12
    PING = 13  # PONG
    PONG = 14
    FAILED = 15  # to any request


_TYPES: Final = {int(member): member for member in MessageType}


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message; `request_id` is 0 for what was sent unasked."""

    type: MessageType
    request_id: int
    payload: bytes


def encode(
    type: MessageType, request_id: int, *parts: bytes | memoryview
) -> list[bytes | memoryview]:
    """Make a message.

    Args:
        type: what it is.
        request_id: the request it is or answers, 0 … 2**64 - 1.
        parts: the payload, in pieces, so that a big frame is not copied.

    Returns:
        Buffers to send one behind the other.

    Raises:
        ProtocolError: the payload is over PAYLOAD_BYTES_MAX.
    """
    length = 0
    for part in parts:
        length += len(part)
    if length > PAYLOAD_BYTES_MAX:
        raise _too_long(type, length)
    return [_HEADER.pack(length, type, request_id), *parts]


class Decoder:
    """Cuts a stream into messages.

    The cost is linear in the bytes fed, however small the chunks; what is held is at most one
    unfinished message, as far as it came.
    """

    def __init__(self) -> None:
        self._unfinished = bytearray()
        self._wanted = _HEADER.size  # length of the unfinished message, as far as it is known

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes of the stream.

        Args:
            data: any number of bytes.

        Returns:
            The messages that these bytes completed.

        Raises:
            ProtocolError: this is not the protocol; the decoder is of no use any more.
        """
        messages: list[Message] = []
        offset = self._finish(data, messages) if self._unfinished else 0
        end = len(data)
        while end - offset >= _HEADER.size:
            length, type_number, request_id = _HEADER.unpack_from(data, offset)
            message_type = _TYPES.get(type_number)
            if message_type is None or length > PAYLOAD_BYTES_MAX:
                raise _bad_header(type_number, length)
            start = offset + _HEADER.size
            if end - start < length:
                self._wanted = _HEADER.size + length
                break
            offset = start + length
            messages.append(Message(message_type, request_id, data[start:offset]))
        if offset < end:
            self._unfinished += data[offset:]
        return messages

    def _finish(self, data: bytes, messages: list[Message]) -> int:
        """Add to the unfinished message; return how many bytes of `data` it took."""
        unfinished = self._unfinished
        taken = 0
        if len(unfinished) < _HEADER.size:
            taken = min(_HEADER.size - len(unfinished), len(data))
            unfinished += data[:taken]
            if len(unfinished) < _HEADER.size:
                return taken
            length, type_number, _ = _HEADER.unpack_from(unfinished)
            if type_number not in _TYPES or length > PAYLOAD_BYTES_MAX:
                raise _bad_header(type_number, length)
            self._wanted = _HEADER.size + length
        start = taken
        taken = min(start + self._wanted - len(unfinished), len(data))
        unfinished += data[start:taken]
        if len(unfinished) == self._wanted:
            _, type_number, request_id = _HEADER.unpack_from(unfinished)
            with memoryview(unfinished) as view:
                payload = bytes(view[_HEADER.size :])
            messages.append(Message(_TYPES[type_number], request_id, payload))
            self._unfinished = bytearray()
        return taken


def _bad_header(type_number: int, length: int) -> ProtocolError:
    message_type = _TYPES.get(type_number)
    if message_type is None:
        return ProtocolError(f"a message of unknown type {type_number:#x}")
    return _too_long(message_type, length)


def _too_long(type: MessageType, length: int) -> ProtocolError:
    return ProtocolError(
        f"{type.name} of {length:,} bytes; at most {PAYLOAD_BYTES_MAX:,} are allowed"
    )
