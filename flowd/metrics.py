"""What each process counts, and the Prometheus text of all of them together.

Every process has a registry of its own; nothing is added up across processes, each sample says
which one it comes from (`process="worker-3"`). `snapshot` packs a registry for the journey to the
router that was asked, `render` makes one text of all snapshots. Label values come from fixed sets
of words, never from clients. Hot paths resolve no labels: they hold the child they count with.
Knows no sockets.

Source: the text format 0.0.4, https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import math
import platform
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from flowd import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What `render` gives, as the Content-Type of an answer."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that are a label of their own; a client's invention is counted as `other`."""

REQUEST_SECONDS_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
SYNC_SECONDS_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
)  # fmt: skip
CHECKPOINT_SECONDS_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
GROUP_BATCHES_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


def new_registry(kernel: str) -> CollectorRegistry:
    """Make a process's registry, with its build, memory and CPU in it.

    Args:
        kernel: the name of the kernel in use, `reference` or `native`.
    """
    registry = CollectorRegistry(auto_describe=True)
    build = Gauge(
        "flowd_build_info",
        "Always 1; the labels tell what runs.",
        ("version", "python", "kernel"),
        registry=registry,
    )
    build.labels(__version__, platform.python_version(), kernel).set(1)
    ProcessCollector(registry=registry)
    return registry


class RouterMetrics:
    """What a router counts.

    Attributes:
        flows_accepted: flows of batches that were acknowledged.
        batches_accepted: batches that were acknowledged.
        flows_skipped: bad flows left out of batches at the client's request.
        in_flight_bytes: decoded bytes of the bodies in hand.
        in_flight_queries: answers being made.
        connections: open client connections.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.flows_accepted = Counter(
            "flowd_flows_accepted_total",
            "Flows of acknowledged batches; a retry that completes a batch counts all of it again.",
            registry=registry,
        )
        self.batches_accepted = Counter(
            "flowd_batches_accepted_total", "Batches that were acknowledged.", registry=registry
        )
        self.flows_skipped = Counter(
            "flowd_flows_skipped_total",
            "Bad flows left out of batches sent with on_error=skip.",
            registry=registry,
        )
        self.in_flight_bytes = Gauge(
            "flowd_in_flight_bytes", "Decoded bytes of the bodies in hand.", registry=registry
        )
        self.in_flight_queries = Gauge(
            "flowd_in_flight_queries", "Answers being made.", registry=registry
        )
        self.connections = Gauge("flowd_connections", "Open client connections.", registry=registry)
        self._refused = Counter(
            "flowd_batches_refused_total",
            "Batches that were not acknowledged, by reason.",
            ("reason",),
            registry=registry,
        )
        self._refused_children: dict[str, Counter] = {}
        self._requests = Histogram(
            "flowd_http_request_seconds",
            "Time from a request's head until its answer is made; sent, where it is streamed.",
            ("route", "method", "status"),
            buckets=REQUEST_SECONDS_BUCKETS,
            registry=registry,
        )
        self._request_children: dict[tuple[str, str, int], Histogram] = {}

    def refused(self, reason: str) -> Counter:
        """Give the counter of batches refused for a reason.

        Args:
            reason: one of flowd's own words, such as `Overloaded.reason`; never a client's text.
        """
        child = self._refused_children.get(reason)
        if child is None:
            child = self._refused_children[reason] = self._refused.labels(reason)
        return child

    def request_seconds(self, route: str, method: str, status: int) -> Histogram:
        """Give the histogram of the durations of requests, in seconds.

        Args:
            route: the route's pattern, such as `/flows`, or a word for all that matched none.
            method: the request's method as sent; unusual ones are counted as `other`.
            status: the status of the answer.
        """
        if method not in METHODS:
            method = "other"
        key = (route, method, status)
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(route, method, str(status))
        return child


class WorkerMetrics:
    """What a worker counts: one shard.

    Attributes:
        flows_appended: flows logged since the shard was made, as log and manifest have it: a new
            process first counts up to what it recovered.
        rows: rows held.
        buckets: buckets held.
        name_bytes: bytes of the distinct names held.
        batch_ids: batch ids remembered.
        lsn: the last log record that was applied.
        writable: 1 while appends are taken, 0 while the disk is full.
        wal_written_bytes: bytes written to the log by this process.
        wal_bytes: bytes of log on disk.
        wal_sync_seconds: one fdatasync of the log.
        group_commit_batches: batches that shared one sync.
        checkpoint_seconds: one checkpoint, from its start to its durable manifest.
        recovery_seconds: how long the last start took, from checkpoint and log to ready.
        recovery_records: log records replayed by the last start.
        torn_tails: torn tails cut off.
        damaged_checkpoints: damaged files of checkpoints that the last start passed over.
        saturated_sums: additions cut off at 2**63 - 1.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.flows_appended = Counter(
            "flowd_flows_appended_total",
            "Flows in the log since the shard was made, checkpoints included.",
            registry=registry,
        )
        self.rows = Gauge("flowd_rows", "Rows held.", registry=registry)
        self.buckets = Gauge("flowd_buckets", "Buckets held.", registry=registry)
        self.name_bytes = Gauge(
            "flowd_name_bytes", "Bytes of the distinct names held.", registry=registry
        )
        self.batch_ids = Gauge("flowd_batch_ids", "Batch ids remembered.", registry=registry)
        self.lsn = Gauge("flowd_lsn", "The last log record that was applied.", registry=registry)
        self.writable = Gauge(
            "flowd_writable",
            "1 while appends are taken, 0 while the disk is full.",
            registry=registry,
        )
        self.wal_written_bytes = Counter(
            "flowd_wal_written_bytes_total", "Bytes written to the log.", registry=registry
        )
        self.wal_bytes = Gauge("flowd_wal_bytes", "Bytes of log on disk.", registry=registry)
        self.wal_sync_seconds = Histogram(
            "flowd_wal_sync_seconds",
            "One fdatasync of the log.",
            buckets=SYNC_SECONDS_BUCKETS,
            registry=registry,
        )
        self.group_commit_batches = Histogram(
            "flowd_group_commit_batches",
            "Batches that shared one sync.",
            buckets=GROUP_BATCHES_BUCKETS,
            registry=registry,
        )
        self.checkpoint_seconds = Histogram(
            "flowd_checkpoint_seconds",
            "One checkpoint, from its start to its durable manifest.",
            buckets=CHECKPOINT_SECONDS_BUCKETS,
            registry=registry,
        )
        self.recovery_seconds = Gauge(
            "flowd_recovery_seconds",
            "The last start, from checkpoint and log to ready.",
            registry=registry,
        )
        self.recovery_records = Gauge(
            "flowd_recovery_records", "Log records replayed by the last start.", registry=registry
        )
        self.torn_tails = Counter(
            "flowd_torn_tails_total", "Torn tails of the log that were cut off.", registry=registry
        )
        self.damaged_checkpoints = Counter(
            "flowd_damaged_checkpoints_total",
            "Damaged manifests and bucket files that the last start passed over.",
            registry=registry,
        )
        self.saturated_sums = Counter(
            "flowd_saturated_sums_total",
            "Additions that were cut off at 2^63-1.",
            registry=registry,
        )


class SupervisorMetrics:
    """What the supervisor counts, by child (`worker-0`, `router-1`)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._restarts = Counter(
            "flowd_child_restarts_total",
            "Times that a process was started again.",
            ("child",),
            registry=registry,
        )
        self._up = Gauge(
            "flowd_child_up", "1 while the process is ready.", ("child",), registry=registry
        )

    def child_restarts(self, child: str) -> Counter:
        """Give the counter of a child's restarts."""
        return self._restarts.labels(child)

    def child_up(self, child: str) -> Gauge:
        """Give the gauge of whether a child is ready."""
        return self._up.labels(child)


class Family(msgspec.Struct, frozen=True, array_like=True):
    """The samples of one metric in one process.

    Attributes:
        name: as exposed, with `_total`.
        kind: counter, gauge or histogram.
        help_text: what it is.
        samples: name, labels in their order, value.
    """

    name: str
    kind: str
    help_text: str
    samples: list[tuple[str, dict[str, str], float]]


def snapshot(registry: CollectorRegistry) -> bytes:
    """Pack all samples of a registry as MessagePack, for `render` in another process."""
    families = []
    for metric in registry.collect():
        # The client library tells when each series was made, too; Prometheus has no use for that.
        samples = [
            (sample.name, sample.labels, sample.value)
            for sample in metric.samples
            if sample.name != f"{metric.name}_created"
        ]
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        families.append(Family(name, metric.type, metric.documentation, samples))
    return msgspec.msgpack.encode(families)


def render(snapshots: Mapping[str, bytes]) -> str:
    """Make the Prometheus text of several processes.

    Args:
        snapshots: process name → what `snapshot` gave there.

    Returns:
        Each family once, with the samples of all processes, `process` as their first label;
        families in order of name, processes in the mapping's order.

    Raises:
        msgspec.MsgspecError: a snapshot is not one.
    """
    heads: dict[str, Family] = {}
    lines: dict[str, list[str]] = {}
    for process, packed in snapshots.items():
        for family in msgspec.msgpack.decode(packed, type=list[Family]):
            heads.setdefault(family.name, family)
            lines.setdefault(family.name, []).extend(_sample_lines(process, family))
    text: list[str] = []
    for name in sorted(heads):
        head = heads[name]
        text.append(f"# HELP {name} {_escape_help(head.help_text)}\n# TYPE {name} {head.kind}\n")
        text += lines[name]
    return "".join(text)


def _sample_lines(process: str, family: Family) -> Iterable[str]:
    for name, labels, value in family.samples:
        pairs = ",".join(
            f'{label}="{_escape_label(text)}"'
            for label, text in ({"process": process} | labels).items()
        )
        yield f"{name}{{{pairs}}} {_number(value)}\n"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value).removesuffix(".0")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escape_label(text: str) -> str:
    return _escape_help(text).replace('"', r"\"")
