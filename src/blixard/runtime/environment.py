"""The real outside of one node: system clocks, entropy, tasks, disk and transport."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import Coroutine
from typing import Any, NoReturn

from blixard.base.ids import ulid
from blixard.ports.disk import Disk
from blixard.ports.transport import Transport
from blixard.runtime.logs import JsonLog
from blixard.runtime.tasks import TaskSpawner, describe_crash

EXIT_FATAL = 70


class RealEnvironment:
    """Implements ``ports.environment.Environment``.

    The parts are made before it (a transport needs log, randomness and tasks itself), so they can
    be handed over one by one; :func:`make_spawner` gives tasks the crash policy of the node.
    """

    def __init__(
        self, *, disk: Disk, transport: Transport, log: JsonLog, spawner: TaskSpawner
    ) -> None:
        self._disk = disk
        self._transport = transport
        self._log = log
        self._spawner = spawner
        self._random = make_random()

    @property
    def random(self) -> random.Random:
        """The node's generator, good for secrets."""
        return self._random

    @property
    def disk(self) -> Disk:
        """The node's data directory."""
        return self._disk

    @property
    def transport(self) -> Transport:
        """The way to the other nodes."""
        return self._transport

    def wall_time_ms(self) -> int:
        """Return Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def boottime_ns(self) -> int:
        """Return nanoseconds of CLOCK_BOOTTIME."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def new_id(self) -> str:
        """Return a fresh ULID."""
        return ulid(self.wall_time_ms(), secrets.randbits(80))

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run a task that belongs to the node."""
        return self._spawner.spawn(coroutine, name=name)

    def fatal(self, reason: str) -> NoReturn:
        """Stop the whole process at once, without clean-up."""
        exit_fatally(self._log, reason)

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write one structured log line."""
        self._log(level, event, **fields)


def make_random() -> random.Random:
    """Return a generator that draws from the system's entropy: keys and tokens come from it too."""
    return random.SystemRandom()


def make_spawner(log: JsonLog) -> TaskSpawner:
    """Return a spawner under which the crash of a task ends the process."""

    def crashed(name: str, error: BaseException) -> None:
        exit_fatally(log, f"task {name} crashed: {describe_crash(error)}")

    return TaskSpawner(crashed)


def exit_fatally(log: JsonLog, reason: str) -> NoReturn:
    """Log and leave without running any clean-up: only the state on disk counts."""
    log("critical", "fatal", reason=reason)
    os._exit(EXIT_FATAL)
