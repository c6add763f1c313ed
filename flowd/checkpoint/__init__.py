"""The files of a checkpoint: bucket files and the manifests that put them in force.

A bucket file holds the rows of one bucket as opaque blocks, each with the LSN it was taken at. A
manifest names the bucket files in force and the LSN M that they cover: replay starts at M + 1. Both
are written to a temporary name, synced, renamed, and the directory is synced, so that a finished
name always has finished bytes; both are checksummed throughout and say which shard they belong to.
The two newest manifests are kept, and every file that either names. What to checkpoint and when is
the store's; the bytes are in `docs/wal-format.md`.

    MANIFEST-00000000000000000007  buckets/0000473001-1h-00000000000000001234.tbl
"""

from flowd.checkpoint.bucket_file import BucketFileWriter, read_bucket_file
from flowd.checkpoint.manifest import (
    BucketFile,
    Manifest,
    manifest_number_max,
    read_manifests,
    write_manifest,
)
from flowd.checkpoint.unused import remove_unused

__all__ = [
    "BucketFile",
    "BucketFileWriter",
    "Manifest",
    "manifest_number_max",
    "read_bucket_file",
    "read_manifests",
    "remove_unused",
    "write_manifest",
]
