"""Locust users of a running flowd: agents that send, dashboards that read.

From the project's folder, with a flowd running:

    .venv/bin/python -m locust -f loadtest/locustfile.py --host http://127.0.0.1:8000

then open the page that it names, or add `--headless --users 50 --spawn-rate 10 --run-time 1m`. Any
answer but the expected one is a failure, a refusal with Retry-After too: at its limits flowd is not
keeping up.
"""

import json
import random

from locust import FastHttpUser, between, constant_pacing, task
from locust.exception import ResponseError

from loadtest.bodies import FIRST_HOUR, HOURS, random_bodies

_BATCHES = [body.decode() for body in random_bodies(20, 1_000)]
_SINGLES = [body.decode() for body in random_bodies(200, 1, seed=2)]


class BatchAgent(FastHttpUser):
    """A collector that sends what it has once a second: 1,000 flows a request."""

    weight = 2
    wait_time = constant_pacing(1)

    @task
    def post_batch(self) -> None:
        """Send a batch."""
        _ask(self, "POST", "/flows", "POST /flows, 1,000 flows", 204, random.choice(_BATCHES))


class SingleFlowAgent(FastHttpUser):
    """A host that reports each flow by itself, as it ends."""

    weight = 4
    wait_time = between(0.05, 0.2)

    @task
    def post_flow(self) -> None:
        """Send one flow."""
        _ask(self, "POST", "/flows", "POST /flows, 1 flow", 204, random.choice(_SINGLES))


class Dashboard(FastHttpUser):
    """A page that shows an hour, and now and then which hours there are."""

    weight = 2
    wait_time = between(0.2, 1)

    @task(5)
    def get_hour(self) -> None:
        """Read an hour; every row of the answer must be of that hour."""
        hour = random.randrange(FIRST_HOUR, FIRST_HOUR + HOURS)
        text = _ask(self, "GET", f"/flows?hour={hour}", "GET /flows?hour=", 200)
        if any(row["hour"] != hour for row in json.loads(text)):
            raise RuntimeError(f"a row of another hour than {hour}")

    @task(1)
    def get_hours(self) -> None:
        """Read which hours there are."""
        _ask(self, "GET", "/hours", "GET /hours", 200)


def _ask(
    user: FastHttpUser, method: str, path: str, name: str, status: int, body: str | None = None
) -> str:
    """Send a request; anything but the expected status is a failure in the statistics."""
    headers = {"Content-Type": "application/json"} if body else {}
    with user.client.request(
        method, path, name=name, data=body, headers=headers, catch_response=True
    ) as answer:
        if answer.status_code != status:
            raise ResponseError(f"{answer.status_code} instead of {status}: {answer.text}")
        return answer.text or ""
