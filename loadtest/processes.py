"""A real `flowd serve` of one's own: on a free port, in a directory of its own, gone afterwards.

Used by the benchmark and by the end-to-end tests alike. It knows flowd as an operator does: by its
command line, its address and its process table.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from loadtest import procfs

_POLL_SECONDS = 0.01
_KILL_SECONDS = 10.0
_LOG_TAIL_BYTES = 4_000


class FlowdFailure(Exception):
    """flowd did not do what it was started for; the text has the end of its log."""


class Response(NamedTuple):
    """An HTTP answer, body and all."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class FlowdProcess:
    """One `flowd serve`, its supervisor and all of its children.

    Args:
        directory: where the data directory (`data`), the settings and the log are; made if missing.
            A second flowd on the same directory takes up the data that the first one left.
        shards: how many workers; None for what the data directory has.
        routers: how many routers.
        kernel: `auto`, `native` or `reference`.
        config: further settings as in the configuration file: `{"wal": {"sync": "interval"}}`.
        listen: the address; port 0 takes a free one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        shards: int | None = 2,
        routers: int = 1,
        kernel: str = "auto",
        config: Mapping[str, object] | None = None,
        listen: str = "127.0.0.1:0",
    ) -> None:
        directory = directory.absolute()
        self.data_dir = directory / "data"
        self.log_path = directory / "flowd.log"
        # Socket addresses are short, so the sockets cannot live under a test's long directory name.
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="flowd-"))
        self.host = ""
        self.port = 0
        directory.mkdir(parents=True, exist_ok=True)
        config_path = directory / "flowd.toml"
        settings: dict[str, object] = {
            "listen": listen,
            "data_dir": str(self.data_dir),
            "runtime_dir": str(self.runtime_dir),
            "routers": routers,
            "kernel": kernel,
        }
        if shards is not None:
            settings["shards"] = shards
        config_path.write_text(_toml(settings | dict(config or {})))
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flowd", "serve", "--config", str(config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that a Ctrl-C here is not one there
            )

    @property
    def url(self) -> str:
        """The address to ask, without a final slash."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    def log(self) -> str:
        """Give all that flowd has logged, earlier runs in the same directory included."""
        return self.log_path.read_text(errors="replace")

    def pids(self) -> dict[str, int]:
        """List the living processes by name: `supervisor`, `worker-0`, `router-0` and so on."""
        found: dict[str, int] = {}
        if self._process.poll() is None:
            found["supervisor"] = self.pid
        for pid in procfs.child_pids(self.pid):
            arguments = procfs.command_line(pid)
            if "flowd.child" in arguments:
                role, index = arguments[arguments.index("flowd.child") + 1 :][:2]
                found[f"{role}-{index}"] = pid
        return found

    def cpu_seconds_by_role(self) -> dict[str, float]:
        """Tell the CPU time taken by supervisor, routers and workers, threads and all.

        Processes that ended count for the supervisor, which waited for them.
        """
        seconds: dict[str, float] = {}
        for name, pid in self.pids().items():
            role = name.partition("-")[0]
            seconds[role] = seconds.get(role, 0.0) + (procfs.cpu_seconds(pid) or 0.0)
        return seconds

    def resident_bytes(self, role: str) -> int:
        """Tell the memory of all processes of a role (`worker`, `router`) together."""
        return sum(
            procfs.resident_bytes(pid) or 0
            for name, pid in self.pids().items()
            if name.startswith(role)
        )

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
    ) -> Response:
        """Send one request on a connection of its own and read the whole answer.

        Raises:
            OSError, http.client.HTTPException: no answer, or none that is whole.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_seconds)
        try:
            connection.request(method, path, body, dict(headers or {}))
            with connection.getresponse() as answer:
                return Response(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def wait_ready(self, timeout_seconds: float = 30.0) -> None:
        """Return when every shard answers.

        Raises:
            FlowdFailure: flowd has exited, or the time is over.
        """
        self.wait_for(self._is_ready, "ready", timeout_seconds)

    def wait_for(
        self, condition: Callable[[], bool], what: str, timeout_seconds: float = 30.0
    ) -> None:
        """Return when a condition holds.

        Raises:
            FlowdFailure: flowd has exited, or the time is over; `what` is in the text.
        """

        def holds() -> bool:
            if condition():
                return True
            if self._process.poll() is not None:
                raise self._failure(f"flowd exited with {self._process.returncode} before: {what}")
            return False

        self._wait_until(holds, what, timeout_seconds)

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> int:
        """Send a signal to one process, by its name in `pids`; return the process id it had."""
        pid = self.pids()[name]
        os.kill(pid, signal_number)
        return pid

    def kill_all(self) -> None:
        """Kill every process with SIGKILL, as a crash would; return when all are gone."""
        if self._process.poll() is not None:
            return
        # A supervisor that stands still starts nothing that would be missed.
        self._process.send_signal(signal.SIGSTOP)
        self._wait_until(lambda: procfs.is_stopped(self.pid), "the supervisor stands still")
        pids = self.pids().values()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self._process.wait(_KILL_SECONDS)
        self._wait_until(lambda: not any(map(procfs.is_running, pids)), "all processes are gone")

    def stop(self, timeout_seconds: float = 30.0) -> int:
        """Ask flowd to drain and end (SIGTERM); return its exit status.

        Raises:
            FlowdFailure: it did not end in time; it is killed.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait(timeout_seconds)

    def wait(self, timeout_seconds: float = 30.0) -> int:
        """Wait for flowd to end by itself; return its exit status.

        Raises:
            FlowdFailure: it did not end in time; it is killed.
        """
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise self._failure(f"flowd did not end within {timeout_seconds:g} s") from None

    def close(self) -> None:
        """Leave nothing behind: no process and no socket. The data stays."""
        if self._process.poll() is None:
            self.kill_all()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)

    def _is_ready(self) -> bool:
        try:
            address = (self.runtime_dir / "listen").read_text().strip()
        except FileNotFoundError:
            return False
        host, _, port = address.rpartition(":")
        if not port:
            return False
        self.host, self.port = host.strip("[]"), int(port)
        try:
            return self.request("GET", "/-/ready", timeout_seconds=5.0).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _wait_until(
        self, condition: Callable[[], bool], what: str, timeout_seconds: float = _KILL_SECONDS
    ) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise self._failure(f"not within {timeout_seconds:g} s: {what}")
            time.sleep(_POLL_SECONDS)

    def _failure(self, what: str) -> FlowdFailure:
        return FlowdFailure(
            f"{what}\n--- the end of {self.log_path}:\n{self.log()[-_LOG_TAIL_BYTES:]}"
        )


@contextmanager
def running_flowd(
    directory: Path,
    *,
    shards: int | None = 2,
    routers: int = 1,
    kernel: str = "auto",
    config: Mapping[str, object] | None = None,
    ready_seconds: float = 30.0,
) -> Iterator[FlowdProcess]:
    """Start a flowd, wait until it is ready, and leave nothing of it running; see `FlowdProcess`.

    Raises:
        FlowdFailure: it did not become ready within `ready_seconds`.
    """
    flowd = FlowdProcess(directory, shards=shards, routers=routers, kernel=kernel, config=config)
    try:
        flowd.wait_ready(ready_seconds)
        yield flowd
    finally:
        flowd.close()


def _toml(settings: Mapping[str, object]) -> str:
    """Write settings of at most two levels; a JSON scalar is a TOML one."""
    lines = [
        f"{name} = {json.dumps(value)}"
        for name, value in settings.items()
        if not isinstance(value, Mapping)
    ]
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += [
                "",
                f"[{name}]",
                *(f"{key} = {json.dumps(entry)}" for key, entry in value.items()),
            ]
    return "\n".join(lines) + "\n"
