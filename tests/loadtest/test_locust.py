"""Agents and dashboards at once on a real flowd: every request is answered as it should be."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.flowd_process import running_flowd

PROJECT = Path(__file__).parents[2]
SECONDS = 8


def test_a_short_run_of_all_users_has_no_failure(tmp_path: Path) -> None:
    with running_flowd(tmp_path, shards=2, routers=2) as flowd:
        # A process of its own: gevent patches the standard library for good.
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "locust",
                    "-f",
                    "loadtest/locustfile.py",
                    "--host",
                    flowd.url,
                ),
                *("--headless", "--users", "12", "--spawn-rate", "12", "--json"),
                *("--run-time", f"{SECONDS}s", "--stop-timeout", "10"),
            ],
            cwd=PROJECT,
            env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        requests = {entry["name"]: entry for entry in json.loads(done.stdout)}
        assert set(requests) == {
            "POST /flows, 1,000 flows",
            "POST /flows, 1 flow",
            "GET /flows?hour=",
            "GET /hours",
        }
        for entry in requests.values():
            assert entry["num_requests"] > 0
            assert entry["num_failures"] == 0
        sent = 1_000 * requests["POST /flows, 1,000 flows"]["num_requests"]
        sent += requests["POST /flows, 1 flow"]["num_requests"]
        assert flowd.stop() == 0
    assert sent > 1_000 * SECONDS
    assert "Traceback" not in flowd.log()
