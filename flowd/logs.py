"""flowd's own log: structured events on standard error, one line each.

Nothing in an event can break out of its line: control characters are escaped, whoever they come
from. The standard library's loggers (asyncio, aiohttp) end in the same stream. A traceback is part
of its event's line, and only events of faults that nobody expected have one. A log that cannot be
written never stops a process.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final

from flowd.config import LogConfig

# structlog imports rich where it finds it, to colour tracebacks. flowd writes its own lines, and
# the import # takes 0.2 s of the 0.4 s that a child process needs to start.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]  # None is how an import is made to fail
import structlog  # noqa: E402  # must follow the line above
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger  # noqa: E402  # same

del sys.modules["rich"]
if _rich is not None:
    sys.modules["rich"] = _rich

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN_VALUE = re.compile(r"[^\s\"'=\\]+")


def get_logger() -> FilteringBoundLogger:
    """Give a logger; it follows whatever `configure_logs` says, also when that is called later."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def configure_logs(config: LogConfig, process: str) -> None:
    """Send every event of this process to standard error.

    Args:
        config: the least level and the form of a line.
        process: what each event is marked with: `supervisor`, `router-0`, `worker-3`.
    """
    render = _render_json if config.format == "json" else _render_console
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            _add_process(process),
            _put_traceback,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.level]),
        logger_factory=_StandardError,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Forwarder):
            root.removeHandler(handler)
    root.addHandler(_Forwarder())
    root.setLevel(max(_LEVELS[config.level], logging.INFO))


class _StandardError:
    """The logger under structlog's: writes finished lines.

    A reader that went away or a full disk loses lines, and nothing else.
    """

    def __init__(self, *_: object) -> None:
        pass

    def _write(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = _write


class _Forwarder(logging.Handler):
    """Hands records of the standard library's loggers to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        extra = {"exc_info": record.exc_info} if record.exc_info else {}
        level = max((known for known in _LEVELS.values() if known <= record.levelno), default=0)
        get_logger().log(level or logging.DEBUG, message, logger=record.name, **extra)


def _add_process(process: str) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return add


def _put_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Turn `exc_info` into text, so that the traceback stays in the event's line."""
    wanted = event.pop("exc_info", None)
    if not wanted:
        return event
    found: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
    if isinstance(wanted, BaseException):
        found = (type(wanted), wanted, wanted.__traceback__)
    elif isinstance(wanted, tuple):
        found = wanted
    else:
        found = sys.exc_info()
    if found[1] is not None:
        event["exception"] = "".join(traceback.format_exception(*found)).rstrip()
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    head = {name: event.pop(name) for name in ("timestamp", "level", "process", "event")}
    return escape_control_characters(
        json.dumps(head | dict(event), default=str, ensure_ascii=False)
    )


def _render_console(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    timestamp, level, process, text = (
        str(event.pop(name)) for name in ("timestamp", "level", "process", "event")
    )
    members = "".join(f" {name}={_console_value(value)}" for name, value in event.items())
    return f"{timestamp} {level:<7} {process:<10} {escape_control_characters(text)}{members}"


def _console_value(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if _PLAIN_VALUE.fullmatch(text) and not _CONTROL_CHARACTERS.search(text):
        return text
    return escape_control_characters(json.dumps(text, ensure_ascii=False))


def escape_control_characters(text: str) -> str:
    """Replace control characters and line breaks by their JSON escapes."""
    return _CONTROL_CHARACTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
