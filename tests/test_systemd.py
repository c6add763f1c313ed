"""The unit is what systemd takes it for, and shuts out what flowd does not need."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "flowd.service"
EXPOSURE_MAX = 1.5

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed here"
)


def settings() -> dict[str, str]:
    lines = UNIT.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#[")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_unit_is_well_formed(tmp_path: Path):
    # flowd is not installed where the unit expects it, so it is given a program that is there.
    unit = tmp_path / "flowd.service"
    program = settings()["ExecStart"].split()[0]
    unit.write_text(UNIT.read_text().replace(program, "/bin/true"))
    verdict = analyze("verify", "--man=no", str(unit))
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, "", "")


def test_verify_would_find_a_mistake(tmp_path: Path):
    unit = tmp_path / "flowd.service"
    unit.write_text(UNIT.read_text().replace("KillMode=mixed", "KillMode=mixd"))
    assert "mixd" in analyze("verify", "--man=no", str(unit)).stderr


def test_the_service_is_exposed_to_next_to_nothing():
    verdict = analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:.0f}", str(UNIT)
    )
    assert verdict.returncode == 0, verdict.stdout.splitlines()[-1]


def test_the_unit_says_what_the_supervisor_relies_on():
    found = settings()
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "KillMode": "mixed",
        "StateDirectory": "flowd",
        "RuntimeDirectory": "flowd",
        "RuntimeDirectoryMode": "0700",
        "Restart": "on-failure",
        "ExecReload": "/bin/kill -HUP $MAINPID",
    }
    assert {name: found[name] for name in expected} == expected
    assert "78" in found["RestartPreventExitStatus"].split()
    assert int(found["LimitNOFILE"]) > 2 * 1_024


def test_systemd_is_more_patient_than_the_supervisor():
    from flowd.supervisor.timing import Timing

    timing = Timing()
    found = settings()
    assert _seconds(found["WatchdogSec"]) > timing.hang_seconds + timing.abort_seconds
    assert _seconds(found["TimeoutStopSec"]) > 2 * timing.drain_seconds
    assert _seconds(found["TimeoutStartSec"]) > timing.budget_seconds


def test_the_variables_in_the_unit_are_settings():
    from flowd.config import load_config

    variables = dict(word.split("=", 1) for word in settings()["Environment"].split())
    assert load_config(None, variables, {}).config.log.format == "json"


def _seconds(span: str) -> float:
    return float(span.removesuffix("s"))
