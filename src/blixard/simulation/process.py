"""One incarnation of a process on a host: whose tasks they are, and whether they may run."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from blixard.simulation.clock import HostClock

if TYPE_CHECKING:
    from blixard.simulation.loop import Entry, SimHandle, SimLoop

_PRUNE_AT = 256


class ProcessExitError(BaseException):
    """Leaves the running callback of a process that has just died; nothing may stop it."""


class Process:
    """All callbacks scheduled while one of its callbacks runs belong to it too.

    A dead process never runs again: its coroutines are kept, not closed, so that no ``finally``
    runs. A paused one keeps its callbacks until it is resumed.
    """

    __slots__ = (
        "_asleep", "_prune_at", "alive", "backlog", "clock", "context", "host", "loop", "name",
        "paused", "priority", "ready", "tasks",
    )  # fmt: skip

    def __init__(self, loop: SimLoop, name: str, *, host: int, clock: HostClock) -> None:
        self.loop = loop
        self.name = name
        self.host = host
        self.clock = clock
        self.alive = True
        self.paused = False
        self.priority = 0.0  # drawn when it is needed
        self.backlog: deque[SimHandle] = deque()
        self.ready: deque[SimHandle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self._prune_at = _PRUNE_AT
        self._asleep: list[Entry] = []  # timers of a suspended host
        loop.processes.append(self)
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run a coroutine as a task of this process."""
        return self.loop.create_task(coroutine, name=name, context=self.context.copy())

    def call_soon(self, callback: Callable[..., object], *args: Any) -> SimHandle:
        """Schedule a callback in this process."""
        return self.loop.call_soon(callback, *args, context=self.context)

    def call_at_ns(self, when_ns: int, callback: Callable[..., object], *args: Any) -> SimHandle:
        """Schedule a callback in this process at a time of the world."""
        return self.loop.schedule(when_ns, callback, args, self.context, self)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a task for as long as it is not done: nobody else may."""
        self.tasks.append(task)
        if len(self.tasks) >= self._prune_at:
            self.tasks = [task for task in self.tasks if not task.done()]
            self._prune_at = 2 * len(self.tasks) + _PRUNE_AT

    def kill(self) -> None:
        """Die at once."""
        self.alive = False
        self.backlog.clear()

    def bury(self) -> None:
        """Close what never ran a step: nobody would ever wait for it."""
        for task in self.tasks:
            _close_unstarted(task.get_coro())

    def sleep(self) -> None:
        """Stop the timers with the host's monotonic clock."""
        self._asleep += self.loop.set_aside(self)

    def wake(self, slept_ns: int) -> None:
        """Let the timers go on from where they were."""
        asleep, self._asleep = self._asleep, []
        self.loop.put_back(asleep, slept_ns)

    def pause(self) -> None:
        """Stop running callbacks; they pile up."""
        self.paused = True

    def resume(self) -> None:
        """Run what has piled up, in its order."""
        self.paused = False
        while self.backlog:
            self.loop.push(self.backlog.popleft())


def _close_unstarted(candidate: object) -> None:
    """Close a coroutine that never ran, and those that it was given: no code of theirs runs."""
    if inspect.iscoroutine(candidate) and (
        inspect.getcoroutinestate(candidate) == inspect.CORO_CREATED
    ):
        given = inspect.getcoroutinelocals(candidate)
        candidate.close()
        for value in given.values():
            _close_unstarted(value)


PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("blixard_sim_process")
