"""Many appends, one fdatasync: a store's blocking work on one I/O thread beside the loop.

Appends that arrive while a group is being written wait for the next group; each is answered when
its own group is durable and applied, in the order of LSNs. The I/O thread does all file work of the
process, one call at a time: groups, checkpoints, looks at the disk. A poisoned log ends the process
through `on_fatal`: no waiter is ever told of a success that is not on disk. Nothing here is
cancelled when a client goes away.
"""

import asyncio
import errno
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from flowd.errors import WalFull
from flowd.logs import get_logger
from flowd.metrics import WorkerMetrics
from flowd.protocol import AppendHeader
from flowd.store import Checkpointer, Group, Staged, Store

_RETRY_SECONDS = 1.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_T = TypeVar("_T")

log = get_logger()


class GroupCommit:
    """The only writer of a store while it serves.

    Args:
        store: opened; nobody else may stage, write or checkpoint it from now on.
        metrics: the worker's.
        sync_interval_seconds: how often to sync; None syncs every group, as the store is configured
        to.
        on_fatal: called at most once, on the loop, with what broke the log or a task of this class;
            must end the process.
    """

    def __init__(
        self,
        store: Store,
        metrics: WorkerMetrics,
        *,
        sync_interval_seconds: float | None,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._sync_interval_seconds = sync_interval_seconds
        self._on_fatal = on_fatal
        self._io = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flowd-io")
        self._waiting: dict[int, list[Callable[[], None]]] = {}
        self._wake = asyncio.Event()
        self._draining = False
        self._checkpoint_not_before = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start committing; called once, on the running loop."""
        self._spawn(self._commit_groups())
        self._spawn(self._look_at_disk())
        self._spawn(self._checkpoint_when_due())
        if self._sync_interval_seconds is not None:
            self._spawn(self._sync_at_intervals(self._sync_interval_seconds))

    def submit(self, header: AppendHeader, frame: bytes, done: Callable[[Staged], None]) -> None:
        """Append, and call `done` once it is durable and applied.

        Args:
            header: what batch it is part of.
            frame: this shard's flows.
            done: called on the loop, at once for a batch that is stored already.

        Raises:
            FrameError: the frame is malformed; nothing was appended and `done` will not be called.
        """
        staged = self._store.stage(header, frame)
        if staged.lsn <= self._store.applied_lsn:
            done(staged)
            return
        self._waiting.setdefault(staged.lsn, []).append(lambda: done(staged))
        self._wake.set()

    async def drain(self) -> None:
        """Commit what is staged, sync, close the store; returns when the disk has all of it."""
        self._draining = True
        self._wake.set()
        committing, *others = self._tasks
        await committing
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._on_io_thread(self._store.close)
        self._io.shutdown(wait=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._check_ended)
        self._tasks.append(task)

    def _check_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_fatal(error)

    async def _on_io_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._io, call)

    async def _commit_groups(self) -> None:
        loop = asyncio.get_running_loop()
        store = self._store
        while True:
            group = store.take()
            if group is None:
                if self._draining:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            before = store.written_bytes
            while True:
                try:
                    await loop.run_in_executor(self._io, store.write, group)
                    break
                except WalFull as error:
                    log.warning("wal_full", error=str(error), batches=len(group.batches))
                    if self._draining:
                        return  # none of it was acknowledged
                    await asyncio.sleep(_RETRY_SECONDS)
            store.apply(group)
            self._count(group, store.written_bytes - before)
            for batch in group.batches:
                for done in self._waiting.pop(batch.lsn, ()):
                    done()

    def _count(self, group: Group, written_bytes: int) -> None:
        metrics = self._metrics
        metrics.group_commit_batches.observe(len(group.batches))
        metrics.wal_written_bytes.inc(written_bytes)
        metrics.flows_appended.inc(sum(batch.flows for batch in group.batches))
        if self._sync_interval_seconds is None:
            metrics.wal_sync_seconds.observe(self._store.sync_seconds)

    async def _sync_at_intervals(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._on_io_thread(self._store.sync)
            self._metrics.wal_sync_seconds.observe(self._store.sync_seconds)

    async def _look_at_disk(self) -> None:
        was_writable = self._store.writable
        while True:
            writable = await self._on_io_thread(self._store.check_space)
            if writable != was_writable:
                log.warning("disk_has_room" if writable else "disk_full")
                was_writable = writable
            await asyncio.sleep(_RETRY_SECONDS)

    async def _checkpoint_when_due(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            if self._store.checkpoint_due and time.monotonic() >= self._checkpoint_not_before:
                await self._checkpoint()

    async def _checkpoint(self) -> None:
        started = time.monotonic()
        run = self._store.begin_checkpoint()
        try:
            await self._write_checkpoint(run)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            await self._on_io_thread(run.remove_written)
            run.abandon()
            self._checkpoint_not_before = time.monotonic() + 60 * _RETRY_SECONDS
            log.warning("checkpoint_abandoned", error=str(error))
            return
        seconds = time.monotonic() - started
        self._metrics.checkpoint_seconds.observe(seconds)
        log.info("checkpoint", seconds=round(seconds, 3), rows=self._store.shard.rows)

    async def _write_checkpoint(self, run: Checkpointer) -> None:
        loop = asyncio.get_running_loop()
        while (dump := run.next_block()) is not None:
            await loop.run_in_executor(self._io, run.write_block, dump)
        await self._on_io_thread(run.finish)
