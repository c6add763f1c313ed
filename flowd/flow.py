"""The words of the domain: what a flow is, and the ranges of its members.

A *flow* is what a client sends; a *row* is one aggregate, a key and two sums. Every limit here is
part of the HTTP contract, so that none of it is configurable. Knows nothing of encodings, files or
processes.
"""

from typing import Final, NamedTuple

NAME_BYTES_MAX: Final = 256
"""The longest src_app, dest_app or vpc_id, in bytes of UTF-8; the shortest has 1."""

COUNTER_MAX: Final = 2**63 - 1
"""The largest bytes_tx or bytes_rx; sums saturate here."""

HOUR_MAX: Final = 2**32 - 1
"""The largest hour; any numbering will do, hours since 1970 are the usual one."""

HOURS_PER_DAY: Final = 24
"""A triple's hours of one day stay in one shard, so that they roll up to one row."""

SHARDS_MAX: Final = 64
"""A batch's shards are a 64-bit bitmap in the log."""


class RowKey(NamedTuple):
    """What a row is summed by, in the order in which answers are sorted.

    Strings compare by code point, which is the order of their UTF-8 bytes.
    """

    hour: int
    vpc_id: str
    src_app: str
    dest_app: str
