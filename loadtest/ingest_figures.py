"""Taking flows in: CPU time a flow, rate, log size, and times of acknowledgements beside reads."""

import asyncio
import time
from collections.abc import Iterable
from itertools import cycle

import uvloop

from loadtest.bodies import FIRST_HOUR, HOURS, random_bodies
from loadtest.client import Run, drive, pace
from loadtest.fetch import fetch
from loadtest.figures import Figure, Setup
from loadtest.posts import keyed_requests, post_request
from loadtest.processes import FlowdProcess
from loadtest.session import Options, fresh_flowd, metric, setup_of

BATCH = 1_000
"""The size of batch that most goals are stated for."""

_CPU_GOALS_US = {1_000: 0.40, 10_000: 0.35, 100: 0.9, 1: 80.0}


def measure_batches(options: Options, batch: int) -> list[Figure]:
    """Measure the CPU time a flow in batches of one size, un-keyed.

    Args:
        options: how long, and with what.
        batch: flows a request.
    """
    bodies = random_bodies(options.bodies, batch)
    requests = [post_request(body) for body in bodies]
    with fresh_flowd(options) as flowd:
        setup = setup_of(options, flowd)
        # The rows are there before the clock starts: what is measured is the steady state.
        _drive(flowd, options, requests)
        busy = _Busy(flowd, batch)
        run = _drive(flowd, options, cycle(requests), options.seconds)
        figures = busy.figures(run, setup, "", _CPU_GOALS_US.get(batch))
        if batch == BATCH:
            figures.append(_log_figure(flowd, setup))
    return figures


def measure_keyed(options: Options) -> list[Figure]:
    """Measure the CPU time a flow with an Idempotency-Key in each request."""
    bodies = random_bodies(options.bodies, BATCH)
    with fresh_flowd(options) as flowd:
        setup = setup_of(options, flowd)
        _drive(flowd, options, map(post_request, bodies))
        busy = _Busy(flowd, BATCH)
        run = _drive(flowd, options, keyed_requests(bodies), options.seconds)
        return busy.figures(run, setup, ", keyed", 0.42)


def measure_half_load(options: Options) -> list[Figure]:
    """Measure acknowledgements at half of the full rate, without and with reads beside them."""
    requests = [post_request(body) for body in random_bodies(options.bodies, BATCH)]
    with fresh_flowd(options) as flowd:
        setup = setup_of(options, flowd)
        _drive(flowd, options, requests)
        full = _drive(flowd, options, cycle(requests), options.seconds)
        rate = full.requests / full.seconds / 2
        alone = uvloop.run(_pace(flowd, options, requests, rate))
        beside, reads = uvloop.run(_pace_beside_reads(flowd, options, requests, rate))
    p50, p99, p99_beside = alone.latency(0.5), alone.latency(0.99), beside.latency(0.99)
    half = f"{rate * BATCH:,.0f} flows/s"
    beside_note = f"{half}; to {1e3 * p99_beside:.1f} ms beside {reads} GETs of an hour"
    return [
        Figure("acknowledged at half load, p50", "ms", 5, 1e3 * p50, BATCH, half, setup),
        Figure("acknowledged at half load, p99", "ms", 20, 1e3 * p99, BATCH, half, setup),
        Figure(
            "GET while ingesting: ingest p99 rises",
            "times",
            2,
            p99_beside / p99,
            BATCH,
            beside_note,
            setup,
        ),
    ]


class _Busy:
    """The CPU time of flowd and of this process from here on."""

    def __init__(self, flowd: FlowdProcess, batch: int) -> None:
        self._flowd = flowd
        self._batch = batch
        self._before = flowd.cpu_seconds_by_role()
        self._own_before = time.process_time()

    def figures(self, run: Run, setup: Setup, keyed: str, goal_us: float | None) -> list[Figure]:
        own_seconds = time.process_time() - self._own_before
        roles = {
            role: seconds - self._before.get(role, 0.0)
            for role, seconds in self._flowd.cpu_seconds_by_role().items()
        }
        flows = run.requests * self._batch
        shares = ", ".join(
            f"{role} {1e6 * seconds / flows:.2f}" for role, seconds in sorted(roles.items())
        )
        rate_goal = 2_500_000 if self._batch == BATCH and not keyed else None
        return [
            Figure(
                f"CPU of all flowd processes{keyed}",
                "µs/flow",
                goal_us,
                1e6 * sum(roles.values()) / flows,
                self._batch,
                f"{shares}; load generator {1e6 * own_seconds / flows:.2f}",
                setup,
            ),
            Figure(
                f"rate, load generator on the same cores{keyed}",
                "flows/s",
                rate_goal,
                flows / run.seconds,
                self._batch,
                f"acknowledged after p50 {1e3 * run.latency(0.5):.1f} ms, "
                f"p99 {1e3 * run.latency(0.99):.1f} ms",
                setup,
            ),
        ]


def _log_figure(flowd: FlowdProcess, setup: Setup) -> Figure:
    written = metric(flowd, "flowd_wal_written_bytes_total")
    flows = metric(flowd, "flowd_flows_appended_total")
    size = written / flows if written and flows else None
    note = "record headers included" if size else "flowd tells no flowd_wal_written_bytes_total"
    return Figure("log bytes", "bytes/flow", 40, size, BATCH, note, setup)


def _drive(
    flowd: FlowdProcess,
    options: Options,
    requests: Iterable[bytes],
    seconds: float = float("inf"),
) -> Run:
    return uvloop.run(
        drive(flowd.host, flowd.port, requests, connections=options.connections, seconds=seconds)
    )


async def _pace(flowd: FlowdProcess, options: Options, requests: list[bytes], rate: float) -> Run:
    return await pace(
        flowd.host,
        flowd.port,
        cycle(requests),
        rate=rate,
        seconds=options.seconds,
        connections=4 * options.connections,
    )


async def _pace_beside_reads(
    flowd: FlowdProcess, options: Options, requests: list[bytes], rate: float
) -> tuple[Run, int]:
    pacing = asyncio.create_task(_pace(flowd, options, requests, rate))
    reads = 0
    while not pacing.done():
        await fetch(flowd.host, flowd.port, f"/flows?hour={FIRST_HOUR + reads % HOURS}")
        reads += 1
    return await pacing, reads
