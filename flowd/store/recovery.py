"""Opens a shard's directory: newest sound checkpoint, then the log behind it.

Nothing is deleted. A damaged newer manifest or bucket file falls back to the older manifest plus
the log, which reaches back that far (`Checkpointer.finish` sees to it). Replay inserts batch ids
and never consults them. Formats: `docs/wal-format.md`.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flowd.checkpoint import (
    BucketFile,
    Manifest,
    manifest_number_max,
    read_bucket_file,
    read_manifests,
)
from flowd.config import Config
from flowd.errors import CheckpointCorruption, FrameError, WalCorruption
from flowd.filesystem import FileSystem
from flowd.kernel.interface import Kernel
from flowd.shard import Bucket, Shard
from flowd.store.state import BATCH_PREFIX, ShardState
from flowd.wal import LogIdentity, LogRecord, LogWriter, RecordType, recover_log

_PROGRESS_SECONDS = 0.5


@dataclass(slots=True)
class RecoveryReport:
    """What opening a shard found and did.

    Attributes:
        records: log records replayed.
        flows: flows in them.
        rows_loaded: rows that came from bucket files.
        torn_bytes: bytes of a torn tail that were set aside.
        broken_copy: where they were put.
        damaged: manifests and bucket files that were passed over for older ones.
        seconds: how long it took.
    """

    records: int = 0
    flows: int = 0
    rows_loaded: int = 0
    torn_bytes: int = 0
    broken_copy: Path | None = None
    damaged: list[CheckpointCorruption] = field(default_factory=list)
    seconds: float = 0.0


class Recovery:
    """Recovers one shard.

    Args:
        files: the disk.
        directory: the shard's directory.
        identity: what its files must say they belong to.
        kernel: the data plane.
        config: sizes and limits.
        progress: told now and then how far it is.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        identity: LogIdentity,
        kernel: Kernel,
        config: Config,
        progress: Callable[[str], None],
    ) -> None:
        self._files = files
        self._directory = directory
        self._identity = identity
        self._kernel = kernel
        self._config = config
        self._progress = progress
        self._reported = time.monotonic()
        self._proven_lsn = 0
        self.state = ShardState(Shard(kernel))
        self.report = RecoveryReport()

    def run(self) -> LogWriter:
        """Bring `state` up to the end of the log.

        Returns:
            The log, ready for the next record; all that it holds is durable.

        Raises:
            WalCorruption: acknowledged data is damaged or missing; nothing was changed.
            OSError: the disk failed.
        """
        started = time.monotonic()
        for name in ("wal", "buckets"):
            self._files.make_dir(self._directory / name)
        self._load_checkpoint()
        writer = self._replay_log()
        self.report.seconds = time.monotonic() - started
        return writer

    def _load_checkpoint(self) -> None:
        manifests, damaged = read_manifests(self._files, self._directory, self._identity)
        self.report.damaged.extend(damaged)
        for manifest in manifests:
            try:
                self._load_manifest(manifest)
            except CheckpointCorruption as error:
                self.report.damaged.append(error)
                self.state = ShardState(Shard(self._kernel))
                continue
            self.state.manifests = [m for m in manifests if m.number <= manifest.number][:2]
            break
        self.state.manifest_number = manifest_number_max(self._files, self._directory)
        # A block may be newer than its manifest; an LSN that was proven must not be given again.
        self._proven_lsn = max(
            (lsn for m in manifests for lsn in (m.lsn, *(file.lsn_max for file in m.files))),
            default=0,
        )

    def _load_manifest(self, manifest: Manifest) -> None:
        state = self.state
        for file in manifest.files:
            self._load_bucket_file(file)
        state.ids.load(manifest.batch_ids)
        state.floor_ms = manifest.floor_ms
        state.applied_lsn = manifest.lsn
        state.flows_appended = manifest.flows_appended
        self.report.rows_loaded = state.shard.rows

    def _load_bucket_file(self, file: BucketFile) -> None:
        bucket = Bucket(file.start, file.width)
        for block, lsn in read_bucket_file(self._files, self._directory, self._identity, file):
            try:
                self.state.shard.load(bucket, block, lsn)
            except FrameError as error:
                path = self._directory / "buckets" / file.name
                raise CheckpointCorruption(str(path), str(error)) from error
            self._tell(f"loaded {self.state.shard.rows:,} rows")

    def _replay_log(self) -> LogWriter:
        try:
            log = recover_log(
                self._files,
                self._directory / "wal",
                self._identity,
                from_lsn=self.state.applied_lsn + 1,
                proven_lsn=self._proven_lsn,
                segment_bytes=self._config.wal.segment_bytes,
                new_segment_id=lambda: secrets.randbits(64),
                replay=self._replay_record,
            )
        except WalCorruption as error:
            if not self.report.damaged:
                raise
            causes = "; ".join(str(cause) for cause in self.report.damaged)
            raise WalCorruption(
                error.path, error.offset, f"{error.reason}. Passed over before that: {causes}"
            ) from error
        self.report.torn_bytes = log.torn_bytes
        self.report.broken_copy = log.broken_copy
        return log.writer

    def _replay_record(self, record: LogRecord) -> None:
        if record.type != RecordType.BATCH:
            raise self._refuse(
                record,
                f"has type {record.type}, which this version of flowd does not know;"
                " start the version that wrote it",
            )
        state = self.state
        batch_id, key_time_ms, _, flows_appended = BATCH_PREFIX.unpack_from(record.payload)
        frame = bytes(record.payload[BATCH_PREFIX.size :])
        try:
            slices = self._kernel.buckets(frame)
        except FrameError as error:
            raise self._refuse(record, f"has a sound checksum and a bad frame: {error}") from error
        flows = self._kernel.frame_flows(frame)
        if flows_appended != state.flows_appended + flows:
            raise self._refuse(
                record,
                f"counts {flows_appended:,} flows where {state.flows_appended + flows:,} were"
                " expected; restore a backup",
            )
        state.shard.apply(slices, record.lsn)
        if key := int.from_bytes(batch_id, "little"):
            state.ids.remember(key, key_time_ms)
        state.flows_appended = flows_appended
        state.applied_lsn = record.lsn
        self.report.records += 1
        self.report.flows += flows
        state.checkpointed_bytes -= len(record.payload)
        self._tell(f"replayed {self.report.flows:,} flows, up to LSN {record.lsn:,}")

    def _refuse(self, record: LogRecord, reason: str) -> WalCorruption:
        return WalCorruption(str(self._directory / "wal"), 0, f"record {record.lsn} {reason}")

    def _tell(self, detail: str) -> None:
        now = time.monotonic()
        if now - self._reported >= _PROGRESS_SECONDS:
            self._reported = now
            self._progress(detail)
