"""What a benchmark reports: figures with all that they depend on, as a table and as JSON.

A figure that could not be measured has no value and says why; it is never a zero.
"""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Setup:
    """What ran while a figure was measured.

    Attributes:
        kernel: the kernel in use, `reference` or `native`.
        sync: the setting `wal.sync`.
        shards: how many workers.
        routers: how many routers.
        connections: how many clients sent at once.
    """

    kernel: str
    sync: str
    shards: int
    routers: int
    connections: int


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        name: what was measured.
        unit: of value and goal.
        goal: what is aimed at; None where there is no goal.
        value: what was measured; None when it is missing.
        batch: flows a request; None where no flows were sent.
        note: what else to know; when missing, why.
        setup: what ran; None when nothing did.
    """

    name: str
    unit: str
    goal: float | None
    value: float | None
    batch: int | None = None
    note: str = ""
    setup: Setup | None = None


def print_table(figures: list[Figure], machine: dict[str, str]) -> None:
    """Print the figures for people."""
    table = Table(caption=", ".join(machine.values()), caption_justify="left")
    table.add_column("figure")
    for heading in ("value", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("kernel, wal.sync, shards/routers/connections")
    table.add_column("note")
    for figure in figures:
        table.add_row(
            figure.name,
            "missing" if figure.value is None else _short(figure.value),
            "" if figure.goal is None else _short(figure.goal),
            figure.unit,
            "" if figure.batch is None else f"{figure.batch:,}",
            "" if figure.setup is None else _describe(figure.setup),
            figure.note,
        )
    console = Console()
    # In a file or a pipe there is no width to fit into, and a cut figure is of no use.
    console = console if console.is_terminal else Console(width=200)
    console.print(table)


def write_json(path: Path, figures: list[Figure], machine: dict[str, str]) -> None:
    """Write the figures for programs."""
    report = {"machine": machine, "figures": [asdict(figure) for figure in figures]}
    path.write_text(json.dumps(report, indent=2) + "\n")


def describe_machine(data_dir: Path) -> dict[str, str]:
    """Tell what the figures were measured on.

    Args:
        data_dir: a directory on the file system that the logs are on.
    """
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": f"{len(os.sched_getaffinity(0))} cores",
        "linux": f"Linux {platform.release()}",
        "python": f"Python {platform.python_version()}",
        "filesystem": f"logs on {_file_system(data_dir)}",
    }


def _file_system(path: Path) -> str:
    """Find the type of the file system with the longest mount point above a path; see proc(5)."""
    found = (0, "an unknown file system")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        mount_point, kind = fields[4], fields[fields.index("-") + 1]
        if path.resolve().is_relative_to(mount_point):
            found = max(found, (len(mount_point), kind))
    return found[1]


def _describe(setup: Setup) -> str:
    counts = f"{setup.shards}/{setup.routers}/{setup.connections}"
    return f"{setup.kernel}, {setup.sync}, {counts}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
