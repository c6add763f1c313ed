"""What all measurements share: the options of a run, and a fresh flowd for each of them."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadtest.figures import Setup
from loadtest.processes import FlowdProcess, running_flowd

_READY_SECONDS = 300.0


@dataclass(frozen=True)
class Options:
    """How much to measure, and with what.

    Attributes:
        directory: where the data directories are made; on the disk to measure.
        seconds: how long each rate or latency is measured.
        bodies: how many distinct bodies are sent round and round.
        rows: how many rows are held for the figures of memory and of the long answer.
        hour_rows: the rows of the hours that are asked for one at a time.
        recovery_flows: how many flows are replayed.
        shards: how many workers.
        routers: how many routers.
        connections: how many clients send at once.
        kernel: `auto`, `native` or `reference`.
        sync: the setting `wal.sync`.
    """

    directory: Path
    seconds: float = 5.0
    bodies: int = 100
    rows: int = 1_000_000
    hour_rows: tuple[int, int] = (1_000, 100_000)
    recovery_flows: int = 1_000_000
    shards: int = 2
    routers: int = 1
    connections: int = 8
    kernel: str = "auto"
    sync: str = "always"


@contextmanager
def fresh_flowd(options: Options) -> Iterator[FlowdProcess]:
    """Start a flowd with nothing in it; its data goes with it."""
    with (
        TemporaryDirectory(prefix="bench-", dir=options.directory) as directory,
        flowd_in(Path(directory), options) as flowd,
    ):
        yield flowd


def flowd_in(
    directory: Path, options: Options, config: Mapping[str, object] | None = None
) -> AbstractContextManager[FlowdProcess]:
    """Start a flowd with what is in a directory, with flowd's own defaults but for the options."""
    return running_flowd(
        directory,
        shards=options.shards,
        routers=options.routers,
        kernel=options.kernel,
        config={"wal": {"sync": options.sync}} | dict(config or {}),
        ready_seconds=_READY_SECONDS,
    )


def setup_of(options: Options, flowd: FlowdProcess) -> Setup:
    """Tell what runs; the kernel is the one that flowd says it uses."""
    kernels = set(_label_values(flowd, "flowd_build_info", "kernel"))
    return Setup(
        kernel="+".join(sorted(kernels)) or "unknown",
        sync=options.sync,
        shards=options.shards,
        routers=options.routers,
        connections=options.connections,
    )


def metric(flowd: FlowdProcess, name: str) -> float | None:
    """Add up a metric over all processes; None when no process has it.

    Args:
        flowd: whom to ask.
        name: of the sample, such as `flowd_rows` or `flowd_flows_accepted_total`.
    """
    values = [sample.value for sample in _samples(flowd) if sample.name == name]
    return sum(values) if values else None


def _label_values(flowd: FlowdProcess, name: str, label: str) -> Iterator[str]:
    for sample in _samples(flowd):
        if sample.name == name:
            yield sample.labels[label]


def _samples(flowd: FlowdProcess) -> Iterator[Sample]:
    text = flowd.request("GET", "/metrics").body.decode()
    for family in text_string_to_metric_families(text):
        yield from family.samples
