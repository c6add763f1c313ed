"""A shard's directory for tests, and small files in it."""

from collections.abc import Sequence
from pathlib import Path

from flowd.checkpoint import BucketFile, BucketFileWriter, Manifest
from flowd.filesystem import FileSystem
from flowd.wal import LogIdentity

IDENTITY = LogIdentity(bytes(range(16)), generation=1, shard=2, shard_count=3)
OTHERS = [
    LogIdentity(bytes(16), 1, 2, 3),
    LogIdentity(IDENTITY.directory_id, 2, 2, 3),
    LogIdentity(IDENTITY.directory_id, 1, 1, 3),
    LogIdentity(IDENTITY.directory_id, 1, 2, 4),
]
BLOCKS = [(b"first block", 3, 40), (b"", 0, 38), (b"third one", 2, 44)]


def write_bucket_file(
    files: FileSystem,
    directory: Path,
    *,
    start: int = 473001,
    width: int = 1,
    lsn: int = 37,
    blocks: Sequence[tuple[bytes, int, int]] = BLOCKS,
) -> BucketFile:
    files.make_dir(directory / "buckets")
    writer = BucketFileWriter(files, directory, IDENTITY, start, width, lsn)
    for block in blocks:
        writer.add(*block)
    return writer.finish()


def manifest(number: int, *bucket_files: BucketFile) -> Manifest:
    return Manifest(
        number=number,
        lsn=37 + number,
        flows_appended=1000 * number,
        rows=sum(file.rows for file in bucket_files),
        files=list(bucket_files),
        archive=[],
        batch_ids=bytes(range(48)),
        floor_ms=1_700_000_000_000,
        dropped=[(473_000, 1)],
        created_ms=1_700_000_001_234,
    )
