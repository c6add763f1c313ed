"""What a GET asks for: one frozen value, parsed and checked in one place.

The router hands a Query to every shard and to the merge unchanged, so that all of them mean the same rows.
Knows nothing of HTTP; `parse_query` takes the decoded parameters in the order in which they came.
"""

from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from flowd.flow import RowKey

GROUP_ALL: Final = ("hour", "vpc_id", "src_app", "dest_app")
"""What rows are told apart by, in the order in which answers are sorted."""


class AnswerFormat(StrEnum):
    """How an answer is rendered."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


class Filters(NamedTuple):
    """Names to let pass; an empty tuple lets every name pass."""

    src_app: tuple[str, ...] = ()
    dest_app: tuple[str, ...] = ()
    vpc_id: tuple[str, ...] = ()


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question.

    Attributes:
        hour_from: the first hour asked for.
        hour_to: the first hour no longer asked for, above `hour_from`, at most 2**32.
        filters: which names.
        width: the width in hours of the buckets to answer in.
        group: the members rows are told apart by, a subset of GROUP_ALL in that order.
        after: only rows behind this key.
        limit: at most this many rows; None for all.
        partial: answer with what the living shards have.
        answer_format: how to render it.
    """

    hour_from: int
    hour_to: int
    filters: Filters = Filters()
    width: int = 1
    group: tuple[str, ...] = GROUP_ALL
    after: RowKey | None = None
    limit: int | None = None
    partial: bool = False
    answer_format: AnswerFormat = AnswerFormat.JSON
