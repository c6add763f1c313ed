"""A supervisor with scripted children, in the test's process or in one of its own."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from flowd.config import Config, LogConfig
from flowd.control import Assignment
from flowd.data_directory import Identity
from flowd.listen import open_listener
from flowd.logs import configure_logs
from flowd.metrics import SupervisorMetrics
from flowd.runtime_directory import RuntimeDirectory
from flowd.sdnotify import Notifier
from flowd.supervisor.child_process import child_environment
from flowd.supervisor.supervisor import Supervisor
from flowd.supervisor.timing import Timing

QUICK = Timing(
    hang_seconds=10.0,
    abort_seconds=0.3,
    drain_seconds=5.0,
    healthy_seconds=60.0,
    budget_restarts=3,
    budget_seconds=60.0,
    backoff_seconds=0.01,
    backoff_max_seconds=0.05,
    retry_seconds=0.3,
    report_seconds=0.05,
)
HANGS_SOON = replace(QUICK, hang_seconds=0.8)
DEADLINE_SECONDS = 20.0
SCRIPT = Path(__file__).with_name("scripted_child.py")


class Harness:
    """One supervisor over scripted children; `directory` holds their scripts and their events."""

    def __init__(
        self,
        directory: Path,
        runtime: RuntimeDirectory,
        *,
        workers: int = 1,
        routers: int = 1,
        timing: Timing = QUICK,
        notifier: Notifier | None = None,
    ) -> None:
        self.directory = directory
        self.runtime = runtime
        self.registry = CollectorRegistry()
        config = Config(listen="127.0.0.1:0", log=LogConfig(level="debug"))
        configure_logs(config.log, "supervisor")
        self.listener = open_listener(config)
        identity = Identity(
            generation=1, shards=workers, seed="0123456789abcdef", directory_id="00" * 16
        )
        names = [("worker", shard) for shard in range(workers)]
        names += [("router", router) for router in range(routers)]
        self.supervisor = Supervisor(
            [
                Assignment(
                    role=role,
                    index=index,
                    config=config,
                    data_dir=str(directory),
                    identity=identity,
                    runtime_dir=str(runtime.path),
                    boot="boot",
                    kernel="reference",
                    listen_descriptor=(self.listener.socket.fileno() if role == "router" else None),
                )
                for role, index in names
            ],
            command=(sys.executable, "-S", "-E", str(SCRIPT), str(directory)),
            environ=child_environment(os.environ, []),
            listener=self.listener,
            runtime=runtime,
            notifier=notifier or Notifier(None),
            metrics=SupervisorMetrics(self.registry),
            timing=timing,
        )
        self.listener_address = self.listener.address
        self.task: asyncio.Task[int] | None = None

    def script(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def events(self) -> list[tuple[str, int, str]]:
        """What the children did so far: name, process id, step."""
        path = self.directory / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            (name, int(pid), step) for name, pid, step in (line.split(" ", 2) for line in lines)
        ]

    def steps(self, name: str) -> list[str]:
        return [step for who, _, step in self.events() if who == name]

    def pid(self, name: str) -> int:
        return [pid for who, pid, _ in self.events() if who == name][-1]

    def is_ready(self) -> bool:
        return (self.runtime.path / "listen").exists()

    def restarts(self, name: str) -> float:
        value = self.registry.get_sample_value("flowd_child_restarts_total", {"child": name})
        return value or 0.0

    def is_up(self, name: str) -> bool:
        return self.registry.get_sample_value("flowd_child_up", {"child": name}) == 1

    async def start(self) -> None:
        self.task = asyncio.create_task(self.supervisor.run())

    async def until(self, condition, what: str = "the condition") -> None:
        """Wait for a condition, or fail."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true: {self.events()}"
            assert self.task is None or not self.task.done(), f"ended early: {self.task}"
            await asyncio.sleep(0.01)

    async def finish(self) -> int:
        """Wait for the supervisor's end; gives its exit status."""
        assert self.task is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.task

    async def stop(self) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return await self.finish()


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fl-") as name:
        yield Path(name)


def notify_socket(directory: Path) -> socket.socket:
    """The service manager's end."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(directory / "notify"))
    receiver.setblocking(False)
    return receiver


def main() -> None:
    directory, runtime = Path(sys.argv[1]), RuntimeDirectory.open(sys.argv[2], Path(sys.argv[1]))
    harness = Harness(directory, runtime, workers=2, routers=1)
    sys.exit(asyncio.run(harness.supervisor.run()))


if __name__ == "__main__":
    main()
