"""The other end of a socket is known by its user."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from flowd.peer_credentials import is_same_user


def test_a_process_of_this_user_is_told_as_such() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_same_user(ours)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_is_told_as_such() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listening:
        path = Path(directory) / "s"
        listening.bind(str(path))
        Path(directory).chmod(0o755)
        path.chmod(0o666)
        listening.listen()
        child = os.fork()  # an interpreter of its own may be out of reach for that user
        if child == 0:
            os.setuid(65534)
            connecting = socket.socket(socket.AF_UNIX)
            connecting.connect(str(path))
            os._exit(len(connecting.recv(1)))
        connection, _ = listening.accept()
        with connection:
            assert not is_same_user(connection)
        assert os.waitpid(child, 0)[1] == 0
