"""Each process counts for itself; one text of all of them satisfies Prometheus's own tools."""

import math
import os
import shutil
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from flowd import __version__
from flowd.metrics import (
    Family,
    RouterMetrics,
    SupervisorMetrics,
    WorkerMetrics,
    new_registry,
    render,
    snapshot,
)


def parse(text: str) -> dict[str, Metric]:
    families = list(text_string_to_metric_families(text))
    by_name = {family.name: family for family in families}
    assert len(by_name) == len(families), "a family comes twice"
    return by_name


def value_of(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def text_of_all_processes() -> str:
    snapshots = {}
    for index in range(2):
        registry = new_registry("reference")
        router = RouterMetrics(registry)
        router.refused("rows").inc()
        router.request_seconds("/flows", "POST", 204).observe(0.003)
        snapshots[f"router-{index}"] = snapshot(registry)
    for index in range(3):
        registry = new_registry("reference")
        worker = WorkerMetrics(registry)
        worker.rows.set(index)
        worker.wal_sync_seconds.observe(0.0004)
        snapshots[f"worker-{index}"] = snapshot(registry)
    registry = new_registry("reference")
    supervisor = SupervisorMetrics(registry)
    supervisor.child_up("worker-0").set(1)
    supervisor.child_restarts("worker-0").inc()
    snapshots["supervisor"] = snapshot(registry)
    return render(snapshots)


def test_a_family_of_many_processes_has_one_head_and_a_sample_of_each() -> None:
    text = text_of_all_processes()
    assert text.count("# TYPE flowd_rows gauge\n") == 1
    assert text.count("# HELP flowd_rows ") == 1
    rows = parse(text)["flowd_rows"].samples
    assert [(sample.labels, sample.value) for sample in rows] == [
        ({"process": f"worker-{index}"}, index) for index in range(3)
    ]


def test_no_sample_lacks_its_process_and_none_is_summed_over_processes() -> None:
    for family in parse(text_of_all_processes()).values():
        series = [(s.name, tuple(sorted(s.labels.items()))) for s in family.samples]
        assert len(series) == len(set(series))
        assert all(next(iter(sample.labels)) == "process" for sample in family.samples)


def test_a_process_that_gave_no_snapshot_has_no_series() -> None:
    registry = new_registry("reference")
    assert "worker-1" not in render({"worker-0": snapshot(registry)})
    assert render({}) == ""


def test_promtool_finds_nothing_to_complain_about() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        message = "promtool is missing: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text_of_all_processes(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_metric_of_flowd_starts_with_its_name_and_says_what_it_is() -> None:
    for name, family in parse(text_of_all_processes()).items():
        assert name.startswith(("flowd_", "process_"))
        assert family.documentation.endswith(".")


def test_the_build_tells_version_and_kernel() -> None:
    registry = new_registry("native")
    (build,) = parse(render({"worker-0": snapshot(registry)}))["flowd_build_info"].samples
    assert build.value == 1
    assert (build.labels["version"], build.labels["kernel"]) == (__version__, "native")


def test_the_process_s_own_memory_and_cpu_are_in_its_registry() -> None:
    families = parse(render({"router-0": snapshot(new_registry("reference"))}))
    (memory,) = families["process_resident_memory_bytes"].samples
    assert memory.value > 1_000_000
    assert families["process_cpu_seconds"].type == "counter"


def test_refusals_are_counted_by_reason() -> None:
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    metrics.refused("rows").inc()
    metrics.refused("rows").inc()
    metrics.refused("disk").inc()
    assert value_of(registry, "flowd_batches_refused_total", reason="rows") == 2
    assert value_of(registry, "flowd_batches_refused_total", reason="disk") == 1
    assert metrics.refused("rows") is metrics.refused("rows")


def test_requests_are_timed_by_route_method_and_status() -> None:
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    metrics.request_seconds("/flows", "POST", 204).observe(0.003)
    metrics.request_seconds("/flows", "POST", 204).observe(0.3)
    metrics.request_seconds("/flows", "GET", 200).observe(0.003)
    labels = {"route": "/flows", "method": "POST", "status": "204"}
    assert value_of(registry, "flowd_http_request_seconds_count", **labels) == 2
    assert value_of(registry, "flowd_http_request_seconds_bucket", le="0.005", **labels) == 1


def test_a_client_s_inventions_of_methods_make_one_series() -> None:
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    for method in ("BREW", 'A"B', "get"):
        metrics.request_seconds("none", method, 405).observe(0.001)
    labels = {"route": "none", "method": "other", "status": "405"}
    assert value_of(registry, "flowd_http_request_seconds_count", **labels) == 3


def test_the_time_that_a_series_was_made_is_left_out() -> None:
    registry = CollectorRegistry()
    Counter("done_total", "Done.", registry=registry).inc()
    Histogram("taken_seconds", "Taken.", registry=registry).observe(1)
    assert "_created" not in render({"worker-0": snapshot(registry)})


@given(label=st.text(), help_text=st.text().filter(lambda text: "\r" not in text))
def test_any_text_in_labels_and_help_comes_back_from_the_parser(label: str, help_text: str) -> None:
    registry = CollectorRegistry()
    Gauge("thing", help_text, ("name",), registry=registry).labels(label).set(1)
    # The line ends of str.splitlines are no line ends of the format; parse as Prometheus does.
    text = render({"worker-0": snapshot(registry)})
    help_line, _, sample_line = text.removesuffix("\n").split("\n")
    unescaped = help_line.removeprefix("# HELP thing ").replace(r"\\", "\0").replace(r"\n", "\n")
    assert unescaped.replace("\0", "\\") == help_text.replace("\0", "\\")
    (family,) = text_string_to_metric_families(sample_line + "\n")
    assert family.samples[0].labels == {"process": "worker-0", "name": label}


@pytest.mark.parametrize(
    "value", [0, 1, -1, 0.1, 1e300, 2**53, 123456789.25, math.inf, -math.inf, math.nan]
)
def test_a_value_comes_back_from_the_parser_as_it_was(value: float) -> None:
    registry = CollectorRegistry()
    Gauge("thing", "A thing.", registry=registry).set(value)
    (sample,) = parse(render({"worker-0": snapshot(registry)}))["thing"].samples
    assert repr(float(sample.value)) == repr(float(value))


def test_bytes_that_are_no_snapshot_are_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        render({"worker-0": b"\x93oops"})
    with pytest.raises(msgspec.MsgspecError):
        render({"worker-0": msgspec.msgpack.encode([Family("a", "gauge", "", [])])[:-1]})
