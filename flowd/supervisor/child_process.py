"""One life of one child: exec, the control channel, signals, the end.

The child is in a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone,
which then drains in order. Knows nothing of restarts.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Self

from flowd.control import LINE_BYTES_MAX, Assignment, ChildEvent, decode_event, encode_line
from flowd.errors import ProtocolError
from flowd.sdnotify import SOCKET_VARIABLES


class ChildProcess:
    """A running child.

    Args:
        process: the process.
        reader: what the child says.
        writer: held open as long as the child may live: its end makes the child exit.

    Attributes:
        last_sign: when the child last gave a sign of life, in monotonic seconds.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.last_sign = time.monotonic()

    @classmethod
    async def start(
        cls, command: Sequence[str], assignment: Assignment, environ: Mapping[str, str]
    ) -> Self:
        """Start a child and tell it what to be.

        Args:
            command: the program; role, index and the control channel's descriptor are appended.
            assignment: what to be.
            environ: the child's environment.

        Raises:
            OSError: no process or descriptor could be had.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            inherited = [theirs.fileno()]
            if assignment.listen_descriptor is not None:
                inherited.append(assignment.listen_descriptor)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    assignment.role,
                    str(assignment.index),
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=inherited,
                    env=environ,
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        writer.write(encode_line(assignment))
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def events(self) -> AsyncIterator[ChildEvent]:
        """Give what the child says, to its end.

        Raises:
            ProtocolError: it said something else.
        """
        while True:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return  # the child died before it had read its assignment
            except ValueError:
                raise ProtocolError(f"a line of over {LINE_BYTES_MAX} bytes") from None
            if not line.endswith(b"\n"):
                return
            self.last_sign = time.monotonic()
            yield decode_event(line)

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal the child; one that is gone is left alone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signum)

    async def wait(self) -> int:
        """Wait for the exit; gives its status, or the signal that ended it as a negative number."""
        return await self._process.wait()

    def close(self) -> None:
        """Close the control channel."""
        self._writer.close()


def describe_exit(status: int) -> str:
    """Say how a process ended, for people."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def child_environment(environ: Mapping[str, str], search_path: Iterable[str]) -> dict[str, str]:
    """Make a child's environment: the supervisor's, but for what systemd meant for it alone.

    Args:
        environ: the supervisor's.
        search_path: its `sys.path`: children import flowd from where the supervisor did.
    """
    inherited = {name: value for name, value in environ.items() if name not in SOCKET_VARIABLES}
    return inherited | {"PYTHONPATH": os.pathsep.join(entry for entry in search_path if entry)}
