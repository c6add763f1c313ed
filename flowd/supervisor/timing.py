"""How long the supervisor waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """The supervisor's patience; tests have less of it.

    Attributes:
        hang_seconds: a child that gave no sign of life for this long is hung.
        abort_seconds: how long a hung child may write down where it hangs before it is killed.
        drain_seconds: how long routers may finish requests, and then workers sync.
        healthy_seconds: a child that lived this long starts with a clean record.
        budget_restarts: this many restarts within `budget_seconds` are given; then it has failed.
        budget_seconds: see `budget_restarts`.
        backoff_seconds: the wait before the second restart; it doubles up to `backoff_max_seconds`.
        backoff_max_seconds: see `backoff_seconds`.
        retry_seconds: how often a worker whose budget is spent is tried again.
        extend_seconds: how much longer systemd is asked to wait while a log is being replayed.
        report_seconds: how often the state is told at least.
    """

    hang_seconds: float = 30.0
    abort_seconds: float = 5.0
    drain_seconds: float = 30.0
    healthy_seconds: float = 60.0
    budget_restarts: int = 10
    budget_seconds: float = 60.0
    backoff_seconds: float = 0.1
    backoff_max_seconds: float = 10.0
    retry_seconds: float = 60.0
    extend_seconds: float = 60.0
    report_seconds: float = 1.0
