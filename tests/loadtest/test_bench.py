"""The benchmark, in its smallest size, on a real flowd: every figure is there, none is a zero."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench import MEASUREMENTS, NOT_YET
from loadtest.figures import Figure, describe_machine, print_table, write_json

PROJECT = Path(__file__).parents[2]


def test_a_quick_run_measures_everything_that_is_there(tmp_path: Path) -> None:
    report_path = tmp_path / "bench.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest.bench", "--quick"),
            *("--json", str(report_path), "--directory", str(tmp_path / "data")),
        ],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report_path.read_text())["figures"]
    missing = {figure["name"] for figure in figures if figure["value"] is None}
    assert missing == {figure.name for figure in NOT_YET}
    measured = [figure for figure in figures if figure["name"] not in missing]
    assert len(measured) >= 2 * len(MEASUREMENTS)
    # So few rows may take no page of memory more than none.
    sizes = ("bytes/row", "MiB")
    assert all(figure["value"] > 0 for figure in measured if figure["unit"] not in sizes)
    for figure in measured:
        setup = figure["setup"]
        assert setup["kernel"] in ("reference", "native")
        assert (setup["sync"], setup["routers"]) == ("always", 1)
    # Nothing is left behind: neither data nor a flowd.
    assert list((tmp_path / "data").iterdir()) == []


def test_a_figure_that_is_missing_is_printed_as_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = [
        Figure("speed", "flows/s", 5_000_000, None, note="no flowd"),
        Figure("size", "bytes", None, 12.25),
    ]
    print_table(figures, {"cores": "2 cores"})
    speed, size = (
        line for line in capsys.readouterr().out.splitlines() if "speed" in line or "size" in line
    )
    assert "missing" in speed
    assert "no flowd" in speed
    assert "12.2" in size
    write_json(tmp_path / "bench.json", figures, {})
    values = [
        figure["value"] for figure in json.loads((tmp_path / "bench.json").read_text())["figures"]
    ]
    assert values == [None, 12.25]


def test_the_machine_is_told_with_the_figures(tmp_path: Path) -> None:
    machine = describe_machine(tmp_path)
    assert machine["cores"].endswith(" cores")
    assert "unknown" not in machine["filesystem"]
