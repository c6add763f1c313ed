import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowd.errors import ConfigError, FlowdError
from flowd.runtime_directory import (
    SOCKET_PATH_BYTES_MAX,
    RuntimeDirectory,
    router_socket,
    supervisor_socket,
    worker_socket,
)
from tests.supervisor.harness import short_directory


@pytest.fixture
def short() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


def test_the_directory_is_made_for_us_alone(short: Path):
    runtime = RuntimeDirectory.open(str(short / "a" / "run"), short)
    assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o700
    runtime.close()


def test_without_a_setting_it_is_named_after_the_data_directory(
    short: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    one, other = (RuntimeDirectory.open("", Path(name)) for name in ("/data/a", "/data/b"))
    assert one.path != other.path
    assert one.path.parent == short
    assert one.path.name.startswith(f"flowd-{os.geteuid()}-")
    one.close()
    again = RuntimeDirectory.open("", Path("/data/a"))
    assert again.path == one.path
    again.close()
    other.close()


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o600])
def test_a_directory_with_another_mode_is_refused(short: Path, mode: int):
    (short / "run").mkdir()
    (short / "run").chmod(mode)
    with pytest.raises(ConfigError, match=r"must be a directory of user .* with mode 0700"):
        RuntimeDirectory.open(str(short / "run"), short)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_a_directory_of_somebody_else_is_refused(short: Path):
    (short / "run").mkdir(mode=0o700)
    os.chown(short / "run", 65_534, -1)
    with pytest.raises(ConfigError, match="it has user 65534"):
        RuntimeDirectory.open(str(short / "run"), short)


def test_a_link_is_followed_only_where_it_was_asked_for(
    short: Path, monkeypatch: pytest.MonkeyPatch
):
    (short / "ours").mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    runtime = RuntimeDirectory.open("", short)
    runtime.close()
    (runtime.path / "LOCK").unlink()
    runtime.path.rmdir()
    runtime.path.symlink_to(short / "ours")
    with pytest.raises(ConfigError, match="must be a directory"):
        RuntimeDirectory.open("", short)
    RuntimeDirectory.open(str(runtime.path), short).close()


def test_a_path_too_long_for_a_socket_is_refused_with_what_to_do(short: Path):
    longest = SOCKET_PATH_BYTES_MAX - len("/supervisor.sock") - 2
    path = str(short / ("x" * (longest - len(str(short)) - 1)))
    runtime = RuntimeDirectory.open(path, short)
    sockets = [
        worker_socket(runtime.path, 63),
        router_socket(runtime.path, 255),
        supervisor_socket(runtime.path),
    ]
    assert all(len(os.fsencode(name)) <= SOCKET_PATH_BYTES_MAX for name in sockets)
    runtime.close()
    with pytest.raises(
        ConfigError, match="1 bytes too long for the sockets in it; set runtime_dir"
    ):
        RuntimeDirectory.open(path + "x", short)


def test_it_has_one_owner_at_a_time_and_what_the_last_one_left_is_removed(short: Path):
    first = RuntimeDirectory.open(str(short / "run"), short)
    first.tell_address("127.0.0.1:8000")
    (first.path / "worker-0.sock").touch()
    with pytest.raises(FlowdError, match="another flowd is running on this runtime directory"):
        RuntimeDirectory.open(str(short / "run"), short)
    assert (first.path / "listen").read_text() == "127.0.0.1:8000\n"
    first.close()
    RuntimeDirectory.open(str(short / "run"), short).close()
    assert [entry.name for entry in (short / "run").iterdir()] == ["LOCK"]


def test_the_address_can_be_taken_back(short: Path):
    runtime = RuntimeDirectory.open(str(short / "run"), short)
    runtime.tell_address("127.0.0.1:8000")
    runtime.tell_address(None)
    runtime.tell_address(None)
    assert not (runtime.path / "listen").exists()
    runtime.close()


def test_a_path_that_cannot_be_made_is_named(short: Path):
    (short / "file").touch()
    with pytest.raises(FlowdError, match=f"{short}/file/run: cannot be used as runtime_dir"):
        RuntimeDirectory.open(str(short / "file" / "run"), short)
