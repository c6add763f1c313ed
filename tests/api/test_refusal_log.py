from flowd.api.problems import INVALID_FLOWS, OVERLOADED, Problem
from flowd.api.refusal_log import BURST_LINES, RefusalLog
from tests.api.conftest import Log

FLOWS = Problem(INVALID_FLOWS, "x" * 10_000, reason="invalid")
LOAD = Problem(OVERLOADED, "later", reason="queries")


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_lines_over_the_rate_are_left_out_and_counted(log: Log) -> None:
    clock = Clock()
    refusals = RefusalLog(clock)

    for number in range(BURST_LINES + 30):
        refusals.write(FLOWS, f"id-{number}", "/flows")
    before = len(log.events)
    clock.seconds += 1
    refusals.write(FLOWS, "id-last", "/flows")
    refusals.write(FLOWS, "id-more", "/flows")

    assert before == BURST_LINES
    assert len(log.events) == BURST_LINES + 1
    assert "left_out" not in log.events[0]
    last = log.events[-1]
    assert (last["request_id"], last["left_out"]) == ("id-last", 30)
    assert len(last["detail"]) == 300


def test_each_kind_has_its_own_rate_and_level(log: Log) -> None:
    refusals = RefusalLog(Clock())

    for _ in range(BURST_LINES + 1):
        refusals.write(FLOWS, "id", "/flows")
    refusals.write(LOAD, "id", "/hours")

    assert log.events[-1] == {
        "event": "refused",
        "log_level": "warning",
        "problem": "overloaded",
        "status": 503,
        "route": "/hours",
        "request_id": "id",
        "detail": "later",
    }
    assert log.events[0]["log_level"] == "info"


def test_time_refills_no_more_than_a_burst(log: Log) -> None:
    clock = Clock()
    refusals = RefusalLog(clock)
    clock.seconds += 1e6

    for _ in range(BURST_LINES * 2):
        refusals.write(FLOWS, "id", "/flows")

    assert len(log.events) == BURST_LINES
