"""The files under `tests/golden/`, made anew: the formats on disk, byte by byte.

If a test that compares the two fails, the format has changed: that takes a new version number and a
reader for the old one, not new golden files.
"""

from pathlib import Path

from flowd.checkpoint import BucketFileWriter, Manifest, write_manifest
from flowd.filesystem import LocalFileSystem
from flowd.wal import LogEntry, LogIdentity, RecordType
from tests.wal.logs import open_log, segment_ids

GOLDEN = Path(__file__).parent.parent / "golden"
IDENTITY = LogIdentity(bytes(range(0xD0, 0xE0)), generation=1, shard=2, shard_count=3)
SEGMENT_BYTES = 264
ENTRIES = [
    LogEntry(1, RecordType.BATCH, 0b110, (b"first", b" payload")),
    LogEntry(2, RecordType.BATCH, 0b100, (b"8 bytes!",)),
    LogEntry(3, RecordType.FLOOR, 0, ()),
]


def write_golden_log(directory: Path) -> None:
    """Write two segments: one that is sealed, one with a record and room for more."""
    log = open_log(
        directory,
        segment_bytes=SEGMENT_BYTES,
        identity=IDENTITY,
        new_segment_id=segment_ids(0x5E65E65E65E60001),
    )
    for entry in ENTRIES:
        log.writer.append([entry])
        log.writer.sync()
    log.writer.close()


def write_golden_checkpoint(directory: Path) -> Manifest:
    """Write a bucket file of two blocks and the manifest that puts it in force."""
    files = LocalFileSystem()
    files.make_dir(directory / "buckets")
    writer = BucketFileWriter(files, directory, IDENTITY, start=473_001, width=1, lsn=2)
    writer.add(b"a block", rows=2, lsn=2)
    writer.add(b"8 bytes!", rows=1, lsn=3)
    manifest = Manifest(
        number=7,
        lsn=2,
        flows_appended=5,
        rows=3,
        files=[writer.finish()],
        archive=[],
        batch_ids=bytes(range(0xA0, 0xB8)),
        floor_ms=0,
        dropped=[],
        created_ms=1_764_000_000_000,
    )
    write_manifest(files, directory, IDENTITY, manifest)
    return manifest
