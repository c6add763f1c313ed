"""Who is at the other end of a UNIX socket, as the kernel of the system says: see unix(7)."""

import os
import socket
import struct
from typing import Final

_UCRED: Final = struct.Struct("3i")  # pid, uid, gid


def is_same_user(connection: socket.socket) -> bool:
    """Tell whether the process that connected, or was connected to, runs as this one's user."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return bool(_UCRED.unpack(credentials)[1] == os.getuid())
