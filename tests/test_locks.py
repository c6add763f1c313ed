"""The lock files hold what pyproject.toml asks for, with hashes, and name no host or machine."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
RUNTIME = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
DEVELOPMENT = PYPROJECT["dependency-groups"]["dev"]


def locked(name: str) -> dict[str, str]:
    """Read a lock file: package → version."""
    text = (PROJECT / name).read_text()
    return {
        package.lower().replace("_", "-"): version
        for package, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", RUNTIME),
        ("requirements-dev.lock", [*RUNTIME, *DEVELOPMENT]),
    ],
)
def test_every_requirement_is_locked_to_a_version_that_it_allows(
    lock: str, requirements: list[str]
) -> None:
    versions = locked(lock)
    for requirement in map(Requirement, requirements):
        name = requirement.name.lower().replace(".", "-")
        assert versions[name] in requirement.specifier, f"{name}: run make lock"


def test_tests_run_with_the_versions_that_users_get() -> None:
    development = locked("requirements-dev.lock")
    assert locked("requirements.lock").items() <= development.items()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_has_hashes_and_names_no_place(lock: str) -> None:
    text = (PROJECT / lock).read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked(lock))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert re.search(r"://|@ |--index|--find-links|(?<=\s)/", text) is None
