"""What supervisor and child tell each other: one JSON object a line, over a socket pair.

Down goes one line, the assignment; then nothing, and its end means that the supervisor is gone. Up
go events: a beat each second from the child's loop, progress while it replays, ready once, failed
before it gives up. Pure; `child` and `supervisor` do the reading and writing.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec

from flowd.config import Config
from flowd.data_directory import Identity
from flowd.errors import ProtocolError

BEAT_SECONDS: Final = 1.0
"""How often a child's loop says that it runs."""

EXIT_CONFIG: Final = 78
"""The exit status of a child that would fail the same way again (EX_CONFIG of sysexits.h)."""

LINE_BYTES_MAX: Final = 64 * 1024

KernelName = Literal["native", "reference"]
Role = Literal["worker", "router"]
Event = Literal["beat", "progress", "ready", "failed"]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a child needs to know.

    Attributes:
        role: what to be.
        index: which one: a worker's shard, a router's number.
        config: the settings.
        data_dir: the data directory, absolute.
        identity: of the data directory.
        runtime_dir: where the sockets are, absolute.
        boot: the supervisor's random token, by which routers know the workers of their own flowd.
        kernel: the kernel to load, already chosen.
        listen_descriptor: the inherited listening socket, routers only.
    """

    role: Role
    index: int
    config: Config
    data_dir: str
    identity: Identity
    runtime_dir: str
    boot: str
    kernel: KernelName
    listen_descriptor: int | None = None

    @property
    def process(self) -> str:
        """What this process is called in log events and metrics."""
        return f"{self.role}-{self.index}"

    @property
    def data_path(self) -> Path:
        """The data directory."""
        return Path(self.data_dir)

    @property
    def runtime_path(self) -> Path:
        """The runtime directory."""
        return Path(self.runtime_dir)


class ChildEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from a child.

    Attributes:
        event: what happened.
        detail: how far the replay is, or why the child gives up.
    """

    event: Event
    detail: str = ""


def encode_line(message: Assignment | ChildEvent) -> bytes:
    """Write a message as one line."""
    return msgspec.json.encode(message) + b"\n"


def decode_assignment(line: bytes) -> Assignment:
    """Read the line that a child is given.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return msgspec.json.decode(line, type=Assignment)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"no assignment on the control channel: {error}") from None


def decode_event(line: bytes) -> ChildEvent:
    """Read a line from a child.

    Raises:
        ProtocolError: it is no event.
    """
    try:
        return msgspec.json.decode(line, type=ChildEvent)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"no event on the control channel: {error}") from None
