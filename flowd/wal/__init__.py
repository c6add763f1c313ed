"""The write-ahead log of one shard: opaque records, numbered, checksummed, durable.

The format in short; `docs/wal-format.md` has every offset. Integers are little-endian.

A log is a directory of segments, `<first LSN, 20 digits>.wal`, preallocated and never recycled. A
segment has a header of 64 bytes (magic, version, whose it is, a random segment id, its first LSN,
CRC32C) and then records, each at a multiple of 8: a header of 48 bytes (CRC32C over all that
follows and the payload, payload length, type, LSN, segment id, last synced LSN, bitmap of the
batch's shards), the payload, zeros up to the next multiple of 8. Zeros follow the last record. A
finished segment ends with a seal, a record that takes no LSN; only then the next one is made.

LSNs start at 1 and have no gap. What a record's header says was synced, what a manifest covers and
what lies before the last segment is *proven*: damage to it is corruption, and the shard does not
start. Damage behind all that is a torn tail: it is copied aside, cut off and counted.

`format` has the bytes, `segment` the files, `reader` checks, `writer` appends, `recovery` repairs.
What a payload means is known to `store` alone.
"""

from flowd.wal.format import LogEntry, LogIdentity, LogRecord, RecordType
from flowd.wal.recovery import LogRecovery, recover_log
from flowd.wal.writer import LogWriter

__all__ = [
    "LogEntry",
    "LogIdentity",
    "LogRecord",
    "LogRecovery",
    "LogWriter",
    "RecordType",
    "recover_log",
]
