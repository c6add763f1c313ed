"""The other end of a socket is known by its user."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flowd.peer_credentials import is_same_user


def test_a_process_of_this_user_is_told_as_such() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_same_user(ours)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_is_told_as_such(tmp_path: Path) -> None:
    path = Path("/tmp") / f"flowd-peer-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        try:
            path.chmod(0o666)
            listening.listen()
            program = (
                f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r}); input()"
            )
            other = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE, user=65534
            )
            connection, _ = listening.accept()
            with connection:
                assert not is_same_user(connection)
            other.communicate(b"\n")
        finally:
            path.unlink()
