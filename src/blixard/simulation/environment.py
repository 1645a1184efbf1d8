"""``ports.environment.Environment`` of one process on a simulated host."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from blixard.base.ids import ulid
from blixard.simulation.disk import SimDisk
from blixard.simulation.process import Process, ProcessExitError
from blixard.simulation.transport import SimTransport

Log = Callable[[int, str, str, dict[str, object]], None]
Crash = Callable[[Process, str], None]


class SimEnvironment:
    """All that a node sees of the simulated world."""

    def __init__(
        self,
        process: Process,
        *,
        generator: random.Random,
        disk: SimDisk,
        transport: SimTransport,
        log: Log,
        on_fatal: Crash,
        on_bug: Crash,
    ) -> None:
        self.process = process
        self._random = generator
        self._disk = disk
        self._transport = transport
        self._log = log
        self._on_fatal = on_fatal
        self._on_bug = on_bug

    @property
    def random(self) -> random.Random:
        """The node's generator."""
        return self._random

    @property
    def disk(self) -> SimDisk:
        """The node's data directory."""
        return self._disk

    @property
    def transport(self) -> SimTransport:
        """The way to the other nodes."""
        return self._transport

    def wall_time_ms(self) -> int:
        """Return the host's Unix milliseconds."""
        process = self.process
        return process.clock.wall_ms(process.loop.now_ns)

    def boottime_ns(self) -> int:
        """Return the host's CLOCK_BOOTTIME."""
        process = self.process
        return process.clock.boottime_ns(process.loop.now_ns)

    def new_id(self) -> str:
        """Return a fresh ULID."""
        return ulid(self.wall_time_ms(), self._random.getrandbits(80))

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run a task of the node; an exception in it is a bug, and kills the process."""
        task = self.process.spawn(coroutine, name=name)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ProcessExitError):
            self._on_bug(self.process, describe(task.get_name(), error))

    def fatal(self, reason: str) -> NoReturn:
        """Kill the process."""
        self._on_fatal(self.process, reason)
        raise ProcessExitError(reason)

    def log(self, level: str, event: str, **fields: object) -> None:
        """Keep one line."""
        self._log(self.process.host, level, event, fields)


def describe(name: str, error: BaseException) -> str:
    """Return what crashed, with the traceback."""
    return f"{name} crashed: {''.join(traceback.format_exception(error))}"
