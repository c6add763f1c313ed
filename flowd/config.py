"""The settings: one frozen value, checked once, handed to every process.

Where a value comes from (flag, environment, file, default) is decided in `load_config`; nothing else in
flowd reads the environment. Units are last in each name. Every setting is described in `docs/operations.md`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flowd.flow import SHARDS_MAX

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]

KIB = 1024
MIB = 1024 * KIB


class WalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The write-ahead log.

    Attributes:
        sync: `always` acknowledges after fdatasync; `interval` after the write, with a sync every
            `sync_interval_seconds`, so that a power cut may take that much of what was acknowledged.
        sync_interval_seconds: see `sync`.
        segment_bytes: how large a segment is made; a larger log record gets a segment of its own.
    """

    sync: Literal["always", "interval"] = "always"
    sync_interval_seconds: Seconds = 1.0
    segment_bytes: Annotated[int, Meta(ge=64 * KIB, le=4096 * MIB)] = 64 * MIB


class CheckpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints.

    Attributes:
        log_bytes: a checkpoint is due when the log has grown by this much since the last one, or by as much
            as it would write, whichever is more.
    """

    log_bytes: Annotated[int, Meta(ge=64 * KIB)] = 256 * MIB


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one flowd takes, all routers together; see `docs/operations.md` for the answer at each limit."""

    body_bytes: Positive = 32 * MIB
    body_decoded_bytes: Positive = 64 * MIB
    flows: Positive = 100_000
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    idle_seconds: Seconds = 75.0
    handler_seconds: Seconds = 60.0
    connections: Positive = 1_024
    in_flight_bytes: Positive = 256 * MIB
    queries: Positive = 64
    max_rows: Positive = 10_000_000
    name_bytes: Positive = 256 * MIB
    batch_ids: Positive = 4_000_000
    free_disk_bytes: Annotated[int, Meta(ge=0)] = 512 * MIB


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process's own log, on standard error.

    Attributes:
        level: the least severe lines to write.
        format: `json`, one object a line, or `console` for reading.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "console"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one `flowd serve`.

    Attributes:
        listen: HOST:PORT; port 0 takes a free one, which the log names.
        data_dir: where everything durable is.
        runtime_dir: where the private sockets are; "" for one in the system's temporary directory.
        shards: how many workers; None for what the data directory has, or 2 in a new one.
        routers: how many routers.
        kernel: which data plane; `auto` takes native where it is built.
    """

    listen: str = "127.0.0.1:8000"
    data_dir: str = "./data"
    runtime_dir: str = ""
    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)] | None = None
    routers: Annotated[int, Meta(ge=1, le=256)] = 1
    kernel: Literal["auto", "native", "reference"] = "auto"
    wal: WalConfig = WalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()
