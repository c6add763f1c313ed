import csv
import importlib.util
import io
import json
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
from pathlib import Path

import pytest
import structlog

from flowd import __version__, cli
from flowd.cli import main
from flowd.config import load_config
from tests.canned_server import answer, canned_server
from tests.supervisor.harness import SCRIPT, short_directory

DEADLINE_SECONDS = 20.0
ROWS = [
    {
        "src_app": "[red]foo",
        "dest_app": "bar\x1b[2J",
        "vpc_id": "vpc-0",
        "bytes_tx": 1_234_567,
        "bytes_rx": 0,
        "hour": 91,
    },
    {
        "src_app": "é" * 120,
        "dest_app": "b",
        "vpc_id": "vpc-1",
        "bytes_tx": 0,
        "bytes_rx": 2**63 - 1,
        "hour": 92,
    },
]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "Missing command."),
        (("dance",), "No such command 'dance'."),
        (("serve", "--loud"), "No such option '--loud'."),
        (("serve", "now"), "Got unexpected extra argument (now)"),
        (("query",), "give either --hour, or both --from and --to"),
        (("query", "--from", "1"), "give either --hour, or both --from and --to"),
        (("query", "--hour", "1", "--to", "2"), "give either --hour, or both --from and --to"),
        (("query", "--hour", "noon"), "'noon' is neither an hour's number nor an ISO 8601 time"),
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
        (("--shards", "0"), '--shards: shards = "0": expected `int` >= 1'),
        (("--kernel", "fast"), "invalid enum value 'fast'"),
        (("--listen", "8000"), "expected HOST:PORT"),
        (("--listen", "0.0.0.0:0"), "not a loopback address"),
    ],
)
def test_a_configuration_that_cannot_work_is_78_and_one_line(flowd, command, arguments, reason):
    status, output, complaint = flowd(command, *arguments)
    assert (status, output) == (78, "")
    assert reason in complaint
    assert complaint.count("\n") == 1


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


def test_query_asks_for_what_the_options_say(flowd):
    with canned_server(answer(b"[]\n")) as server:
        flowd(
            *(
                "query",
                "--url",
                server.url,
                "--from",
                "1970-01-01T01:30",
                "--to",
                "1970-01-02T01:30",
            ),
            *("--src-app", "a", "--src-app", "b", "--dest-app", "c", "--vpc-id", "d"),
            *("--limit", "7", "--format", "json"),
        )
        flowd("query", "--url", server.url, "--hour", "5", "--format", "csv")
        flowd("query", "--url", server.url, "--hour", "5")
        assert server.targets == [
            "/flows?from=1&to=26&src_app=a&src_app=b&dest_app=c&vpc_id=d&limit=7&format=json",
            "/flows?hour=5&format=csv",
            "/flows?hour=5&limit=1000&format=json",
        ]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_query_passes_other_formats_through_as_they_are(flowd, form):
    body = "anything, é\n".encode() * 100_000
    with canned_server(answer(body)) as server:
        outcome = flowd("query", "--url", server.url, "--hour", "5", "--format", form)
    assert outcome == (0, body.decode(), "")


def test_query_ends_its_output_with_a_newline(flowd):
    for body in (b"[]", b"[]\n"):
        with canned_server(answer(body)) as server:
            outcome = flowd("query", "--url", server.url, "--hour", "5", "--format", "json")
        assert outcome == (0, "[]\n", "")


def test_query_prints_a_table_that_no_name_can_disturb(flowd):
    with canned_server(answer(json.dumps(ROWS).encode())) as server:
        status, output, complaint = flowd("query", "--url", server.url, "--hour", "91")
    assert (status, complaint) == (0, "")
    lines = output.splitlines()
    cells = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]
    assert ["hour", "vpc_id", "src_app", "dest_app", "bytes_tx", "bytes_rx"] in cells
    assert ["91", "vpc-0", "[red]foo", "bar\\u001b[2J", "1,234,567", "0"] in cells
    assert ["92", "vpc-1", "é" * 120, "b", "0", "9,223,372,036,854,775,807"] in cells
    assert lines[-1].strip() == "2 rows"


def test_query_says_when_there_is_more_than_the_limit(flowd):
    content = answer(b"[]", "200 OK", 'Link: </flows?cursor=x>; rel="next"')
    with canned_server(content) as server:
        status, _, complaint = flowd("query", "--url", server.url, "--hour", "5")
    assert status == 0
    assert complaint == "flowd: the first 1,000 rows; there are more (--limit)\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (answer(b'{"title":"Bad\\u001b","detail":"x"}', "400 Bad Request"), "400 Bad\\u001b: x"),
        (answer(b"[]")[:-1], "the answer was cut off"),
        (b"", "Remote end closed connection without response"),
    ],
)
@pytest.mark.parametrize("form", ["table", "json"])
def test_query_fails_with_1_and_one_line(flowd, content, reason, form):
    with canned_server(content) as server:
        status, _, complaint = flowd("query", "--url", server.url, "--hour", "5", "--format", form)
    assert status == 1
    assert reason in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("body", [b"[]]", b'[{"hour":1}]', b"\xff"])
def test_query_makes_no_table_of_what_is_no_answer(flowd, body):
    with canned_server(answer(body)) as server:
        status, output, complaint = flowd("query", "--url", server.url, "--hour", "5")
    assert (status, output) == (1, "")
    assert "not the answer of a flowd" in complaint


def test_a_reader_that_has_enough_ends_query_in_silence():
    with canned_server(answer(b"x" * 10_000_000)) as server:
        outcome = subprocess.run(
            [
                "sh",
                "-c",
                f"'{sys.executable}' -m flowd query --url {server.url} --hour 1"
                " --format json | head -c 5",
            ],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            check=False,
            timeout=DEADLINE_SECONDS,
        )
    assert (outcome.stdout, outcome.stderr) == (b"xxxxx", b"")


def test_ctrl_c_ends_query_with_1_and_one_line(flowd):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        def interrupt() -> None:
            connection, _ = silent.accept()
            with connection:
                connection.recv(65_536)
                os.kill(os.getpid(), signal.SIGINT)
                connection.recv(1)  # until the client gives up

        thread = threading.Thread(target=interrupt)
        thread.start()
        status, output, complaint = flowd("query", "--url", url, "--hour", "1")
        assert (status, output, complaint.strip()) == (1, "", "flowd: interrupted")
        thread.join()


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


def test_the_supervisor_answers_for_its_metrics(flowd, scripted, runtime):
    seen: list[bool] = []

    def is_there() -> bool:
        seen.append((runtime / "supervisor.sock").is_socket())
        return (runtime / "listen").exists()

    stop_when(is_there)
    assert flowd("serve")[0] == 0
    assert seen[-1]


def test_rows_of_a_real_flowd_come_as_a_table_and_as_csv(flowd, tmp_path):
    from tests.flowd_process import running_flowd

    flows = [
        {"src_app": "a", "dest_app": "b", "vpc_id": "v", "bytes_tx": tx, "bytes_rx": 1, "hour": 91}
        for tx in (1, 2, 3)
    ]
    with running_flowd(tmp_path) as server:
        assert server.request("POST", "/flows", json.dumps(flows).encode()).status == 204
        status, output, _ = flowd("query", "--url", server.url, "--hour", "91")
        assert status == 0
        assert re.search(r"│ 91 +│ v +│ a +│ b +│ +6 │ +3 │", output)
        _, output, _ = flowd("query", "--url", server.url, "--hour", "91", "--format", "csv")
        assert next(csv.DictReader(io.StringIO(output)))["bytes_tx"] == "6"
        status, _, complaint = flowd(
            "query", "--url", server.url, "--hour", "91", "--limit", "99999"
        )
        assert status == 1
        assert "limit" in complaint
