"""The bodies of the load: the same on every run, and as skewed as a company's flows."""

import json

import pytest

from loadtest.bodies import FIRST_HOUR, HOURS, ROWS_A_HOUR_MAX, distinct_bodies, random_bodies


def test_100_000_flows_have_about_88_000_distinct_keys() -> None:
    flows = [flow for body in random_bodies(100, 1_000) for flow in json.loads(body)]
    keys = {(flow["src_app"], flow["dest_app"], flow["vpc_id"], flow["hour"]) for flow in flows}
    assert len(flows) == 100_000
    assert 86_000 < len(keys) < 90_000
    assert {flow["hour"] for flow in flows} == set(range(FIRST_HOUR, FIRST_HOUR + HOURS))
    assert all(0 <= flow[name] < 2**63 for flow in flows for name in ("bytes_tx", "bytes_rx"))


def test_bodies_are_the_same_on_every_run_and_others_with_another_seed() -> None:
    assert random_bodies(3, 10) == random_bodies(3, 10)
    assert random_bodies(3, 10) != random_bodies(3, 10, seed=2)


def test_distinct_bodies_hold_as_many_keys_as_flows() -> None:
    bodies = list(distinct_bodies(2_345, 91, 1_000))
    flows = [flow for body in bodies for flow in json.loads(body)]
    assert [len(json.loads(body)) for body in bodies] == [1_000, 1_000, 345]
    assert len({(flow["src_app"], flow["dest_app"], flow["vpc_id"]) for flow in flows}) == 2_345
    assert {flow["hour"] for flow in flows} == {91}


def test_an_hour_cannot_have_more_rows_than_there_are_keys() -> None:
    with pytest.raises(ValueError, match="distinct keys"):
        next(distinct_bodies(ROWS_A_HOUR_MAX + 1, 91, 1_000))
