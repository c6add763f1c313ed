import importlib.util
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from flowd import __version__, cli
from flowd.config import load_config
from flowd.data_directory import DataDirectory
from flowd.filesystem import LocalFileSystem
from flowd.listen import open_listener
from tests.supervisor.harness import SCRIPT, short_directory

pytestmark = pytest.mark.usefixtures("bare_environment")

DEADLINE_SECONDS = 20.0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("dance",), "No such command 'dance'."),
        (("serve", "--loud"), "No such option '--loud'."),
        (("serve", "now"), "Got unexpected extra argument (now)"),
        (("query",), "give either --hour, or both --from and --to"),
        (("query", "--from", "1"), "give either --hour, or both --from and --to"),
        (("query", "--hour", "1", "--to", "2"), "give either --hour, or both --from and --to"),
        (("query", "--hour", "noon"), "'noon' is neither an hour's number nor an ISO 8601 time"),
        (("query", "--hour", "1969-12-31T23"), "'1969-12-31T23' is before 1970"),
        (("query", "--hour", "2026-11-23"), "'2026-11-23' is a day; name one hour, as in 2026-11"),
        (("query", "--hour", "1", "--limit", "0"), "0 is not in the range x>=1"),
        (("query", "--hour", "1", "--format", "xml"), "'xml' is not one of"),
    ],
)
def test_a_mistake_in_the_command_line_is_2_and_one_line(flowd, arguments, reason):
    status, output, complaint = flowd(*arguments)
    assert (status, output) == (2, "")
    assert reason in complaint
    assert complaint.startswith("flowd: ")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "check-config"])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--config", "/nonexistent"), "/nonexistent: cannot be read: No such file or directory"),
        (("--shards", "0"), '--shards: shards = "0": must be an integer from 1 to 64'),
        (("--kernel", "fast"), "must be one of auto, native, reference"),
        (("--data-dir", ""), '--data-dir: data_dir = "": must name a directory'),
        (("--data-dir", __file__), f"data_dir: {__file__} is no directory"),
        (("--data-dir", f"{__file__}/x"), f"data_dir: {__file__} is no directory"),
        (("--listen", "8000"), "expected HOST:PORT"),
        (("--listen", "0.0.0.0:0"), "not a loopback address"),
    ],
)
def test_a_configuration_that_cannot_work_is_78_and_one_line(flowd, command, arguments, reason):
    status, output, complaint = flowd(command, *arguments)
    assert (status, output) == (78, "")
    assert reason in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_every_mistake_has_a_line(flowd, command, monkeypatch):
    monkeypatch.setenv("FLOWD_LOG_LEVEL", "INFO")
    monkeypatch.setenv("FLOWD_SHARD", "2\n3")
    assert flowd(command, "--insecure", "--routers", "no\n") == (
        78,
        "",
        "flowd: environment: unknown setting FLOWD_SHARD; did you mean FLOWD_SHARDS?\n"
        'flowd: FLOWD_LOG_LEVEL: log.level = "INFO": must be one of debug, info, warning, error\n'
        'flowd: --routers: routers = "no\\n": must be an integer from 1 to 256\n',
    )


@pytest.mark.skipif(importlib.util.find_spec("flowd._native") is not None, reason="it is built")
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_kernel_that_was_not_built_is_78_and_one_line(flowd, command):
    status, output, complaint = flowd(command, "--kernel", "native")
    assert (status, output) == (78, "")
    assert "flowd._native was not built" in complaint
    assert complaint.count("\n") == 1


def test_an_unknown_variable_is_78(flowd, monkeypatch):
    monkeypatch.setenv("FLOWD_SHARD", "2")
    status, _, complaint = flowd("check-config")
    assert status == 78
    assert complaint == (
        "flowd: environment: unknown setting FLOWD_SHARD; did you mean FLOWD_SHARDS?\n"
    )


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("serve", "--help")])
def test_help_is_no_mistake(flowd, arguments):
    status, output, complaint = flowd(*arguments)
    assert (status, complaint) == (0, "")
    assert output.startswith("Usage: flowd")


def test_flowd_alone_prints_its_help_and_ends_with_2(flowd):
    _, help_text, _ = flowd("--help")
    assert flowd() == (2, "", help_text)


def test_no_summary_of_a_command_is_cut_off(flowd):
    _, output, _ = flowd("--help")
    summaries = output.partition("Commands:\n")[2].splitlines()
    assert len(summaries) == 3
    assert all(re.search(r"[a-z]\.$", summary) for summary in summaries)


def test_the_help_names_the_zone_of_a_time_without_one(flowd):
    assert "UTC" in flowd("query", "--help")[1]


def test_make_run_sets_nothing_so_that_the_environment_may():
    environ = {name: os.environ[name] for name in os.environ if not name.startswith("MAKE")}
    plan = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "run", "ARGS="],
        cwd=Path(__file__).parents[1],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert plan.stdout.splitlines()[-1].strip() == ".venv/bin/flowd serve"


def test_the_version_is_told(flowd):
    assert flowd("--version") == (0, f"flowd {__version__}\n", "")


def test_check_config_prints_what_serve_would_use(flowd, tmp_path, monkeypatch):
    (tmp_path / "flowd.toml").write_text("routers = 3\n[wal]\nsync = 'interval'\n")
    monkeypatch.setenv("FLOWD_WAL_SEGMENT_BYTES", "65536")
    arguments = ("--config", str(tmp_path / "flowd.toml"), "--insecure", "--data-dir", "x")
    status, output, complaint = flowd("check-config", *arguments)
    assert (status, complaint) == (0, "")
    for line in (
        r'data_dir = "x" +# --data-dir\n',
        r"insecure = true +# --insecure\n",
        rf"routers = 3 +# {tmp_path}/flowd\.toml\n",
        r"segment_bytes = 65536 +# FLOWD_WAL_SEGMENT_BYTES\n",
        r'level = "info" +# default\n',
    ):
        assert re.search(line, output)
    (tmp_path / "again.toml").write_text(output)
    config = load_config(tmp_path / "again.toml", {}, {}).config
    assert (config.routers, config.wal.sync, config.wal.segment_bytes) == (3, "interval", 65_536)


def test_check_config_tells_how_many_shards_there_will_be(flowd, tmp_path):
    status, output, _ = flowd("check-config", "--data-dir", str(tmp_path / "data"))
    assert status == 0
    assert re.search(r"^shards = 2 +# default$", output, re.MULTILINE)
    DataDirectory.open(LocalFileSystem(), tmp_path / "data", 5).close()
    _, output, _ = flowd("check-config", "--data-dir", str(tmp_path / "data"))
    assert re.search(rf"^shards = 5 +# {tmp_path}/data/flowd\.json$", output, re.MULTILINE)


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_another_number_of_shards_than_the_data_has_is_78(flowd, command, tmp_path):
    DataDirectory.open(LocalFileSystem(), tmp_path, 5).close()
    status, output, complaint = flowd(command, "--shards", "4", "--data-dir", str(tmp_path))
    assert (status, output) == (78, "")
    assert "divided among 5 shards, not shards = 4" in complaint


def test_check_config_neither_makes_nor_locks_anything(flowd, tmp_path):
    assert flowd("check-config", "--data-dir", str(tmp_path / "new" / "data"))[0] == 0
    assert list(tmp_path.iterdir()) == []
    owner = DataDirectory.open(LocalFileSystem(), tmp_path / "data", None)
    assert flowd("check-config", "--data-dir", str(tmp_path / "data"))[0] == 0
    owner.close()


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_directory() as short:
        yield short / "run"


@pytest.fixture
def scripted(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`flowd serve` with children that play scripts; the directory of those."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    monkeypatch.setattr(cli, "CHILD_COMMAND", (sys.executable, str(SCRIPT), str(scripts)))
    monkeypatch.setenv("FLOWD_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("FLOWD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FLOWD_LISTEN", "127.0.0.1:0")
    return scripts


def stop_when(condition: Callable[[], bool]) -> None:
    """Send this process SIGTERM once a condition holds, from a thread beside the command."""

    def wait() -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait).start()


def test_serve_keeps_what_it_was_told_to_keep_and_ends_with_0(flowd, scripted, runtime):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        stop_when((runtime / "listen").exists)
        status, _, log = flowd("serve", "--shards", "3", "--routers", "2")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert status == 0
    events = (scripted / "events").read_text().splitlines()
    started = sorted(line.split()[0] for line in events if line.endswith(" started"))
    assert started == ["router-0", "router-1", "worker-0", "worker-1", "worker-2"]
    assert re.search(r"supervisor starting version=.* shards=3 routers=2 kernel=\w+\n", log)
    assert re.search(r"supervisor listening address=http://127\.0\.0\.1:\d+\n", log)


def test_serve_says_so_when_anybody_may_write(flowd, scripted, runtime, monkeypatch):
    monkeypatch.setenv("FLOWD_LISTEN", "0.0.0.0:0")
    stop_when((runtime / "listen").exists)
    status, _, log = flowd("serve", "--insecure")
    assert status == 0
    assert 'warning supervisor insecure listen=0.0.0.0:0 reason="any client' in log


def test_serve_ends_with_78_when_a_router_cannot_work(flowd, scripted):
    (scripted / "router-0").write_text("exit 78")
    assert flowd("serve")[0] == 78


def test_a_second_flowd_on_a_data_directory_ends_with_1_and_names_it(
    flowd, scripted, runtime, tmp_path
):
    outcome: list[subprocess.CompletedProcess[str]] = []

    def is_refused() -> bool:
        if not (runtime / "listen").exists():
            return False
        outcome.append(
            subprocess.run(
                [sys.executable, "-m", "flowd", "serve"],
                cwd=Path(__file__).parents[1],
                env=os.environ | {"FLOWD_RUNTIME_DIR": str(runtime.with_name("other"))},
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE_SECONDS,
            )
        )
        return True

    stop_when(is_refused)
    assert flowd("serve")[0] == 0
    assert outcome[0].returncode == 1
    assert outcome[0].stdout == ""
    assert outcome[0].stderr == (
        f"flowd: {tmp_path}/data: another flowd is running on this data directory\n"
    )


def test_a_port_in_use_ends_with_1_and_leaves_no_data_directory(
    flowd, scripted, tmp_path, monkeypatch
):
    monkeypatch.setattr(cli, "open_listener", partial(open_listener, patience_seconds=0.05))
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        status, _, complaint = flowd("serve", "--listen", address)
    assert status == 1
    assert complaint == f"flowd: cannot listen on {address}: Address already in use\n"
    assert not (tmp_path / "data").exists()


def test_the_supervisor_answers_for_its_metrics(flowd, scripted, runtime):
    seen: list[bool] = []

    def is_there() -> bool:
        seen.append((runtime / "supervisor.sock").is_socket())
        return (runtime / "listen").exists()

    stop_when(is_there)
    assert flowd("serve")[0] == 0
    assert seen[-1]
