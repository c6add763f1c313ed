"""Holding rows and giving them: memory a row, one hour's answer, a long answer and its memory."""

import statistics

import uvloop

from loadtest import procfs
from loadtest.bodies import FIRST_HOUR, distinct_bodies
from loadtest.client import drive
from loadtest.fetch import Fetched, fetch
from loadtest.figures import Figure, Setup
from loadtest.posts import post_request
from loadtest.processes import FlowdProcess
from loadtest.session import Options, fresh_flowd, setup_of

MIB = 1024 * 1024

_BODY_FLOWS = 10_000
_HOUR_GOALS_MS = {1_000: 3.0, 100_000: 60.0}
_READS = 10


def measure_queries(options: Options) -> list[Figure]:
    """Fill a flowd with `options.rows` distinct rows and ask for them.

    Args:
        options: the sizes. The first hours have `hour_rows` rows, those behind them as many as the
            last of these, until all rows are there.
    """
    hours = _rows_by_hour(options)
    with fresh_flowd(options) as flowd:
        setup = setup_of(options, flowd)
        empty_bytes = flowd.resident_bytes("worker")
        for hour, rows in hours.items():
            _fill(flowd, hour, rows)
        held_bytes = flowd.resident_bytes("worker") - empty_bytes
        return [
            Figure(
                f"bytes a row, {options.rows:,} rows held",
                "bytes/row",
                64,
                held_bytes / options.rows,
                _BODY_FLOWS,
                "resident memory of the workers above that of empty ones",
                setup,
            ),
            *(
                _hour_figure(flowd, hour, rows, setup)
                for (hour, rows), _ in zip(hours.items(), options.hour_rows, strict=False)
            ),
            *_long_answer_figures(flowd, options.rows, len(hours), setup),
        ]


def _rows_by_hour(options: Options) -> dict[int, int]:
    left = options.rows
    rows_by_hour: dict[int, int] = {}
    while left > 0:
        index = min(len(rows_by_hour), len(options.hour_rows) - 1)
        rows = min(left, options.hour_rows[index])
        rows_by_hour[FIRST_HOUR + len(rows_by_hour)] = rows
        left -= rows
    return rows_by_hour


def _fill(flowd: FlowdProcess, hour: int, rows: int) -> None:
    requests = map(post_request, distinct_bodies(rows, hour, _BODY_FLOWS))
    uvloop.run(drive(flowd.host, flowd.port, requests, connections=4))


def _hour_figure(flowd: FlowdProcess, hour: int, rows: int, setup: Setup) -> Figure:
    first, *more = [_fetch(flowd, f"/flows?hour={hour}") for _ in range(1 + _READS)]
    return Figure(
        f"GET one hour of {rows:,} rows",
        "ms",
        _HOUR_GOALS_MS.get(rows),
        1e3 * statistics.median(fetched.seconds for fetched in more),
        note=f"median of {len(more)}; the first one {1e3 * first.seconds:.1f} ms",
        setup=setup,
    )


def _long_answer_figures(flowd: FlowdProcess, rows: int, hours: int, setup: Setup) -> list[Figure]:
    routers = [pid for name, pid in flowd.pids().items() if name.startswith("router")]
    idle_bytes = flowd.resident_bytes("router")
    for pid in routers:
        procfs.reset_resident_max(pid)
    fetched = _fetch(flowd, f"/flows?from={FIRST_HOUR}&to={FIRST_HOUR + hours}")
    peak_bytes = sum(procfs.resident_bytes_max(pid) or 0 for pid in routers)
    return [
        Figure(
            f"GET {rows:,} rows: time to first byte",
            "ms",
            100,
            1e3 * fetched.first_byte_seconds,
            note=f"all {fetched.size_bytes / MIB:,.1f} MiB within {fetched.seconds:.1f} s",
            setup=setup,
        ),
        Figure(
            f"GET {rows:,} rows: router memory above idle",
            "MiB",
            64,
            (peak_bytes - idle_bytes) / MIB,
            note=f"idle {idle_bytes / MIB:.0f} MiB",
            setup=setup,
        ),
    ]


def _fetch(flowd: FlowdProcess, target: str) -> Fetched:
    return uvloop.run(fetch(flowd.host, flowd.port, target))
