"""A durable shard: log, checkpoints, batch ids and recovery round the pure `Shard`.

Invariants: rows change only after their log record is durable; a batch's id and its flows share one
record; next LSN = 1 + the highest in the log or manifest. `stage`, `take` and `apply` are called
from the loop's thread; `write`, `sync` and `check_space` block and are called from the one I/O
thread. `append` and `checkpoint` do all of it in the caller's thread. Knows no sockets and no event
loop.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flowd.config import Config
from flowd.filesystem import FileSystem
from flowd.kernel.interface import Kernel, Slice
from flowd.protocol import AppendHeader
from flowd.shard import Shard
from flowd.store.checkpointer import Checkpointer
from flowd.store.recovery import Recovery, RecoveryReport
from flowd.store.state import BATCH_PREFIX, ShardState
from flowd.wal import LogEntry, LogIdentity, LogWriter, RecordType

__all__ = ["Checkpointer", "Group", "RecoveryReport", "Staged", "Store"]

_DIRTY_ROW_BYTES = 32  # what a row takes in a bucket file, about


@dataclass(frozen=True, slots=True)
class Staged:
    """An append on its way: durable and applied once `Store.applied_lsn` reaches `lsn`."""

    lsn: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class _StagedBatch:
    lsn: int
    header: AppendHeader
    slices: Sequence[tuple[int, Slice]]
    flows: int
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Group:
    """The batches of one group commit, ascending by LSN."""

    batches: list[_StagedBatch]


class Store:
    """One shard and its files, made by `open`.

    Args:
        files: the disk.
        directory: the shard's directory.
        identity: what its files say they belong to.
        kernel: the data plane.
        config: sizes and limits.
        recovery: has run.
        writer: what it returned.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        identity: LogIdentity,
        kernel: Kernel,
        config: Config,
        recovery: Recovery,
        writer: LogWriter,
    ) -> None:
        self._files = files
        self._directory = directory
        self._identity = identity
        self._kernel = kernel
        self._config = config
        self._sync_always = config.wal.sync == "always"
        self._state: ShardState = recovery.state
        self._writer = writer
        self._staged: list[_StagedBatch] = []
        self._next_lsn = writer.next_lsn
        self._flows_staged = self._state.flows_appended
        self._free_disk = True
        self.sync_seconds = 0.0
        """How long the last sync of the log took."""
        self.recovery = recovery.report
        self.check_space()

    @classmethod
    def open(
        cls,
        files: FileSystem,
        directory: Path,
        identity: LogIdentity,
        kernel: Kernel,
        config: Config,
        *,
        progress: Callable[[str], None] = lambda detail: None,
    ) -> Self:
        """Recover a shard from its directory, or make a new one.

        The caller holds the directory's lock.

        Args:
            files: the disk.
            directory: the shard's directory, `gen-1/shard-00`.
            identity: what its files must say they belong to.
            kernel: the data plane.
            config: sizes and limits.
            progress: told now and then how far it is.

        Returns:
            The store, with every acknowledged flow in its rows, all of it proven durable.

        Raises:
            WalCorruption: acknowledged data is damaged or missing; nothing was changed.
            OSError: the disk failed.
        """
        recovery = Recovery(files, directory, identity, kernel, config, progress)
        return cls(files, directory, identity, kernel, config, recovery, recovery.run())

    @property
    def shard(self) -> Shard:
        """The rows."""
        return self._state.shard

    @property
    def applied_lsn(self) -> int:
        """The last log record that is in the rows."""
        return self._state.applied_lsn

    @property
    def flows_appended(self) -> int:
        """How many flows are in the rows, since the shard was made."""
        return self._state.flows_appended

    @property
    def batch_ids(self) -> int:
        """How many batch ids are remembered."""
        return len(self._state.ids)

    @property
    def floor_ms(self) -> int:
        """The highest key time ever forgotten."""
        return self._state.floor_ms

    @property
    def written_bytes(self) -> int:
        """Bytes written to the log since the store was opened."""
        return self._state.written_bytes

    @property
    def log_bytes(self) -> int:
        """What the log's segments hold, in bytes."""
        return self._writer.size_bytes

    @property
    def writable(self) -> bool:
        """Whether there is room on disk; while there is not, routers refuse batches beforehand."""
        return self._free_disk and self._writer.has_room

    def stage(self, header: AppendHeader, frame: bytes) -> Staged:
        """Give an append its LSN, or find that it is stored or on its way already.

        Args:
            header: what batch it is part of.
            frame: this shard's flows.

        Returns:
            Up to which LSN its sender has to wait; for a stored duplicate that is in the past.

        Raises:
            FrameError: the frame is malformed; nothing was staged.
        """
        ids = self._state.ids
        if header.batch_id:
            if header.batch_id in ids:
                return Staged(self.applied_lsn, duplicate=True)
            if (lsn := ids.in_flight_lsn(header.batch_id)) is not None:
                return Staged(lsn, duplicate=True)
        slices = self._kernel.buckets(frame)
        flows = self._kernel.frame_flows(frame)
        lsn = self._next_lsn
        self._next_lsn += 1
        self._flows_staged += flows
        prefix = BATCH_PREFIX.pack(
            header.batch_id.to_bytes(16, "little"),
            header.key_time_ms,
            header.arrival_ms,
            self._flows_staged,
        )
        entry = LogEntry(lsn, RecordType.BATCH, header.shards, (prefix, frame))
        self._staged.append(_StagedBatch(lsn, header, slices, flows, entry))
        if header.batch_id:
            ids.start(header.batch_id, lsn)
        return Staged(lsn, duplicate=False)

    def take(self) -> Group | None:
        """Take all that is staged as the next group to write; None when there is nothing."""
        if not self._staged:
            return None
        group = Group(self._staged)
        self._staged = []
        return group

    def write(self, group: Group) -> None:
        """Log a group; with `wal.sync = "always"` it is durable on return.

        Raises:
            WalFull: no room for a segment; call again with the same group when there is.
            WalPoisoned: a write or sync failed; the process must exit.
        """
        written = self._writer.written_lsn
        entries = [batch.entry for batch in group.batches if batch.lsn > written]
        self._state.written_bytes += self._writer.append(entries)
        if self._sync_always:
            self.sync()

    def sync(self) -> None:
        """Make all that was written durable.

        Raises:
            WalPoisoned: the sync failed; the process must exit.
        """
        started = time.perf_counter()
        self._writer.sync()
        self.sync_seconds = time.perf_counter() - started

    def apply(self, group: Group) -> None:
        """Change the rows by a group that `write` returned from."""
        state = self._state
        for batch in group.batches:
            state.shard.apply(batch.slices, batch.lsn)
            if batch.header.batch_id:
                state.ids.remember(batch.header.batch_id, batch.header.key_time_ms)
            state.flows_appended += batch.flows
            state.applied_lsn = batch.lsn

    def append(self, header: AppendHeader, frame: bytes) -> Staged:
        """Stage, write and apply one append in the caller's thread; see those for the errors."""
        staged = self.stage(header, frame)
        if (group := self.take()) is not None:
            self.write(group)
            self.apply(group)
        return staged

    def check_space(self) -> bool:
        """Look at the disk again; returns `writable`."""
        free = self._files.free_bytes(self._directory)
        self._free_disk = free >= self._config.limits.free_disk_bytes
        if not self._writer.has_room:
            self._writer.prepare_spare()
        return self.writable

    @property
    def checkpoint_due(self) -> bool:
        """Whether the log has grown by enough since the last checkpoint."""
        grown = self._state.written_bytes - self._state.checkpointed_bytes
        if grown < self._config.checkpoint.log_bytes:
            return False
        return grown >= self.shard.dirty_rows * _DIRTY_ROW_BYTES

    def begin_checkpoint(self) -> Checkpointer:
        """Start a checkpoint of all that is applied now; the caller drives it to its end."""
        return Checkpointer(
            self._files, self._directory, self._identity, self._kernel, self._state, self._writer
        )

    def checkpoint(self) -> None:
        """Write a checkpoint in the caller's thread; see `Checkpointer` for the errors."""
        run = self.begin_checkpoint()
        try:
            while (dump := run.next_block()) is not None:
                run.write_block(dump)
            run.finish()
        except OSError:
            run.remove_written()
            run.abandon()
            raise

    def close(self) -> None:
        """Seal and close the log; what is staged and not written was never acknowledged.

        Raises:
            WalPoisoned: the sync failed.
        """
        self._writer.seal()
        self._writer.close()
