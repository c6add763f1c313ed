"""The private directory of the sockets on which flowd's processes find each other.

Whoever may open these sockets may read and write everything, so the directory must be ours alone:
made 0700, and refused when it is anything else. One flowd has it at a time. Nothing in it outlives
its flowd, so all of it is removed at start.
"""

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final, Self

from flowd.errors import ConfigError, FlowdError
from flowd.filesystem import DirectoryLock
from flowd.flow import SHARDS_MAX

LISTEN_NAME: Final = "listen"
"""The file that tells HOST:PORT once flowd serves; with port 0 only it and the log do."""

SOCKET_PATH_BYTES_MAX: Final = 100
"""A UNIX socket's path has 108 bytes on Linux; some are left for temporary names."""


def worker_socket(directory: Path, shard: int) -> Path:
    """Tell where a worker listens."""
    return directory / f"worker-{shard}.sock"


def router_socket(directory: Path, router: int) -> Path:
    """Tell where a router gives its metrics."""
    return directory / f"router-{router}.sock"


def supervisor_socket(directory: Path) -> Path:
    """Tell where the supervisor gives its metrics."""
    return directory / "supervisor.sock"


class RuntimeDirectory:
    """A runtime directory that this process owns.

    Args:
        path: where it is, absolute.
        lock: what keeps every other flowd out.
    """

    def __init__(self, path: Path, lock: DirectoryLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, configured: str, data_dir: Path) -> Self:
        """Make the directory, or take it over from a flowd that is gone.

        Args:
            configured: the setting `runtime_dir`; "" for a place named after the data directory.
            data_dir: the data directory, absolute.

        Raises:
            ConfigError: others could get at it, or its path is too long for sockets.
            FlowdError: another flowd has it, or it cannot be made.
        """
        path = Path(configured).absolute() if configured else _default_path(data_dir)
        longest = len(os.fsencode(supervisor_socket(path))) + len(str(SHARDS_MAX))
        if longest > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(
                f"{path}: {longest - SOCKET_PATH_BYTES_MAX} bytes too long for the sockets in it; "
                "set runtime_dir to a shorter path"
            )
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A link where anybody may lay one can be a trap; one that was asked for is not.
            _check_private(path, path.stat() if configured else path.lstat())
            lock = DirectoryLock.acquire(path / "LOCK")
            if lock is None:
                raise FlowdError(f"{path}: another flowd is running on this runtime directory")
            for leftover in (*path.glob("*.sock"), path / LISTEN_NAME):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise FlowdError(f"{path}: cannot be used as runtime_dir: {error.strerror}") from error
        return cls(path, lock)

    def tell_address(self, address: str | None) -> None:
        """Write where flowd listens for those who must find it; None when it no longer does."""
        target = self.path / LISTEN_NAME
        if address is None:
            target.unlink(missing_ok=True)
            return
        temporary = self.path / f"{LISTEN_NAME}.tmp"
        temporary.write_text(address + "\n")
        temporary.replace(target)

    def close(self) -> None:
        """Give the directory up."""
        self._lock.release()


def _default_path(data_dir: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"flowd-{os.geteuid()}-{digest}"


def _check_private(path: Path, found: os.stat_result) -> None:
    """Refuse what others may enter, or have made."""
    mode = found.st_mode & 0o777  # not the group bit, which may be inherited
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or mode != 0o700:
        raise ConfigError(
            f"{path}: must be a directory of user {os.geteuid()} with mode 0700 (it has user "
            f"{found.st_uid}, {stat.filemode(found.st_mode)}); correct it or set runtime_dir"
        )
