"""The one listening socket, which all routers inherit.

Loopback alone, unless told: whoever reaches the socket may read and write, as nobody is asked who
they are.
"""

import errno
import ipaddress
import socket
import time
from typing import Final

from flowd.config import Config, parse_listen
from flowd.errors import ConfigError, FlowdError

BACKLOG: Final = 1_024
"""Connections that wait while the routers are busy or one is being restarted."""

_POLL_SECONDS = 0.02


class Listener:
    """A bound and listening socket.

    Args:
        listening: the socket.
        is_loopback: whether only this machine reaches it.
    """

    def __init__(self, listening: socket.socket, is_loopback: bool) -> None:
        self.socket = listening
        self.is_loopback = is_loopback

    @property
    def address(self) -> str:
        """HOST:PORT as a URL has it, with the real port."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if self.socket.family == socket.AF_INET6 else f"{host}:{port}"

    def close(self) -> None:
        """Close this process's copy; those who inherited it go on."""
        self.socket.close()


def check_listen(config: Config) -> tuple[socket.AddressFamily, tuple[str, int], bool]:
    """Find the address to listen on, and whether it is loopback.

    Raises:
        ConfigError: it is not loopback, and `insecure` is not set.
        FlowdError: the host's name cannot be looked up.
    """
    host, port = parse_listen(config.listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no host's name"
        raise FlowdError(
            f"listen = {config.listen}: {host} cannot be looked up: {reason}"
        ) from error
    family, _, _, _, address = found[0]
    literal = str(address[0])
    is_loopback = ipaddress.ip_address(literal.partition("%")[0]).is_loopback
    if not is_loopback and not config.insecure:
        raise ConfigError(
            f"listen = {config.listen}: not a loopback address, and flowd does not ask clients who "
            "they are; listen on 127.0.0.1 behind a proxy that does, or set insecure = true "
            "(--insecure)"
        )
    return family, (literal, port), is_loopback


def open_listener(config: Config, patience_seconds: float = 3.0) -> Listener:
    """Bind and listen where the configuration says.

    Args:
        config: the settings.
        patience_seconds: how long to wait for an address in use: the routers of a supervisor that
            was killed hold it for a moment longer than it lived.

    Raises:
        ConfigError: flowd may not listen there.
        FlowdError: the address is in use or cannot be had.
    """
    family, address, is_loopback = check_listen(config)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return Listener(_listen(family, address), is_loopback)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise FlowdError(f"cannot listen on {config.listen}: {error.strerror}") from error
        time.sleep(_POLL_SECONDS)


def _listen(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
