"""A client that shows what really came over the wire, incomplete bodies included."""

import asyncio
import json
from typing import Any, NamedTuple, Self


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        assert self.headers["content-type"] == "application/problem+json"
        problem = self.json
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["x-request-id"]
        assert problem["type"].startswith("urn:flowd:problem:")
        detail = problem["detail"]
        assert isinstance(detail, str)
        return detail

    @property
    def problem(self) -> str:
        """The kind of problem, after the common part of its type."""
        kind = self.json["type"]
        assert isinstance(kind, str)
        return kind.removeprefix("urn:flowd:problem:")


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.writer.close()

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        await self.send(request_bytes(method, target, body, headers))
        return await self.reply(method)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, method: str = "GET") -> Reply:
        """Read one answer; interim ones (1xx) are told as such."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        body, complete = await asyncio.wait_for(self._body(method, int(status), headers), 20)
        return Reply(int(status), headers, body, complete)

    async def _body(self, method: str, status: int, headers: dict[str, str]) -> tuple[bytes, bool]:
        if method == "HEAD" or status < 200 or status == 204:
            return b"", True
        try:
            if headers.get("transfer-encoding") == "chunked":
                return await self._chunks()
            if "content-length" in headers:
                return await self.reader.readexactly(int(headers["content-length"])), True
            return await self.reader.read(), True
        except asyncio.IncompleteReadError as error:
            return error.partial, False
        except ConnectionError:
            return b"", False

    async def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            try:
                size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
                part = (await self.reader.readexactly(size + 2))[:-2]
            except (asyncio.IncompleteReadError, ConnectionError):
                return body, False
            if size == 0:
                return body, True
            body += part

    async def closed(self) -> bytes:
        """Wait until the server closes, and give what came until then."""
        try:
            return await asyncio.wait_for(self.reader.read(), 20)
        except ConnectionError:
            return b""


def request_bytes(
    method: str,
    target: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> bytes:
    fields = {"Host": "flowd"}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + (
        body or b""
    )
