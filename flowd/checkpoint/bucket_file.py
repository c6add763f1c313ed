"""Bucket files: the rows of one bucket, as blocks that are opaque here, with the LSN of each.

A file ends with a footer that counts its blocks and rows and has a checksum over their checksums,
so that a part of a file, or one with a block of another, is never taken for a whole one. A reader
holds one block in memory. The bytes are in `docs/wal-format.md`.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from flowd.checkpoint.manifest import BucketFile
from flowd.errors import CheckpointCorruption
from flowd.filesystem import File, FileSystem
from flowd.wal.format import ALIGNMENT, CHECKSUM, LogIdentity, checksum

BUCKET_VERSION: Final = 1
BUCKET_MAGIC: Final = b"FLOWDTBL"
BUCKET_DIRECTORY: Final = "buckets"
BUCKET_HEADER: Final = struct.Struct("<8sI28sIIQ4xI")
BLOCK_HEADER: Final = struct.Struct("<IIQII8x")
BUCKET_FOOTER: Final = struct.Struct("<IIQII8x")
FOOTER_MARK: Final = 2**32 - 1
"""Where a block has its payload's length; no block is that long."""

_TEMPORARY_SUFFIX: Final = ".tmp"


class BlockHeader(NamedTuple):
    """What stands before a block's payload; the checksum covers all behind it and the payload."""

    checksum: int
    payload_bytes: int
    lsn: int
    rows: int
    block_index: int


class BucketFooter(NamedTuple):
    """What stands behind the last block; the checksum covers all behind it."""

    checksum: int
    mark: int
    rows: int
    blocks: int
    blocks_checksum: int


def bucket_file_name(start: int, width: int, lsn: int) -> str:
    """Name the file of a bucket that a checkpoint at an LSN wrote."""
    return f"{start:010}-{width}h-{lsn:020}.tbl"


class BucketFileWriter:
    """Writes one bucket file, block by block; it exists from `finish` on and not before.

    A file by the same name is replaced: it can only be what an interrupted checkpoint left.

    Args:
        files: the disk.
        directory: the shard's; `buckets` in it exists.
        identity: the shard.
        start: the bucket's first hour.
        width: its width in hours.
        lsn: the LSN that the checkpoint covers.

    Raises:
        OSError: the disk is full or broken; nothing is left of the file.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        identity: LogIdentity,
        start: int,
        width: int,
        lsn: int,
    ) -> None:
        self._files = files
        self._start = start
        self._width = width
        self._path = directory / BUCKET_DIRECTORY / bucket_file_name(start, width, lsn)
        self._temporary = self._path.with_name(self._path.name + _TEMPORARY_SUFFIX)
        self._offset = 0
        self._rows = 0
        self._lsns: list[int] = []
        self._checksums: list[bytes] = []
        header = BUCKET_HEADER.pack(
            BUCKET_MAGIC, BUCKET_VERSION, identity.pack(), start, width, lsn, 0
        )[: -CHECKSUM.size]
        files.unlink(self._temporary)
        self._file = files.create(self._temporary)
        try:
            self._write([header, CHECKSUM.pack(checksum(header))])
        except OSError:
            self.abandon()
            raise

    def add(self, block: bytes, rows: int, lsn: int) -> None:
        """Write the next block.

        Args:
            block: what the table's `dump` gave.
            rows: how many rows that holds.
            lsn: the last log record that was applied when it was dumped.

        Raises:
            OSError: the disk is full or broken; call `abandon`.
        """
        header = BLOCK_HEADER.pack(0, len(block), lsn, rows, len(self._lsns))[CHECKSUM.size :]
        stored = CHECKSUM.pack(checksum(header, block))
        self._write([stored, header, block, bytes(-len(block) % ALIGNMENT)])
        self._lsns.append(lsn)
        self._checksums.append(stored)
        self._rows += rows

    def finish(self) -> BucketFile:
        """Make the file durable under its name.

        The log must have been synced up to the highest LSN of its blocks before.

        Returns:
            What a manifest says to put it in force.

        Raises:
            OSError: the disk is full or broken; call `abandon`.
        """
        footer = BUCKET_FOOTER.pack(
            0, FOOTER_MARK, self._rows, len(self._lsns), checksum(*self._checksums)
        )[CHECKSUM.size :]
        self._write([CHECKSUM.pack(checksum(footer)), footer])
        self._file.sync()
        self._file.close()
        self._files.rename(self._temporary, self._path)
        self._files.sync_dir(self._path.parent)
        return BucketFile(
            start=self._start,
            width=self._width,
            name=self._path.name,
            rows=self._rows,
            lsn_min=min(self._lsns, default=0),
            lsn_max=max(self._lsns, default=0),
        )

    def abandon(self) -> None:
        """Close the file and remove what was written of it.

        Raises:
            OSError: it could not be removed; `remove_unused` will.
        """
        self._file.close()
        self._files.unlink(self._temporary)

    def _write(self, buffers: list[bytes | memoryview]) -> None:
        self._file.write(self._offset, buffers)
        self._offset += sum(map(len, buffers))


def read_bucket_file(
    files: FileSystem, directory: Path, identity: LogIdentity, file: BucketFile
) -> Iterator[tuple[bytes, int]]:
    """Give a bucket file's blocks in order, each with the LSN it was taken at.

    Each block is checked before it is given, but only the end of the iteration proves that all of
    them were: what was loaded must be given up when it raises.

    Args:
        files: the disk.
        directory: the shard's.
        identity: which shard it must say it belongs to.
        file: what the manifest says of it.

    Raises:
        CheckpointCorruption: it is missing, cannot be read, is damaged, or is another file than the
            manifest means.
    """
    path = directory / BUCKET_DIRECTORY / file.name
    try:
        handle = files.open(path)
    except OSError as error:
        raise CheckpointCorruption(str(path), f"the bucket file cannot be opened: {error}") from (
            error
        )
    try:
        yield from _BucketFileReader(handle, file).blocks(identity)
    except (ValueError, OSError) as error:
        raise CheckpointCorruption(str(path), f"the bucket file cannot be used: {error}") from error
    finally:
        handle.close()


class _BucketFileReader:
    """Reads one bucket file; ValueError says what is wrong with it."""

    def __init__(self, handle: File, file: BucketFile) -> None:
        self._handle = handle
        self._file = file
        self._size = handle.size()
        self._offset = 0

    def blocks(self, identity: LogIdentity) -> Iterator[tuple[bytes, int]]:
        self._check_header(identity)
        rows = 0
        lsns: list[int] = []
        checksums: list[bytes] = []
        while True:
            head = self._read(BLOCK_HEADER.size)
            header = BlockHeader._make(BLOCK_HEADER.unpack(head))
            if header.payload_bytes == FOOTER_MARK:
                break
            block = self._read(header.payload_bytes)
            if checksum(head[CHECKSUM.size :], block) != header.checksum:
                raise ValueError(f"the checksum of block {len(lsns)} is wrong")
            if any(self._read(-header.payload_bytes % ALIGNMENT)):
                raise ValueError(f"block {len(lsns)} is not followed by zeros")
            if header.block_index != len(lsns):
                raise ValueError(f"block {header.block_index} stands where {len(lsns)} belongs")
            rows += header.rows
            lsns.append(header.lsn)
            checksums.append(head[: CHECKSUM.size])
            yield block, header.lsn
        self._check_footer(head, rows, checksums)
        if (rows, min(lsns, default=0), max(lsns, default=0)) != (
            self._file.rows,
            self._file.lsn_min,
            self._file.lsn_max,
        ):
            raise ValueError("it is not the file that the manifest means")

    def _check_header(self, identity: LogIdentity) -> None:
        content = self._read(BUCKET_HEADER.size)
        magic, version, owner, start, width, lsn, stored = BUCKET_HEADER.unpack(content)
        if checksum(content[: -CHECKSUM.size]) != stored:
            raise ValueError("the checksum of its header is wrong")
        if magic != BUCKET_MAGIC or version != BUCKET_VERSION:
            raise ValueError(
                f"it says {magic!r} version {version}; this flowd reads {BUCKET_MAGIC!r}"
                f" version {BUCKET_VERSION}"
            )
        if (found := LogIdentity.unpack(owner)) != identity:
            raise ValueError(f"it belongs to {found}; expected was {identity}")
        if (start, width) != (self._file.start, self._file.width) or (
            bucket_file_name(start, width, lsn) != self._file.name
        ):
            raise ValueError(f"it says that it is {bucket_file_name(start, width, lsn)}")

    def _check_footer(self, content: bytes, rows: int, checksums: list[bytes]) -> None:
        footer = BucketFooter._make(BUCKET_FOOTER.unpack(content))
        if checksum(content[CHECKSUM.size :]) != footer.checksum:
            raise ValueError("the checksum of its footer is wrong")
        if (footer.rows, footer.blocks) != (rows, len(checksums)):
            raise ValueError(
                f"its footer counts {footer.rows} rows in {footer.blocks} blocks behind {rows} rows"
                f" in {len(checksums)}"
            )
        if footer.blocks_checksum != checksum(*checksums):
            raise ValueError("its footer belongs to other blocks")
        if self._offset != self._size:
            raise ValueError(f"{self._size - self._offset} bytes follow its footer")

    def _read(self, size: int) -> bytes:
        """Read the next bytes; a damaged length never asks for more than the file has."""
        if self._offset + size > self._size:
            raise ValueError(f"it ends at {self._size} bytes, in the middle of a block")
        content = self._handle.read(self._offset, size)
        if len(content) < size:
            raise ValueError(f"it became shorter while it was read, at {self._offset} bytes")
        self._offset += size
        return content
