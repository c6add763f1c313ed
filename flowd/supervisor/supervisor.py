"""Keeps all children, drains them in order, and tells systemd and people how it stands.

Signal handlers only note what was asked; one coroutine acts on it. Routers stop first, so that no
request finds its worker gone; the second SIGTERM or SIGINT kills.
"""

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence

from flowd.control import Assignment, Role
from flowd.listen import Listener
from flowd.logs import get_logger
from flowd.metrics import SupervisorMetrics
from flowd.runtime_directory import RuntimeDirectory
from flowd.sdnotify import Notifier
from flowd.supervisor.keeper import EXIT_FAILED, ChildState, Keeper
from flowd.supervisor.timing import Timing

log = get_logger()


class Supervisor:
    """Keeps the processes of one flowd.

    Args:
        assignments: what each child is to be.
        command: the program they run; role, index and a descriptor are appended.
        environ: their environment.
        listener: the socket that routers inherit; closed when the drain begins.
        runtime: where the listening address is told.
        notifier: the service manager.
        metrics: where restarts are counted.
        timing: limits, back-off and budget.
    """

    def __init__(
        self,
        assignments: Sequence[Assignment],
        *,
        command: Sequence[str],
        environ: Mapping[str, str],
        listener: Listener,
        runtime: RuntimeDirectory,
        notifier: Notifier,
        metrics: SupervisorMetrics,
        timing: Timing,
    ) -> None:
        self._listener = listener
        self._runtime = runtime
        self._notifier = notifier
        self._timing = timing
        self._changed = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._status = 0
        self._is_ready = False
        self._is_signalled = False
        self._keepers = [
            Keeper(assignment, command, environ, timing, metrics, self._changed.set)
            for assignment in assignments
        ]

    async def run(self) -> int:
        """Start everything, keep it running until told to stop, and drain.

        Returns:
            The exit status: 0 after a drain, 78 when a router cannot run with these settings, 1
            when one could not be kept running or the drain was cut short.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._ask_to_stop, signum)
        loop.add_signal_handler(signal.SIGHUP, log.info, "nothing_to_reload")
        async with asyncio.TaskGroup() as tasks:
            for keeper in self._keepers:
                tasks.create_task(self._keep(keeper))
            reporting = tasks.create_task(self._report())
            await self._stop_asked.wait()
            reporting.cancel()
            await self._drain()
        return self._status

    async def _keep(self, keeper: Keeper) -> None:
        status = await keeper.keep()
        if status != 0:
            log.error("stopping", reason=f"{keeper.name} cannot be kept running")
            self._status = self._status or status
            self._stop_asked.set()

    def _ask_to_stop(self, signum: signal.Signals) -> None:
        if not self._is_signalled:
            self._is_signalled = True
            log.info("stopping", reason=signum.name)
            self._stop_asked.set()
            return
        log.warning("killing", reason=f"{signum.name} while stopping")
        self._status = EXIT_FAILED
        for keeper in self._keepers:
            keeper.kill()

    async def _drain(self) -> None:
        self._notifier.stopping()
        self._notifier.status("stopping")
        self._runtime.tell_address(None)
        # With our copy gone the port is closed as soon as the routers close theirs.
        self._listener.close()
        ended = await asyncio.gather(*(keeper.stop() for keeper in self._of("router")))
        ended += await asyncio.gather(*(keeper.stop() for keeper in self._of("worker")))
        if not all(ended):
            self._status = self._status or EXIT_FAILED
        log.info("stopped")

    async def _report(self) -> None:
        """Tell how it stands whenever that changes, and feed the watchdog; cancelled to end."""
        seconds = self._timing.report_seconds
        if self._notifier.watchdog_seconds is not None:
            seconds = min(seconds, self._notifier.watchdog_seconds / 4)
        told = ""
        progress = 0
        while True:
            status = self._describe()
            if status != told:
                told = status
                self._notifier.status(status)
            self._tell_ready()
            reported = sum(keeper.progress for keeper in self._keepers)
            if reported != progress and not self._is_ready:
                self._notifier.extend_timeout(self._timing.extend_seconds)
            progress = reported
            now = time.monotonic()
            if all(keeper.is_lively(now) for keeper in self._keepers):
                self._notifier.alive()
            await self._wait_for_change(seconds)

    async def _wait_for_change(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    def _tell_ready(self) -> None:
        """Say that flowd serves, once: when each shard is ready or failed and routers are ready."""
        settled = (ChildState.READY, ChildState.FAILED)
        if (
            self._is_ready
            or any(keeper.state is not ChildState.READY for keeper in self._of("router"))
            or any(keeper.state not in settled for keeper in self._of("worker"))
        ):
            return
        self._is_ready = True
        self._notifier.ready()
        self._runtime.tell_address(self._listener.address)
        log.info("listening", address=f"http://{self._listener.address}")

    def _describe(self) -> str:
        workers, routers = self._of("worker"), self._of("router")
        ready = [keeper for keeper in self._keepers if keeper.state is ChildState.READY]
        text = (
            f"{sum(keeper in workers for keeper in ready)}/{len(workers)} shards and "
            f"{sum(keeper in routers for keeper in ready)}/{len(routers)} routers ready on "
            f"{self._listener.address}"
        )
        failed = [keeper.name for keeper in self._keepers if keeper.state is ChildState.FAILED]
        return f"{text}; failed: {', '.join(failed)}" if failed else text

    def _of(self, role: Role) -> list[Keeper]:
        return [keeper for keeper in self._keepers if keeper.role == role]
