"""The errors of flowd, one tree. A message says what happened, where, and what to do.

Only `api` turns these into HTTP statuses and only `cli` and `child` into exit statuses; all other
code raises them or lets them pass.
"""

from typing import NamedTuple


class FlowdError(Exception):
    """Anything that flowd itself reports; its text is fit for a user."""


class ConfigError(FlowdError):
    """A setting, argument or data directory that flowd cannot run with; not worth a restart."""


class BadQuery(FlowdError):
    """A query parameter that is unknown, missing or out of range.

    Args:
        parameter: the parameter's name as the user wrote it.
        reason: what is wrong and what is allowed.
    """

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter}: {reason}")
        self.parameter = parameter
        self.reason = reason


class Flaw(NamedTuple):
    """One thing wrong in a body.

    pointer: JSON Pointer (RFC 6901) into the body, "" for the whole; for NDJSON the first part
    counts lines from 0.
    """

    pointer: str
    reason: str


class BadFlows(FlowdError):
    """A body of which nothing may be stored.

    Args:
        flaws: the first 100 flaws, in the order of the body.
        total: how many flaws there are in all.
    """

    def __init__(self, flaws: tuple[Flaw, ...], total: int) -> None:
        first = flaws[0]
        where = f"at {first.pointer}: " if first.pointer else ""
        more = f" (and {total - 1} more)" if total > 1 else ""
        super().__init__(f"{where}{first.reason}{more}")
        self.flaws = flaws
        self.total = total


class TooLarge(FlowdError):
    """A request over one of the limits of size; the text names the limit's setting."""


class Overloaded(FlowdError):
    """A limit of concurrency is reached; nothing was stored and a retry will help.

    Args:
        reason: which limit, for the metric: one of a fixed set of words.
        message: what happened, for the client.
        retry_after_seconds: when to try again.
    """

    def __init__(self, reason: str, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class StorageFull(FlowdError):
    """Rows, names or disk are at their limit; nothing was stored.

    Args:
        reason: which limit, for the metric: `rows`, `names`, `disk` or `ids`.
        message: what happened, for the client.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ShardUnavailable(FlowdError):
    """Shards that could not answer; nothing was appended.

    Args:
        shards: their numbers, ascending.
        message: what happened, for the client.
    """

    def __init__(self, shards: tuple[int, ...], message: str) -> None:
        super().__init__(message)
        self.shards = shards


class OutcomeUnknown(FlowdError):
    """A shard went away after an append was sent to it: the batch may be stored, wholly or in part.

    Args:
        shards: the shards that did not acknowledge, ascending.
        message: what happened, for the client.
    """

    def __init__(self, shards: tuple[int, ...], message: str) -> None:
        super().__init__(message)
        self.shards = shards


class ProtocolError(FlowdError):
    """Bytes on a socket that are not the protocol of router and worker; it is closed."""


class FrameError(FlowdError):
    """Bytes that are not a well-formed frame; nothing of it was applied."""


class WalError(FlowdError):
    """Something about a write-ahead log."""


class TornTail(WalError):
    """The end of the last segment holds a record that was never acknowledged; it may be cut off.

    Args:
        path: the segment.
        offset: where the torn bytes start.
        reason: what is wrong there.
    """

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: torn tail at offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class WalCorruption(WalError):
    """Damage to what was acknowledged. The shard must not start; nothing is deleted.

    Args:
        path: the damaged file, or the directory where one is missing.
        offset: where the damage starts.
        reason: what is wrong there and what the operator can do.
    """

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: corrupt at offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class WalFull(WalError):
    """No segment can be created, the disk is full; a later try may succeed."""


class WalPoisoned(WalError):
    """A write or sync of the log failed; this process may acknowledge no more and must exit."""


class CheckpointCorruption(FlowdError):
    """A manifest or bucket file fails its checksum or contradicts the manifest that names it.

    Args:
        path: the damaged file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
