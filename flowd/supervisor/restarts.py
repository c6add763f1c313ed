"""When a child that exited is started again: at once, later, or hardly ever.

The first restart is immediate, then the wait doubles; so many restarts in so much time and the
child counts as failed. Pure: the caller tells the time.
"""

from collections import deque
from typing import NamedTuple

from flowd.supervisor.timing import Timing


class Restart(NamedTuple):
    """What to do about an exit.

    delay_seconds: how long to wait before the next start.
    is_spent: whether the budget is: the child has failed and the next start is a mere try.
    """

    delay_seconds: float
    is_spent: bool


class RestartPolicy:
    """The record of one child.

    Args:
        timing: back-off and budget.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._in_a_row = 0
        self._is_spent = False
        self._recent: deque[float] = deque()

    def after_exit(self, now: float, lived_seconds: float) -> Restart:
        """Decide what follows an exit.

        Args:
            now: monotonic seconds.
            lived_seconds: how long the child had run.
        """
        timing = self._timing
        if lived_seconds >= timing.healthy_seconds:
            self._in_a_row = 0
            self._is_spent = False
            self._recent.clear()
        while self._recent and self._recent[0] <= now - timing.budget_seconds:
            self._recent.popleft()
        if self._is_spent or len(self._recent) >= timing.budget_restarts:
            self._is_spent = True
            return Restart(timing.retry_seconds, is_spent=True)
        self._recent.append(now)
        self._in_a_row += 1
        if self._in_a_row == 1:
            return Restart(0.0, is_spent=False)
        # Doubling is done on a bounded exponent: a float overflows after a thousand restarts.
        doublings = min(self._in_a_row - 2, 32)
        delay = min(timing.backoff_seconds * 2**doublings, timing.backoff_max_seconds)
        return Restart(delay, is_spent=False)
