"""docs/operations.md names every setting with its default, and every metric."""

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from flowd.config import Config
from flowd.metrics import RouterMetrics, SupervisorMetrics, WorkerMetrics

TEXT = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()


def _settings() -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in msgspec.structs.asdict(Config()).items():
        if isinstance(value, msgspec.Struct):
            found |= {
                f"{name}.{key}": entry for key, entry in msgspec.structs.asdict(value).items()
            }
        else:
            found[name] = value
    return found


@pytest.mark.parametrize(("name", "default"), _settings().items())
def test_every_setting_is_there_with_its_default(name: str, default: object) -> None:
    row = re.search(rf"^\| `{re.escape(name)}` \| ([^|]*) \|", TEXT, re.MULTILINE)
    assert row is not None, name
    shown = {None: "what the data has, or 2", "": '""', False: "false"}.get(default, str(default))
    assert row[1] == shown


def test_no_setting_is_there_that_does_not_exist() -> None:
    section = TEXT.split("## Settings")[1].split("## Metrics")[0]
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", section, re.MULTILINE)) == set(_settings())


def test_every_metric_is_there() -> None:
    registry = CollectorRegistry()
    for metrics in (RouterMetrics, WorkerMetrics, SupervisorMetrics):
        metrics(registry)
    exposed = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    section = TEXT.split("## Metrics")[1].split("## When")[0]
    listed = set(re.findall(r"^\| (`flowd_[^|]*) \|", section, re.MULTILINE))
    names = {name for cell in listed for name in re.findall(r"`([a-z_]+)`", cell)}
    assert names - {"flowd_build_info"} == exposed
