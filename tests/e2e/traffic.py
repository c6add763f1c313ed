"""The real traffic that flowd is tried on, and how to send it and read it back."""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from tests.flowd_process import FlowdProcess

SHARED_DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "flows"

Flow = dict[str, Any]


def seed_example() -> bytes:
    """The five records of the original service's README."""
    return (SHARED_DATA / "seed-example.json").read_bytes()


def captures() -> list[Flow]:
    """3,914 flows of real packet captures."""
    flows: list[Flow] = json.loads((SHARED_DATA / "captures.json").read_bytes())
    return flows


def post_batches(
    flowd: FlowdProcess, flows: Sequence[Flow], batch_flows: int, connections: int = 8
) -> None:
    """Send flows in batches over several connections; every batch must be stored."""
    bodies = [
        json.dumps(flows[start : start + batch_flows]).encode()
        for start in range(0, len(flows), batch_flows)
    ]

    def send(part: Iterable[bytes]) -> list[int]:
        connection = HTTPConnection(flowd.host, flowd.port, timeout=30)
        statuses = []
        for body in part:
            connection.request("POST", "/flows", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        return statuses

    with ThreadPoolExecutor(connections) as pool:
        statuses = [
            s
            for part in pool.map(send, (bodies[i::connections] for i in range(connections)))
            for s in part
        ]
    assert statuses == [204] * len(bodies)


def get(flowd: FlowdProcess, path: str) -> Any:
    """Ask, expect 200, give the JSON."""
    return json.loads(get_bytes(flowd, path))


def get_bytes(flowd: FlowdProcess, path: str) -> bytes:
    """Ask, expect 200, give the body."""
    answer = flowd.request("GET", path)
    assert answer.status == 200, answer
    return answer.body
