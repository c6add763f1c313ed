"""What a durable shard is made of in memory, and the layout of a batch's log record."""

import struct
from dataclasses import dataclass, field
from typing import Final

from flowd.checkpoint import Manifest
from flowd.dedup import BatchIds
from flowd.shard import Shard

BATCH_PREFIX: Final = struct.Struct("<16sQQQ")
"""Before the frame in a batch record: batch id, key time ms, arrival ms, flows appended so far."""


@dataclass(slots=True)
class ShardState:
    """The rows, the ids and the counters that belong to one applied LSN.

    Attributes:
        shard: the rows.
        ids: batch ids of durable batches.
        applied_lsn: the last log record that is in the rows.
        flows_appended: how many flows were appended up to there, since the shard was made.
        floor_ms: the highest key time ever forgotten.
        manifests: the two newest checkpoints in force, newest first.
        written_bytes: bytes written to the log since the shard was opened.
        checkpointed_bytes: what `written_bytes` was when the newest checkpoint began; below 0 for
            log that was replayed, so that many short lives come to a checkpoint, too.
        manifest_number: the highest number any manifest has, damaged ones included.
    """

    shard: Shard
    ids: BatchIds = field(default_factory=BatchIds)
    applied_lsn: int = 0
    flows_appended: int = 0
    floor_ms: int = 0
    manifests: list[Manifest] = field(default_factory=list)
    written_bytes: int = 0
    checkpointed_bytes: int = 0
    manifest_number: int = 0
