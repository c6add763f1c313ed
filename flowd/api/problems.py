"""Refusals as clients see them: RFC 9457 problem details, and which error becomes which.

This is the one place that turns errors into HTTP statuses. A problem's `type` is a URN, stable
across releases, for programs; `detail` is for people: what happened, where, and what to do.

| type | status | means |
|---|---|---|
| urn:flowd:problem:malformed-request | 400 | not HTTP, or a header or encoding that is malformed |
| urn:flowd:problem:invalid-flows | 400 | nothing stored; `errors` has JSON Pointers and reasons |
| urn:flowd:problem:invalid-parameter | 400 | a query parameter; `parameter` names it |
| urn:flowd:problem:not-found | 404 | no such path |
| urn:flowd:problem:method-not-allowed | 405 | `Allow` lists the methods |
| urn:flowd:problem:request-timeout | 408 | the request took too long to arrive |
| urn:flowd:problem:too-large | 413 | over a limit of size |
| urn:flowd:problem:unsupported-media | 415 | Content-Type, charset or Content-Encoding |
| urn:flowd:problem:too-many-keys | 429 | too many Idempotency-Keys to remember; try again later |
| urn:flowd:problem:internal | 500 | a fault in flowd; the log has it under the request id |
| urn:flowd:problem:outcome-unknown | 500 | the batch may be stored or not; 503 when it has a key |
| urn:flowd:problem:overloaded | 503 | a limit of concurrency; nothing stored, try again |
| urn:flowd:problem:shard-unavailable | 503 | nothing stored, no answer; try again |
| urn:flowd:problem:handler-timeout | 503 | no answer in time; try again |
| urn:flowd:problem:storage-full | 507 | nothing stored |
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from flowd.errors import (
    BadFlows,
    BadQuery,
    Flaw,
    FlowdError,
    OutcomeUnknown,
    Overloaded,
    ShardUnavailable,
    StorageFull,
    TooLarge,
)

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1
"""When to try again after a shard went away: it is usually back by then."""


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One kind of problem.

    Attributes:
        name: the last part of the type's URN, and the word in the log.
        status: the usual HTTP status.
        title: the same for every problem of the kind.
    """

    name: str
    status: int
    title: str


MALFORMED_REQUEST: Final = ProblemKind("malformed-request", 400, "The request cannot be read")
INVALID_FLOWS: Final = ProblemKind("invalid-flows", 400, "The body holds what is not a valid flow")
INVALID_PARAMETER: Final = ProblemKind("invalid-parameter", 400, "A query parameter is not valid")
NOT_FOUND: Final = ProblemKind("not-found", 404, "There is nothing at this path")
METHOD_NOT_ALLOWED: Final = ProblemKind("method-not-allowed", 405, "The path has no such method")
REQUEST_TIMEOUT: Final = ProblemKind("request-timeout", 408, "The request took too long to arrive")
TOO_LARGE: Final = ProblemKind("too-large", 413, "The request is over a limit of size")
UNSUPPORTED_MEDIA: Final = ProblemKind("unsupported-media", 415, "The body is in no known format")
TOO_MANY_KEYS: Final = ProblemKind("too-many-keys", 429, "Too many keys to remember")
INTERNAL: Final = ProblemKind("internal", 500, "A fault in flowd")
OUTCOME_UNKNOWN: Final = ProblemKind("outcome-unknown", 500, "The batch may be stored or not")
OVERLOADED: Final = ProblemKind("overloaded", 503, "Too much is in progress")
SHARD_UNAVAILABLE: Final = ProblemKind("shard-unavailable", 503, "A shard cannot answer")
HANDLER_TIMEOUT: Final = ProblemKind("handler-timeout", 503, "The answer took too long")
STORAGE_FULL: Final = ProblemKind("storage-full", 507, "There is no room")


class Problem(Exception):
    """A request that is answered with a problem.

    Args:
        kind: what is wrong.
        detail: what happened, where, and what to do, for a person.
        reason: why, for the metric of refused batches: one of a fixed set of words.
        status: when it is not the kind's usual one.
        headers: further header fields of the answer.
        members: further members of the problem.
        close: whether the connection is of no more use.
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        reason: str,
        status: int = 0,
        headers: tuple[tuple[str, str], ...] = (),
        members: dict[str, object] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.reason = reason
        self.status = status or kind.status
        self.headers = headers
        self.members = members or {}
        self.close = close

    def encode(self, request_id: str) -> bytes:
        """Give the body of the answer."""
        # Parts of a malformed request may be quoted, which need not be text.
        detail = self.detail.encode("utf-8", "backslashreplace").decode()
        problem = msgspec.json.encode(
            {
                "type": f"urn:flowd:problem:{self.kind.name}",
                "title": self.kind.title,
                "status": self.status,
                "detail": detail,
                "request_id": request_id,
            }
            | self.members
        )
        return problem + b"\n"


def problem_of(error: FlowdError, *, keyed: bool = False) -> Problem:
    """Tell what a client is told of an error.

    Args:
        error: what stopped the request.
        keyed: whether the batch had an Idempotency-Key, so that its retry is safe.
    """
    detail = str(error)
    match error:
        case BadFlows():
            members = {"errors": flaw_members(error.flaws), "errors_total": error.total}
            return Problem(INVALID_FLOWS, detail, reason="invalid", members=members)
        case BadQuery():
            members = {"parameter": error.parameter}
            return Problem(INVALID_PARAMETER, detail, reason="parameter", members=members)
        case TooLarge():
            return Problem(TOO_LARGE, detail, reason="too_large")
        case Overloaded():
            kind = TOO_MANY_KEYS if error.reason == "ids" else OVERLOADED
            headers = retry_after(error.retry_after_seconds)
            return Problem(kind, detail, reason=error.reason, headers=headers)
        case StorageFull():
            reason = error.reason if error.reason in _FULL_REASONS else "disk"
            return Problem(STORAGE_FULL, detail, reason=reason)
        case ShardUnavailable():
            members = {"shards": error.shards}
            return Problem(
                SHARD_UNAVAILABLE, detail, reason="shards", headers=retry_after(), members=members
            )
        case OutcomeUnknown():
            return _outcome_unknown(error, keyed)
        case _:
            return internal_problem()


def internal_problem() -> Problem:
    """Give the problem of a fault whose description belongs in the log, not in an answer."""
    detail = "flowd met a fault that it was not written for; its log has it under this request id"
    return Problem(INTERNAL, detail, reason="internal")


def retry_after(seconds: int = RETRY_AFTER_SECONDS) -> tuple[tuple[str, str], ...]:
    """Give the header field that asks for a retry."""
    return (("Retry-After", str(seconds)),)


def flaw_members(flaws: tuple[Flaw, ...]) -> list[dict[str, str]]:
    """Give flaws as members of an answer."""
    return [{"pointer": flaw.pointer, "reason": flaw.reason} for flaw in flaws]


def _outcome_unknown(error: OutcomeUnknown, keyed: bool) -> Problem:
    members: dict[str, object] = {"shards": error.shards}
    if keyed:
        detail = f"{error}; send it again with the same Idempotency-Key"
        return Problem(
            OUTCOME_UNKNOWN,
            detail,
            reason="outcome_unknown",
            status=503,
            headers=retry_after(),
            members=members,
        )
    detail = (
        f"{error}; sending it again may count it twice: batches with an Idempotency-Key are "
        "safe to repeat"
    )
    return Problem(OUTCOME_UNKNOWN, detail, reason="outcome_unknown", members=members)


_FULL_REASONS = frozenset({"rows", "names", "disk", "ids"})
