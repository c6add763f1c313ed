"""Writes a checkpoint beside a shard that goes on taking appends.

A checkpoint covers the log up to M, the applied LSN at its start. Dirty buckets are dumped block
by block, each block with the LSN it was taken at, so that the loop never pauses for longer than one
block; replay starts at M + 1 and leaves a row alone whose block is newer. Order on disk: log synced
through every block's LSN, bucket files, manifest; then what the older of two manifests no longer
needs is removed.

It is made, `next_block` and `abandon` are called, on the loop's thread; `write_block`, `finish` and
`remove_written` block and run on the I/O thread, never two at a time.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flowd.checkpoint import (
    BucketFile,
    BucketFileWriter,
    Manifest,
    remove_unused,
    write_manifest,
)
from flowd.filesystem import FileSystem
from flowd.kernel.interface import Kernel
from flowd.shard import Bucket
from flowd.store.state import ShardState
from flowd.wal import LogIdentity, LogWriter


class BlockDump(NamedTuple):
    """One block on its way to its bucket file; `last` closes that file."""

    bucket: Bucket
    content: bytes
    rows: int
    lsn: int
    last: bool


class Checkpointer:
    """One checkpoint, from begin to finish; made anew for each.

    Args:
        files: the disk.
        directory: the shard's directory.
        identity: what its files say they belong to.
        kernel: the data plane.
        state: the shard; read on the loop's thread only.
        writer: the log.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        identity: LogIdentity,
        kernel: Kernel,
        state: ShardState,
        writer: LogWriter,
    ) -> None:
        self._files = files
        self._directory = directory
        self._identity = identity
        self._kernel = kernel
        self._state = state
        self._writer = writer
        self._file: BucketFileWriter | None = None
        self._written: list[BucketFile] = []
        self._began_at_bytes = state.written_bytes
        self._dirty = state.shard.take_dirty()
        self._blocks = self._dump_blocks()
        self._manifest = Manifest(
            number=state.manifest_number + 1,
            lsn=state.applied_lsn,
            flows_appended=state.flows_appended,
            rows=state.shard.rows,
            files=[],
            archive=[],
            batch_ids=state.ids.dump(),
            floor_ms=state.floor_ms,
            dropped=[],
            created_ms=time.time_ns() // 1_000_000,
        )

    def _dump_blocks(self) -> Iterator[BlockDump]:
        shard = self._state.shard
        for bucket in self._dirty:
            table = shard.table(bucket)
            blocks = table.blocks
            for index in range(blocks):
                content = table.dump(index)
                rows = self._kernel.frame_flows(content)
                lsn = self._state.applied_lsn
                yield BlockDump(bucket, content, rows, lsn, last=index == blocks - 1)

    def next_block(self) -> BlockDump | None:
        """Dump the next block; None when all are."""
        return next(self._blocks, None)

    def write_block(self, dump: BlockDump) -> None:
        """Add a block to its bucket file.

        Raises:
            OSError: the disk is full or broken; call `remove_written`, then `abandon`.
            WalPoisoned: the log could not be synced; the process must exit.
        """
        if self._file is None:
            self._file = BucketFileWriter(
                self._files,
                self._directory,
                self._identity,
                dump.bucket.start,
                dump.bucket.width,
                self._manifest.lsn,
            )
        self._file.add(dump.content, dump.rows, dump.lsn)
        if dump.last:
            if self._writer.synced_lsn < dump.lsn:
                self._writer.sync()
            self._written.append(self._file.finish())
            self._file = None

    def finish(self) -> None:
        """Put the checkpoint in force and remove what it replaces.

        Raises:
            OSError: the disk is full or broken; the checkpoint before this one stays in force.
            WalPoisoned: the log could not be synced; the process must exit.
        """
        state, manifest = self._state, self._manifest
        replaced = set(self._dirty)
        kept = [
            file
            for file in (state.manifests[0].files if state.manifests else [])
            if Bucket(file.start, file.width) not in replaced
        ]
        manifest.files = sorted([*kept, *self._written], key=lambda file: (file.start, file.width))
        if self._writer.synced_lsn < manifest.lsn:
            self._writer.sync()
        write_manifest(self._files, self._directory, self._identity, manifest)
        state.manifest_number = manifest.number
        state.manifests = [manifest, *state.manifests][:2]
        state.checkpointed_bytes = self._began_at_bytes
        remove_unused(self._files, self._directory, state.manifests)
        if len(state.manifests) == 2:
            self._writer.drop_before(state.manifests[1].lsn + 1)

    def remove_written(self) -> None:
        """Give the space back that an unfinished checkpoint took, unless a manifest may name it.

        Raises:
            OSError: the disk is broken.
        """
        if self._file is not None:
            self._file.abandon()
            self._file = None
        remove_unused(self._files, self._directory, self._state.manifests)

    def abandon(self) -> None:
        """Call the buckets of an unfinished checkpoint dirty again."""
        self._state.shard.mark_dirty(self._dirty)
