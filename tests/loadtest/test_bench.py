"""The benchmark, in its smallest size, on a real flowd: every figure is there, none is a zero."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest.bench import MEASUREMENTS, NOT_YET, main
from loadtest.client import LoadFailure
from loadtest.figures import Figure, describe_machine, print_table, write_json
from loadtest.session import Options

PROJECT = Path(__file__).parents[2]
KINDS = ("batch-1000", "keyed", "half-load", "queries", "recovery")


def test_a_quick_run_measures_every_kind_of_figure(tmp_path: Path) -> None:
    report_path = tmp_path / "bench.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest.bench", "--quick"),
            *(argument for name in KINDS for argument in ("--only", name)),
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
    assert len(figures) == 3 + 2 + 3 + 5 + 1
    assert all(figure["value"] is not None for figure in figures)
    # So few rows may take no page of memory more than none.
    sizes = ("bytes/row", "MiB")
    assert all(figure["value"] > 0 for figure in figures if figure["unit"] not in sizes)
    for figure in figures:
        setup = figure["setup"]
        assert setup["kernel"] in ("reference", "native")
        assert (setup["sync"], setup["routers"]) == ("always", 1)
    # Nothing is left behind: neither data nor a flowd.
    assert list((tmp_path / "data").iterdir()) == []


def test_what_cannot_be_measured_is_a_missing_figure_and_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Options) -> list[Figure]:
        raise LoadFailure("not a 2xx:\nHTTP/1.1 503 Busy")

    def measure(options: Options) -> list[Figure]:
        return [Figure("rows", "rows", None, options.rows)]

    for name in MEASUREMENTS:
        monkeypatch.setitem(MEASUREMENTS, name, fail if name == "keyed" else measure)
    report_path = tmp_path / "bench.json"
    arguments = ["--rows", "7", "--json", str(report_path), "--directory", str(tmp_path / "data")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    figures = {entry["name"]: entry for entry in json.loads(report_path.read_text())["figures"]}
    assert figures["rows"]["value"] == 7
    assert figures["keyed"]["value"] is None
    assert figures["keyed"]["note"] == "LoadFailure: not a 2xx: HTTP/1.1 503 Busy"
    assert all(figures[figure.name]["value"] is None for figure in NOT_YET)
    assert done.stdout.count("missing") == 1 + len(NOT_YET)


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
