"""What a node gets from outside: wall time, randomness, ids, tasks, disk and transport.

Durations and time-outs are the event loop's (``asyncio.timeout``, ``loop.time()``): in simulation
the loop itself is virtual. ``boottime_ns`` is CLOCK_BOOTTIME: it counts through suspend.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, NoReturn, Protocol

from blixard.ports.disk import Disk
from blixard.ports.transport import Transport


class Environment(Protocol):
    """The outside of one node."""

    @property
    def random(self) -> random.Random:
        """The node's generator: seeded in simulation, from the system's entropy otherwise."""

    @property
    def disk(self) -> Disk:
        """The node's data directory."""

    @property
    def transport(self) -> Transport:
        """The way to the other nodes."""

    def wall_time_ms(self) -> int:
        """Return Unix milliseconds; may step; never used for decisions of one node about itself."""

    def boottime_ns(self) -> int:
        """Return nanoseconds of CLOCK_BOOTTIME."""

    def new_id(self) -> str:
        """Return a fresh ULID."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run a task that belongs to the node; an exception in it is fatal to the node."""

    def fatal(self, reason: str) -> NoReturn:
        """Stop the whole process at once, without clean-up: the state on disk is what counts."""

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write one structured log line; *event* is a snake-case name, *fields* are JSON values."""
