"""Keeps one connection to one worker, for as long as it takes, and sends requests on it.

A request is refused, with nothing sent, while the worker is away, silent, or owes too many
answers. Once an append may have left this process and no answer came, it is OutcomeUnknown.
Cancelling a wait does not take a request back.
"""

import asyncio
import random
import socket
from pathlib import Path
from typing import Final

from flowd.errors import Overloaded, ProtocolError, ShardUnavailable, TooLarge
from flowd.logs import get_logger
from flowd.peer_credentials import is_same_user
from flowd.protocol import (
    FRAME_BYTES_MAX,
    PROTOCOL_VERSION,
    Appended,
    AppendHeader,
    BucketsRequest,
    BucketSums,
    Hello,
    MessageType,
    Page,
    QueryRequest,
    Status,
    pack,
    pack_append,
    unpack_appended,
    unpack_bucket_sums,
    unpack_page,
    unpack_probed,
)
from flowd.worker_client.connection import Connection, Patience

_RECONNECT_SECONDS_MIN: Final = 0.05
_RECONNECT_SECONDS_MAX: Final = 0.25

_APPEND: Final = MessageType.APPEND  # looking it up in its enum takes longer than to use it

log = get_logger()


class WorkerClient:
    """Keeps one connection to one worker; used from one loop.

    Args:
        path: the worker's socket.
        shard: the shard it must serve.
        shard_count: of how many.
        boot: the token of the supervisor that must have started it.
        patience: time limits and credit.
    """

    def __init__(
        self,
        path: Path,
        *,
        shard: int,
        shard_count: int,
        boot: str,
        patience: Patience | None = None,
    ) -> None:
        self.shard = shard
        self.status = Status(writable=False)
        """What the worker last said; kept while it is away."""
        self._path = path
        self._shard_count = shard_count
        self._boot = boot
        self._patience = patience or Patience()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""

    @property
    def connected(self) -> bool:
        """Whether the worker is there, is the right one and speaks."""
        connection = self._connection
        return connection is not None and connection.usable

    def start(self) -> None:
        """Connect, and reconnect for as long as it takes; returns at once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def close(self) -> None:
        """Disconnect; what is unanswered fails as if the worker had gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def check(self, frame_bytes: int) -> None:
        """Raise what `append` of a frame of that length would raise now; sends nothing.

        As long as the caller does not await, an append after it cannot be refused.
        """
        self._connection_for(frame_bytes)

    def append(self, header: AppendHeader, frame: bytes) -> asyncio.Future[Appended]:
        """Send one shard's part of a batch.

        Args:
            header: the batch.
            frame: this shard's flows, at most FRAME_BYTES_MAX.

        Returns:
            The acknowledgement to come. Raises when awaited: OutcomeUnknown, when the worker went
            or took too long; FrameError, when the worker found the frame malformed.

        Raises:
            ShardUnavailable: the worker is not there; nothing was sent, as with the others.
            Overloaded: it owes too many acknowledgements.
            TooLarge: the frame fits no message.
        """
        connection = self._connection_for(len(frame))
        return connection.request(_APPEND, unpack_appended, len(frame), pack_append(header), frame)

    def probe(self, frame: bytes) -> asyncio.Future[int]:
        """Ask how many rows a frame would make; errors as of `append`, but OutcomeUnknown."""
        connection = self._connection_for(len(frame))
        return connection.request(MessageType.PROBE, unpack_probed, len(frame), frame)

    def query(self, request: QueryRequest) -> asyncio.Future[Page]:
        """Ask for rows.

        Returns:
            The page to come; raises ShardUnavailable when awaited and the worker went.

        Raises:
            ShardUnavailable: the worker is not there.
        """
        connection = self._connection_for(0)
        return connection.request(MessageType.QUERY, unpack_page, 0, pack(request))

    def buckets(self, *, digest: bool) -> asyncio.Future[list[BucketSums]]:
        """Ask for the sums of every bucket; errors as those of `query`."""
        connection = self._connection_for(0)
        request = pack(BucketsRequest(digest))
        return connection.request(MessageType.BUCKETS, unpack_bucket_sums, 0, request)

    def _connection_for(self, frame_bytes: int) -> Connection:
        connection = self._connection
        if connection is None or not connection.usable:
            raise ShardUnavailable((self.shard,), f"shard {self.shard} is not available")
        if frame_bytes:
            if frame_bytes > FRAME_BYTES_MAX:
                raise TooLarge(
                    f"a shard's part of the batch takes {frame_bytes:,} bytes; send less"
                )
            unanswered = connection.unanswered_bytes
            # One frame over the bound passes when it is alone, or it would never pass.
            if unanswered and unanswered + frame_bytes > self._patience.unanswered_bytes:
                raise Overloaded("backpressure", f"shard {self.shard} cannot keep up; retry later")
        return connection

    async def _stay_connected(self) -> None:
        delay_seconds = _RECONNECT_SECONDS_MIN
        while True:
            try:
                await self._stay_connected_once()
                delay_seconds = _RECONNECT_SECONDS_MIN
            except (OSError, ProtocolError) as error:
                self._note(error)
            # Jitter, so that many routers do not meet a new worker all at once.
            await asyncio.sleep(delay_seconds * random.uniform(0.5, 1.0))
            delay_seconds = min(2 * delay_seconds, _RECONNECT_SECONDS_MAX)

    async def _stay_connected_once(self) -> None:
        """Connect; return when a connection that was in use is lost."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(
            lambda: Connection(self.shard, self._patience, self._check_hello, self._take_status),
            sock=await self._open_socket(),
        )
        try:
            async with asyncio.timeout(self._patience.connect_seconds):
                await connection.greeted
            self._connection = connection
            self._trouble = ""
            log.info("worker_connected", shard=self.shard)
            await connection.lost.wait()
            log.warning("worker_lost", shard=self.shard)
        finally:
            self._connection = None
            connection.end()
            await connection.lost.wait()

    async def _open_socket(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(self._path))
            if not is_same_user(sock):
                raise ProtocolError(f"{self._path} is served by a process of another user")
        except BaseException:
            sock.close()
            raise
        return sock

    def _note(self, error: Exception) -> None:
        """Log why there is no connection, once for each new reason."""
        trouble = str(error) or type(error).__name__
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("worker_unavailable", shard=self.shard, reason=trouble)

    def _check_hello(self, hello: Hello) -> None:
        expected = (PROTOCOL_VERSION, self._boot, self.shard, self._shard_count)
        if (hello.version, hello.boot, hello.shard, hello.shard_count) != expected:
            raise ProtocolError(
                f"{self._path} is served by shard {hello.shard} of {hello.shard_count}, protocol"
                f" {hello.version}, boot {hello.boot}; wanted shard {self.shard} of"
                f" {self._shard_count}, protocol {PROTOCOL_VERSION}, boot {self._boot}"
            )

    def _take_status(self, status: Status) -> None:
        self.status = status
