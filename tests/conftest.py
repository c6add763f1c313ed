"""The command line, run in the test's own process."""

import os
from collections.abc import Callable, Iterator

import pytest
import structlog

from flowd.cli import main


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("FLOWD_"):
            monkeypatch.delenv(name)
    yield
    structlog.reset_defaults()


@pytest.fixture
def flowd(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; gives its exit status, output and complaints."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output, complaint = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, output, complaint

    return run
