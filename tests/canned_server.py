"""A server that answers every connection with the same bytes, however wrong."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class CannedServer:
    """Answers `content` and closes; `targets` are the requests' targets so far."""

    def __init__(self, content: bytes) -> None:
        self.targets: list[str] = []
        self._content = content
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # which ends accept
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                head = connection.recv(65_536)
                while head.startswith(b"GET ") and not head.endswith(b"\r\n\r\n"):
                    head += connection.recv(65_536)
                if head.startswith(b"GET "):
                    self.targets.append(head.split(b" ")[1].decode())
                with contextlib.suppress(ConnectionError):  # the client may have enough
                    connection.sendall(self._content)


@contextlib.contextmanager
def canned_server(content: bytes) -> Iterator[CannedServer]:
    server = CannedServer(content)
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
