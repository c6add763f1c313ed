"""Measure flowd on this machine: `make bench`, or `python -m loadtest.bench --help`.

Every figure comes from a flowd of its own, started on a free port with an empty data directory, and
the CPU time is that of all of its processes, as the operating system accounts it. The bodies are
made before a clock starts. Load generator and flowd share the machine, so that the CPU time a flow
is the figure to compare; rates only within one run.
"""

import gc
import signal
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import click
from rich.console import Console

from loadtest.client import LoadFailure
from loadtest.figures import Figure, describe_machine, print_table, write_json
from loadtest.ingest_figures import BATCH, measure_batches, measure_half_load, measure_keyed
from loadtest.processes import FlowdFailure
from loadtest.query_figures import measure_queries
from loadtest.recovery_figures import measure_recovery
from loadtest.session import Options

Measurement = Callable[[Options], list[Figure]]

MEASUREMENTS: dict[str, Measurement] = {
    "batch-1000": lambda options: measure_batches(options, BATCH),
    "batch-10000": lambda options: measure_batches(options, 10_000),
    "batch-100": lambda options: measure_batches(options, 100),
    "batch-1": lambda options: measure_batches(options, 1),
    "keyed": measure_keyed,
    "half-load": measure_half_load,
    "queries": measure_queries,
    "recovery": measure_recovery,
}
"""What can be chosen with --only, in the order in which it is measured."""

NOT_YET = (
    Figure(
        "largest pause of a worker in a checkpoint of 10,000,000 rows",
        "ms",
        50,
        None,
        note="not measured yet",
    ),
    Figure("peers, same bodies, same run", "µs/flow", None, None, note="not measured yet"),
)
"""Figures that flowd is to be held to and that nothing here measures so far."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Just these.")
@click.option("--quick", is_flag=True, help="Tiny sizes: whether it works, not how fast.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write JSON here.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("build/bench"),
    show_default=True,
    help="Where the data goes for a while: on the disk to measure.",
)
@click.option("--seconds", type=click.FloatRange(min=0.1), help="How long to measure each rate.")
@click.option("--rows", type=click.IntRange(min=1), help="Rows to hold in memory.")
@click.option("--recovery-flows", type=click.IntRange(min=1_000), help="Flows to replay.")
@click.option("--shards", type=click.IntRange(1, 64), help="Workers.")
@click.option("--routers", type=click.IntRange(1, 256), help="Routers.")
@click.option("--connections", type=click.IntRange(1, 1_024), help="Clients that send at once.")
@click.option("--kernel", type=click.Choice(["auto", "native", "reference"]))
@click.option("--sync", type=click.Choice(["always", "interval"]), help="The setting wal.sync.")
def main(
    only: tuple[str, ...],
    quick: bool,
    json_path: Path | None,
    directory: Path,
    **chosen: int | float | str | None,
) -> None:
    """Measure flowd and print a table; exit with 1 when something could not be measured."""
    sizes = _QUICK if quick else {}
    given = {name: value for name, value in chosen.items() if value is not None}
    options = Options(directory=directory, **(sizes | given))  # type: ignore[arg-type] # by click
    directory.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    failures = 0
    progress = Console(stderr=True)
    for name in only or MEASUREMENTS:
        with progress.status(f"measuring {name} ..."):
            measured, failure = _measure(name, options)
        figures += measured
        failures += failure is not None
        progress.print(f"{name}: {failure or 'measured'}", highlight=False, markup=False)
    if not only:
        figures += NOT_YET
    machine = describe_machine(directory)
    print_table(figures, machine)
    if json_path is not None:
        write_json(json_path, figures, machine)
    sys.exit(1 if failures else 0)


def _measure(name: str, options: Options) -> tuple[list[Figure], str | None]:
    """Measure; when that fails give the missing figure and the reason."""
    gc.collect()  # the bodies of the measurement before
    try:
        return MEASUREMENTS[name](options), None
    except (FlowdFailure, LoadFailure, HTTPException, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        return [Figure(name, "", None, None, note=" ".join(reason.split("\n")[:2]))], reason


_QUICK: dict[str, int | float | str | tuple[int, int]] = {
    "seconds": 0.3,
    "bodies": 10,
    "rows": 3_000,
    "hour_rows": (100, 1_000),
    "recovery_flows": 10_000,
}

if __name__ == "__main__":
    # So that a flowd that was started is stopped then, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    main()
