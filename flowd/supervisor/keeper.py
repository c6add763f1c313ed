"""Keeps one child running: starts it, watches for its beat, starts it again.

A worker that cannot be kept leaves its shard failed and the rest serving; a router that cannot be
kept ends flowd, because nobody could tell from outside which share of the connections goes nowhere.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

from flowd.control import EXIT_CONFIG, Assignment, ChildEvent
from flowd.errors import ProtocolError
from flowd.logs import get_logger
from flowd.metrics import SupervisorMetrics
from flowd.supervisor.child_process import ChildProcess, describe_exit
from flowd.supervisor.restarts import RestartPolicy
from flowd.supervisor.timing import Timing

EXIT_FAILED: Final = 1

_LAST_WORDS_SECONDS = 1.0
"""How long to read on after an exit: what a child said last lies in the channel."""

log = get_logger()


class ChildState(Enum):
    """Where a child is in its life."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting to be restarted"
    FAILED = "failed"
    STOPPED = "stopped"


class Keeper:
    """Keeps one child running until told to stop.

    Args:
        assignment: what the child is to be.
        command: the program to run.
        environ: the child's environment.
        timing: limits, back-off and budget.
        metrics: where restarts are counted.
        changed: called whenever `state` changes.

    Attributes:
        state: where the child is.
        progress: how often it reported progress; grows.
    """

    def __init__(
        self,
        assignment: Assignment,
        command: Sequence[str],
        environ: Mapping[str, str],
        timing: Timing,
        metrics: SupervisorMetrics,
        changed: Callable[[], None],
    ) -> None:
        self.name = assignment.process
        self.role = assignment.role
        self.state = ChildState.STARTING
        self.progress = 0
        self._assignment = assignment
        self._command = command
        self._environ = environ
        self._timing = timing
        self._changed = changed
        self._restarts = RestartPolicy(timing)
        self._restart_count = metrics.child_restarts(self.name)
        self._up = metrics.child_up(self.name)
        self._process: ChildProcess | None = None
        self._failure = ""
        self._stopping = asyncio.Event()
        self._done = asyncio.Event()

    async def keep(self) -> int:
        """Start the child, and start it again whenever it exits.

        Returns:
            0 when told to stop; otherwise the exit status for all of flowd, which cannot go on
            without this child.
        """
        try:
            status = await self._keep()
        finally:
            self._done.set()
        if status == 0:
            self._enter(ChildState.STOPPED)
        return status

    async def stop(self) -> bool:
        """Let the child finish its work and wait for its exit; kill it when that takes too long.

        Returns:
            Whether it ended by itself.
        """
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._timing.drain_seconds):
                await self._done.wait()
        except TimeoutError:
            log.warning("child_killed", child=self.name, reason="it did not stop in time")
            self._signal(signal.SIGKILL)
            await self._done.wait()
            return False
        return True

    def kill(self) -> None:
        """End the child at once, for good."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def is_lively(self, now: float) -> bool:
        """Tell whether the child is not overdue; one that does not run is not."""
        process = self._process
        return process is None or now - process.last_sign < self._timing.hang_seconds

    async def _keep(self) -> int:
        while not self._stopping.is_set():
            started = time.monotonic()
            self._enter(ChildState.STARTING)
            status = await self._live()
            now = time.monotonic()
            if self._stopping.is_set():
                break
            is_hopeless = status == EXIT_CONFIG
            restart = self._restarts.after_exit(now, now - started)
            if is_hopeless or restart.is_spent:
                self._enter(ChildState.FAILED)
                log.error("child_failed", child=self.name, reason=self._reason(status))
                if self.role == "router":
                    return EXIT_CONFIG if is_hopeless else EXIT_FAILED
            else:
                self._enter(ChildState.WAITING)
            await self._pause(None if is_hopeless else restart.delay_seconds)
            if not self._stopping.is_set():
                self._restart_count.inc()
        return 0

    async def _live(self) -> int:
        """Run the child once; gives how it ended, as `ChildProcess.wait` does."""
        self._failure = ""
        try:
            process = await ChildProcess.start(self._command, self._assignment, self._environ)
        except OSError as error:
            log.error("child_not_started", child=self.name, reason=error.strerror)
            return EXIT_FAILED
        self._process = process
        if self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        log.info("child_started", child=self.name, pid=process.pid)
        try:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self._listen(process))
                watching = tasks.create_task(self._watch(process))
                status = await process.wait()
                watching.cancel()
                await asyncio.wait((listening,), timeout=_LAST_WORDS_SECONDS)
                listening.cancel()
        finally:
            self._process = None
            process.close()
        if status != 0 or not self._stopping.is_set():
            log.warning("child_exited", child=self.name, pid=process.pid, how=describe_exit(status))
        return status

    async def _listen(self, process: ChildProcess) -> None:
        try:
            async for event in process.events():
                self._take(event)
        except ProtocolError as error:
            # It no longer gives signs of life that count, so that `_watch` ends it in time.
            log.error("child_not_understood", child=self.name, reason=str(error))

    def _take(self, event: ChildEvent) -> None:
        if event.event == "ready":
            self._enter(ChildState.READY)
            log.info("child_ready", child=self.name)
        elif event.event == "progress":
            self.progress += 1
            log.debug("child_progress", child=self.name, detail=event.detail)
        elif event.event == "failed":
            self._failure = event.detail

    async def _watch(self, process: ChildProcess) -> None:
        """End the child if it hangs; cancelled when it exits."""
        hang_seconds = self._timing.hang_seconds
        while True:
            seen = process.last_sign
            await asyncio.sleep(max(0.0, seen + hang_seconds - time.monotonic()))
            if process.last_sign != seen:
                continue
            # After the supervisor itself was frozen, beats that piled up meanwhile come first.
            await asyncio.sleep(min(1.0, hang_seconds / 4))
            if process.last_sign == seen:
                break
        log.error("child_hung", child=self.name, pid=process.pid, silent_seconds=hang_seconds)
        process.send_signal(signal.SIGABRT)
        await asyncio.sleep(self._timing.abort_seconds)
        process.send_signal(signal.SIGKILL)

    async def _pause(self, seconds: float | None) -> None:
        """Wait before a restart, None for good; ends early when told to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _reason(self, status: int) -> str:
        return self._failure or describe_exit(status)

    def _enter(self, state: ChildState) -> None:
        self.state = state
        self._up.set(1 if state is ChildState.READY else 0)
        self._changed()

    def _signal(self, signum: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signum)
