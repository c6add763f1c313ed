"""flowd's main job on real traffic: flows in over HTTP, exact sums out, the same after a crash."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.traffic import captures, get, get_bytes, post_batches, seed_example
from tests.flowd_process import FlowdProcess, running_flowd
from tests.store.shards import plain_sum

ALL = "/flows?from=0&to=4294967296"


@pytest.fixture(scope="module")
def flows() -> list[dict[str, Any]]:
    return captures()


@pytest.fixture(scope="module")
def digests() -> Iterator[dict[int, list[str]]]:
    """Digest of each bucket by number of shards, gathered by the tests of this module."""
    found: dict[int, list[str]] = {}
    yield found
    assert len({json.dumps(digest) for digest in found.values()}) == 1, found.keys()


@pytest.mark.parametrize("routers", [1, 2])
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_the_original_services_example_is_answered(
    tmp_path: Path, shards: int, routers: int
) -> None:
    with running_flowd(tmp_path, shards=shards, routers=routers) as flowd:
        answer = flowd.request(
            "POST", "/fas/flows", seed_example(), {"Content-Type": "application/json"}
        )
        assert (answer.status, answer.body) == (204, b"")
        assert get(flowd, "/fas/flows?hour=91") == [
            {
                "src_app": "baz",
                "dest_app": "qux",
                "vpc_id": "vpc-0",
                "bytes_tx": 100,
                "bytes_rx": 500,
                "hour": 91,
            },
            {
                "src_app": "foo",
                "dest_app": "bar",
                "vpc_id": "vpc-0",
                "bytes_tx": 300,
                "bytes_rx": 1500,
                "hour": 91,
            },
        ]
        assert [row["vpc_id"] for row in get(flowd, "/fas/flows?hour=92")] == ["vpc-0", "vpc-1"]
        assert get(flowd, "/fas/flows?hour=93") == []
        assert flowd.stop() == 0


@pytest.mark.parametrize(
    ("shards", "routers", "batch_flows"),
    [(1, 1, 1000), (2, 1, 1), (3, 2, 10), (7, 1, 1000), (2, 2, 3914), (1, 2, 3914), (7, 2, 10)],
)
def test_real_traffic_sums_exactly_and_survives_kill_9(
    tmp_path: Path,
    flows: list[dict[str, Any]],
    digests: dict[int, list[str]],
    shards: int,
    routers: int,
    batch_flows: int,
) -> None:
    paths = [ALL, "/hours?digest=1", "/flows?hour=439197", f"{ALL}&dest_app=dns&format=csv"]
    expected = plain_sum(flows)
    with running_flowd(tmp_path, shards=shards, routers=routers) as flowd:
        post_batches(flowd, flows, batch_flows)
        rows = get(flowd, ALL)
        assert _totals(rows) == expected
        assert [_key(row) for row in rows] == sorted(expected)
        assert len(rows) == 782
        assert sum(row["bytes_tx"] for row in rows) == 7_891_011
        assert sum(row["bytes_rx"] for row in rows) == 7_228_467
        hours = get(flowd, "/hours?digest=1")
        assert sum(hour["rows"] for hour in hours) == 782
        digests.setdefault(shards, [hour["digest"] for hour in hours])
        before = [get_bytes(flowd, path) for path in paths]
        flowd.kill_all()
    with running_flowd(tmp_path, shards=None, routers=routers) as flowd:
        assert [get_bytes(flowd, path) for path in paths] == before


def test_filters_and_paging_give_the_rows_of_the_whole(
    tmp_path: Path, flows: list[dict[str, Any]]
) -> None:
    with running_flowd(tmp_path, shards=3) as flowd:
        post_batches(flowd, flows, 1000)
        whole = get(flowd, ALL)
        apps = ["dns", "443-chrome"]
        query = "&".join(f"dest_app={app}" for app in apps)
        wanted = [row for row in whole if row["dest_app"] in apps]
        assert wanted
        assert get(flowd, f"{ALL}&{query}") == wanted
        assert _pages(flowd, f"{ALL}&limit=100") == whole
        assert _pages(flowd, f"{ALL}&{query}&limit=3") == wanted
        hour = random.Random(1).choice(whole)["hour"]
        assert get(flowd, f"/flows?hour={hour}") == [r for r in whole if r["hour"] == hour]


def _pages(flowd: FlowdProcess, path: str) -> list[Any]:
    rows: list[Any] = []
    while True:
        answer = flowd.request("GET", path)
        assert answer.status == 200
        rows += json.loads(answer.body)
        link = {name.lower(): value for name, value in answer.headers.items()}.get("link")
        if link is None:
            return rows
        target, _, relation = link.partition(">; ")
        assert relation == 'rel="next"'
        path = target.removeprefix("<")


def _key(row: dict[str, Any]) -> tuple[int, str, str, str]:
    return (row["hour"], row["vpc_id"], row["src_app"], row["dest_app"])


def _totals(rows: list[dict[str, Any]]) -> dict[tuple[int, str, str, str], tuple[int, int]]:
    return {_key(row): (row["bytes_tx"], row["bytes_rx"]) for row in rows}
