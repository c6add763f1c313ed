"""Bounds on what is in hand at one time: bytes of bodies, and answers being made.

Nobody waits for room: what does not fit is refused, so that nothing queues up and two requests
never wait for each other.
"""

from types import TracebackType
from typing import Self

from flowd.errors import Overloaded, TooLarge


class ByteBudget:
    """The bytes that all bodies in hand may have.

    Args:
        bytes_max: this router's share of `limits.in_flight_bytes`.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held = 0

    def hold(self) -> "Hold":
        """Begin a request's part, empty; use it as a context manager."""
        return Hold(self)


class Hold:
    """One request's part of a budget; given back at the end of the `with` block."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._held = 0

    def grow(self, size: int) -> None:
        """Take more.

        Args:
            size: how many bytes more.

        Raises:
            Overloaded: there is no room now.
            TooLarge: there never will be.
        """
        budget = self._budget
        if budget.held + size > budget.bytes_max:
            if self._held + size > budget.bytes_max:
                raise TooLarge(
                    f"the body needs more than {budget.bytes_max} bytes at once, a router's share "
                    "of limits.in_flight_bytes; send smaller batches"
                )
            raise Overloaded(
                "in_flight",
                f"bodies in hand have {budget.held} of {budget.bytes_max} bytes, this router's "
                "share of limits.in_flight_bytes; try again soon",
            )
        budget.held += size
        self._held += size

    def shrink(self, size: int) -> None:
        """Give a part back, at most what is held."""
        self._budget.held -= size
        self._held -= size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shrink(self._held)


class QueryBudget:
    """The answers that may be made at one time; a context manager around each.

    Args:
        queries_max: this router's share of `limits.queries`.
    """

    def __init__(self, queries_max: int) -> None:
        self.queries_max = queries_max
        self.held = 0

    def __enter__(self) -> Self:
        if self.held >= self.queries_max:
            raise Overloaded(
                "queries",
                f"{self.held} answers are being made, this router's share of limits.queries; "
                "try again soon",
            )
        self.held += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.held -= 1
