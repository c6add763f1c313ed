"""Tells systemd how the service is: sd_notify, without its library.

A datagram of `NAME=value` lines to the UNIX socket that systemd names. Without one every call does
nothing, so that callers need not know whether they run under systemd. A notification that cannot be
delivered is dropped: it must never stop the service. Those that are said only once are worth a
short wait. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import socket
from collections.abc import Mapping
from typing import Final, Self

SOCKET_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""The variables that are for this process alone and must not reach its children."""

_MICROSECONDS = 1_000_000
_PATIENCE_SECONDS = 1.0


class Notifier:
    """Sends notifications to the service manager.

    Args:
        address: path of the manager's datagram socket, a leading `@` for an abstract one; None for
            no manager.
        watchdog_seconds: how long the manager waits for a sign of life; None when it does not.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self.watchdog_seconds = watchdog_seconds

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> Self:
        """Read what systemd put in the environment of the process `pid`."""
        address = environ.get("NOTIFY_SOCKET")
        if address is None or not address.startswith(("/", "@")):
            return cls(None)
        interval = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        if not interval.isdecimal() or int(interval) == 0 or not is_ours:
            return cls(address)
        return cls(address, int(interval) / _MICROSECONDS)

    def ready(self) -> None:
        """Say that start-up is over."""
        self._send("READY=1", _PATIENCE_SECONDS)

    def stopping(self) -> None:
        """Say that the service has begun to stop."""
        self._send("STOPPING=1", _PATIENCE_SECONDS)

    def status(self, text: str) -> None:
        """Set the one line that `systemctl status` shows."""
        self._send("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for this much time from now to finish starting or stopping."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * _MICROSECONDS)}")

    def _send(self, message: str, patience_seconds: float = 0.0) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(patience_seconds)
            try:
                sender.sendto(message.encode(), address)
            except OSError:
                return  # the manager is gone or busy: the service goes on
