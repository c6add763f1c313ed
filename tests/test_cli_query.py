import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.canned_server import answer, canned_server
from tests.flowd_process import running_flowd

pytestmark = pytest.mark.usefixtures("bare_environment")

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


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
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


def test_a_table_has_its_numbers_on_the_right(flowd):
    row = ROWS[0] | {"hour": 7}
    with canned_server(answer(json.dumps([ROWS[0], row]).encode())) as server:
        _, output, _ = flowd("query", "--url", server.url, "--hour", "91")
    assert re.search(r"│    7 │ vpc-0 ", output)
    with canned_server(answer(json.dumps([row]).encode())) as server:
        _, output, _ = flowd("query", "--url", server.url, "--hour", "91")
    assert output.splitlines()[-1].strip() == "1 row"


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


def test_ctrl_c_ends_query_with_1_and_one_line():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE_SECONDS)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "flowd", "query", "--url", url, "--hour", "1"],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as asking:
            connection, _ = silent.accept()
            with connection:
                while not connection.recv(65_536).endswith(b"\r\n\r\n"):
                    pass
                # A signal that comes just before the wait for the answer does not end the wait.
                wait_until_asleep(asking.pid)
                asking.send_signal(signal.SIGINT)
                output, complaint = asking.communicate(timeout=DEADLINE_SECONDS)
    assert (asking.returncode, output, complaint.strip()) == (1, b"", b"flowd: interrupted")


def wait_until_asleep(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("form", "body", "whole"),
    [
        ("json", b'[\n{"hour":1},\n{"hour":2}\n]\n', None),
        ("ndjson", b'{"hour":1}\n', b'{"hour":1}\n' * 3),
        ("csv", b"src_app,hour\na,1\n", b"src_app,hour\na,1\na,1\na,1\n"),
    ],
)
def test_more_rows_than_an_answer_has_are_asked_for_in_pages(flowd, form, body, whole):
    content = answer(body, "200 OK", 'Link: </flows?hour=5&cursor=a%2Bb>; rel="next"')
    with canned_server(content) as server:
        status, output, complaint = flowd(
            *("query", "--url", server.url, "--hour", "5", "--limit", "25000", "--format", form)
        )
        assert server.targets == [
            f"/flows?hour=5&limit=10000&format={form}",
            f"/flows?hour=5&limit=10000&format={form}&cursor=a%2Bb",
            f"/flows?hour=5&limit=5000&format={form}&cursor=a%2Bb",
        ]
    assert (status, complaint) == (0, "flowd: the first 25,000 rows; there are more (--limit)\n")
    if form == "json":
        assert json.loads(output) == [{"hour": 1}, {"hour": 2}] * 3
    else:
        assert output.encode() == whole


def test_a_table_may_have_more_rows_than_an_answer(flowd):
    content = answer(json.dumps(ROWS).encode(), "200 OK", "Link: </flows?cursor=x>; rel=next")
    with canned_server(content) as server:
        status, output, _ = flowd("query", "--url", server.url, "--hour", "5", "--limit", "20001")
    assert status == 0
    assert output.splitlines()[-1].strip() == "6 rows"


def test_a_page_that_is_no_answer_ends_query_with_1(flowd):
    content = answer(b"<html>", "200 OK", "Link: </flows?cursor=x>; rel=next")
    with canned_server(content) as server:
        status, _, complaint = flowd(
            *("query", "--url", server.url, "--hour", "5", "--limit", "20000", "--format", "json")
        )
    assert (status, complaint) == (1, f"flowd: {server.url}: not the answer of a flowd\n")


def test_rows_of_a_real_flowd_come_in_every_format(flowd, tmp_path):
    flow = {"dest_app": "b", "vpc_id": "v", "bytes_tx": 6, "bytes_rx": 3, "hour": 91}
    flows = [flow | {"src_app": f"a{number:05}"} for number in range(12_000)]
    with running_flowd(tmp_path) as server:
        ask = ("query", "--url", server.url, "--hour", "91", "--limit")
        assert server.request("POST", "/flows", json.dumps(flows).encode()).status == 204
        status, output, complaint = flowd(*ask, "2")
        assert (status, complaint) == (0, "flowd: the first 2 rows; there are more (--limit)\n")
        assert re.search(r"│ +91 +│ v +│ a00001 +│ b +│ +6 │ +3 │\n", output)

        status, output, complaint = flowd(*ask, "11000", "--format", "json")
        assert (status, json.loads(output)) == (0, flows[:11_000])
        assert complaint == "flowd: the first 11,000 rows; there are more (--limit)\n"

        # As much as there is, and byte for byte what one answer for all of it has.
        for form in ("json", "ndjson", "csv"):
            paged = flowd(*ask, "20000", "--format", form)
            target = f"/flows?hour=91&format={form}"
            assert paged == (0, server.request("GET", target).body.decode(), "")
            assert paged[1].count("a") >= 12_000
