import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from flowd.config import LogConfig
from flowd.logs import configure_logs, escape_control_characters, get_logger

LINE_BREAKERS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Capture:
    """What was written to standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Capture:
    return Capture(capsys)


def test_a_console_line_has_time_level_process_event_and_members(stderr: Capture):
    configure_logs(LogConfig(), "worker-3")
    get_logger().info("ready", rows=5, path="/a b", empty="", quote='a"b', pair="a=b")
    line = stderr.getvalue()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z info    worker-3   ready rows=5 "
        r'path="/a b" empty="" quote="a\\"b" pair="a=b"\n',
        line,
    )


def test_a_json_line_is_one_object(stderr: Capture):
    configure_logs(LogConfig(format="json"), "router-0")
    get_logger().warning("refused", reason="über", limit=5, what=ValueError("x"))
    event = json.loads(stderr.getvalue())
    assert list(event) == ["timestamp", "level", "process", "event", "reason", "limit", "what"]
    assert event | {"timestamp": ""} == {
        "timestamp": "",
        "level": "warning",
        "process": "router-0",
        "event": "refused",
        "reason": "über",
        "limit": 5,
        "what": "x",
    }


@given(text=st.text(), form=st.sampled_from(["json", "console"]))
def test_no_text_leaves_its_line_or_controls_a_terminal(text: str, form: str):
    capture = io.StringIO()
    original, sys.stderr = sys.stderr, capture
    try:
        configure_logs(LogConfig(format=form), "router-0")
        get_logger().info("seen" + text, value=text, other=[text])
    finally:
        sys.stderr = original
    line = capture.getvalue()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert not re.search("[\x00-\x1f\x7f-\x9f]", line[:-1])
    if form == "json":
        assert json.loads(line)["value"] == text


@pytest.mark.parametrize("form", ["json", "console"])
def test_every_known_line_break_is_escaped(stderr: Capture, form: str):
    configure_logs(LogConfig(format=form), "router-0")
    get_logger().info("x", value=LINE_BREAKERS + "\x1b[31m")
    assert len(stderr.getvalue().splitlines()) == 1
    assert "\\u001b[31m" in stderr.getvalue()
    assert escape_control_characters("a\x1bb") == "a\\u001bb"


def test_a_traceback_is_part_of_the_line(stderr: Capture):
    configure_logs(LogConfig(format="json"), "router-0")
    try:
        raise ValueError("on\ntwo lines")
    except ValueError as error:
        get_logger().exception("one")
        get_logger().error("two", exc_info=error)
        get_logger().error("three", exc_info=(type(error), error, error.__traceback__))
    lines = stderr.getvalue().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["one", "two", "three"]
    for line in lines:
        traceback = json.loads(line)["exception"]
        assert traceback.startswith("Traceback (most recent call last):\n")
        assert traceback.endswith("ValueError: on\ntwo lines")


def test_an_error_without_an_exception_has_no_traceback(stderr: Capture):
    configure_logs(LogConfig(format="json"), "router-0")
    get_logger().error("one", exc_info=True)
    get_logger().error("two")
    assert "exception" not in stderr.getvalue()


def test_the_level_lets_only_the_more_severe_pass(stderr: Capture):
    configure_logs(LogConfig(level="warning"), "router-0")
    get_logger().info("quiet")
    logging.getLogger("aiohttp").info("quiet too")
    get_logger().warning("loud")
    assert "quiet" not in stderr.getvalue()
    assert "loud" in stderr.getvalue()


def test_the_standard_librarys_loggers_end_in_the_same_stream(stderr: Capture):
    configure_logs(LogConfig(format="json"), "router-0")
    configure_logs(LogConfig(format="json"), "router-1")  # anew, not twice
    logger = logging.getLogger("asyncio")
    logger.warning("slow %s", "callback")
    logger.log(25, "odd level")
    bad = logger.makeRecord("asyncio", logging.WARNING, "", 0, "bad %d", ("arguments",), None)
    logging.getLogger().handlers[-1].handle(bad)
    logger.debug("not even at level info")
    try:
        raise ValueError("x")
    except ValueError:
        logger.exception("failed")
    events = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert [(event["level"], event["event"]) for event in events] == [
        ("warning", "slow callback"),
        ("info", "odd level"),
        ("warning", "bad %d"),
        ("error", "failed"),
    ]
    assert {event["logger"] for event in events} == {"asyncio"}
    assert {event["process"] for event in events} == {"router-1"}
    assert "ValueError: x" in events[-1]["exception"]


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch):
    class Broken(io.StringIO):
        writes = 0

        def write(self, _text: str) -> int:
            Broken.writes += 1
            raise BrokenPipeError

    configure_logs(LogConfig(), "router-0")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Broken())
        get_logger().error("lost")
    assert Broken.writes == 1


def test_rich_can_still_be_imported():
    # logs keeps structlog from importing it, which would double the time that a child starts in
    from rich.table import Table

    assert Table().row_count == 0
