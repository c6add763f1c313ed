"""Starting again: how fast one shard replays its log after kill -9."""

import dataclasses
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import uvloop

from loadtest.bodies import random_bodies
from loadtest.client import drive
from loadtest.figures import Figure
from loadtest.posts import post_request
from loadtest.processes import FlowdFailure
from loadtest.session import Options, flowd_in, metric, setup_of

_BATCH = 1_000
_NO_CHECKPOINT = {"checkpoint": {"log_bytes": 2**40}}


def measure_recovery(options: Options) -> list[Figure]:
    """Log flows in one shard without a checkpoint, kill it, and time the next start."""
    options = dataclasses.replace(options, shards=1)
    batches = max(1, options.recovery_flows // _BATCH)
    with TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        directory = Path(name)
        requests = [post_request(body) for body in random_bodies(options.bodies, _BATCH)]
        with flowd_in(directory, options, _NO_CHECKPOINT) as flowd:
            uvloop.run(
                drive(
                    flowd.host,
                    flowd.port,
                    islice(cycle(requests), batches),
                    connections=options.connections,
                )
            )
            flowd.kill_all()
        started = perf_counter()
        with flowd_in(directory, options, _NO_CHECKPOINT) as flowd:
            ready_seconds = perf_counter() - started
            setup = setup_of(options, flowd)
            recovery_seconds = metric(flowd, "flowd_recovery_seconds")
            flows = metric(flowd, "flowd_flows_appended_total") or 0
            if flows != batches * _BATCH:
                raise FlowdFailure(f"{batches * _BATCH:,} flows sent, {flows:,.0f} recovered")
    rate = flows / recovery_seconds if recovery_seconds else None
    return [
        Figure(
            "recovery, one shard",
            "flows/s",
            5_000_000,
            rate,
            _BATCH,
            f"{flows:,.0f} flows; ready {ready_seconds:.1f} s after the start"
            if rate
            else "flowd tells no flowd_recovery_seconds",
            setup,
        )
    ]
