"""The log's part of refused requests: a line each, as long as there are not too many.

A client in a loop must not fill the disk, nor cost more by being refused than by being served.
Each kind of problem has a bucket of tokens; lines over it are left out and counted in the next one
that is written.
"""

import time
from collections.abc import Callable
from typing import Final

from flowd.api.problems import Problem
from flowd.logs import get_logger

BURST_LINES: Final = 20
"""How many lines of one kind may come at once."""

LINES_A_SECOND: Final = 1.0
"""How many may come in the long run."""

_DETAIL_MAX: Final = 300

log = get_logger()


class _Bucket:
    __slots__ = ("filled_at", "left_out", "tokens")

    def __init__(self, now: float) -> None:
        self.filled_at = now
        self.left_out = 0
        self.tokens = float(BURST_LINES)


class RefusalLog:
    """Writes refusals to the log.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def write(self, problem: Problem, request_id: str, route: str) -> None:
        """Write one line, or count it as left out.

        Args:
            problem: what the client is told.
            request_id: the answer's.
            route: the route's pattern.
        """
        kind = problem.kind.name
        now = self._clock()
        bucket = self._buckets.setdefault(kind, _Bucket(now))
        bucket.tokens += (now - bucket.filled_at) * LINES_A_SECOND
        bucket.tokens = min(bucket.tokens, BURST_LINES)
        bucket.filled_at = now
        if bucket.tokens < 1:
            bucket.left_out += 1
            return
        bucket.tokens -= 1
        left_out = {"left_out": bucket.left_out} if bucket.left_out else {}
        bucket.left_out = 0
        write = log.warning if problem.status >= 500 else log.info
        write(
            "refused",
            problem=kind,
            status=problem.status,
            route=route,
            request_id=request_id,
            detail=problem.detail[:_DETAIL_MAX],
            **left_out,
        )
