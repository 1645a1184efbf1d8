"""A deterministic asyncio event loop: virtual time in integer nanoseconds, one seeded order.

Within a process callbacks run in the order in which they became ready, as asyncio promises; mode
``random`` draws which process runs next, ``pct`` lets the process of the highest drawn priority run
(Burckhardt et al., ASPLOS 2010: a few points at which the running one falls behind all others find
bugs that need as many ordered events). Nothing here waits for real time, and nothing that would
(threads, sockets, child processes, signals) is allowed.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import random
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Literal

import msgspec

from blixard.simulation.clock import BILLION, HostClock
from blixard.simulation.forbidden import ClosedWorldLoop, ForbiddenError
from blixard.simulation.process import PROCESS, Process, ProcessExitError

Mode = Literal["fifo", "random", "pct"]
MAX_STEPS_PER_INSTANT = 50_000
_LOOK_EVERY = 1 << 12  # steps; so much later than at its bound a livelock may be seen
_COLLECT_EVERY = 1 << 18
_COMPACT_AT = 64
PCT_STEPS = 50_000  # change points lie within so many callbacks


class LivelockError(RuntimeError):
    """Callbacks ran without end at one instant, or more of them than the budget."""


class SimHandle(msgspec.Struct, eq=False):
    """One callback and the process that it belongs to; cancelled: the callback is None.

    A struct is made in a third of the time that a class with an ``__init__`` takes. A ``timer``
    counts the host's own time, which a suspend stops.
    """

    process: Process
    callback: Callable[..., object] | None
    args: tuple[Any, ...]
    context: contextvars.Context
    when_ns: int  # -1: it is in no heap
    timer: bool = False

    def cancel(self) -> None:
        """Never run the callback."""
        if self.callback is not None:
            self.callback = None
            self.args = ()
            if self.when_ns >= 0:
                self.process.loop.cancelled_timers += 1

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        return self.callback is None

    def when(self) -> float:
        """Return the time on the clock of its process."""
        return self.process.clock.monotonic_ns(self.when_ns) / BILLION

    def __repr__(self) -> str:
        return f"<SimHandle {self.process.name} {self.callback}>"


Entry = tuple[int, int, SimHandle]  # (time of the world, number, what is due then)


class SimLoop(ClosedWorldLoop):
    """The loop; :meth:`run_until` is its engine."""

    def __init__(
        self,
        *,
        order: random.Random,
        mode: Mode = "fifo",
        max_steps: int = 0,
        change_points: int = 0,
    ) -> None:
        self.now_ns = 0
        self.steps = 0
        self.cancelled_timers = 0
        self.errors: list[str] = []
        self._max_steps = max_steps or 1 << 62
        self._next_look = min(_LOOK_EVERY, self._max_steps)
        self._instant = (0, 0)  # its time, and the steps before it, as far as looks tell
        self._random = order.random
        self._heap: list[Entry] = []
        self._next = count().__next__  # what is due at one time, in the order of its scheduling
        self._next_collection = _COLLECT_EVERY
        self._ready: deque[SimHandle] = deque()
        self._waiting: list[Process] = []
        self._running = self._closed = self._stopping = False
        self._in_order = mode != "pct"
        self.push = self._push_fifo if mode == "fifo" else self._push_random
        self._pop = {
            "fifo": self._ready.popleft, "random": self._pop_random, "pct": self._pop_pct,
        }[mode]  # fmt: skip
        self._changes = sorted(
            (order.randrange(PCT_STEPS) for _ in range(change_points)), reverse=True
        )
        self.processes: list[Process] = []  # dead ones too: their coroutines are kept
        self.root = Process(self, "world", host=0, clock=HostClock())
        self.current = self.root

    # scheduling

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run *callback* at this instant, in the process of *context* or the current one."""
        if context is None:
            process = self.current
            context = process.context
        else:
            process = context.get(PROCESS) or self.root
        handle = SimHandle(process, callback, args, context, -1)
        self.push(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run *callback* after *delay* seconds of the process's clock."""
        process = self.current if context is None else context.get(PROCESS) or self.root
        when_ns = self.now_ns + process.clock.world_delay_ns(delay)
        return self.schedule(
            when_ns, callback, args, context or process.context, process, timer=True
        )

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run *callback* when the process's clock shows *when* seconds."""
        process = self.current if context is None else context.get(PROCESS) or self.root
        # Never now: code that sleeps for a rest too small to count must get on, as on a real clock.
        clock = process.clock
        host_ns = math.ceil(when * BILLION) + clock.asleep_ns
        when_ns = max(clock.world_at_ns(host_ns), self.now_ns + 1)
        return self.schedule(
            when_ns, callback, args, context or process.context, process, timer=True
        )

    def schedule(
        self,
        when_ns: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        process: Process,
        *,
        timer: bool = False,
    ) -> SimHandle:
        """Run *callback* at a time of the world."""
        handle = SimHandle(process, callback, args, context, when_ns, timer)
        heappush(self._heap, (when_ns, self._next(), handle))
        return handle

    def time(self) -> float:
        """Return the seconds of the running process's clock."""
        return self.current.clock.monotonic_ns(self.now_ns) / BILLION

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """Run a coroutine in the process of *context*, or in the current one."""
        process = self.current if context is None else context.get(PROCESS) or self.root
        context = context or process.context.copy()
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        process.keep(task)
        return task

    # which callback next

    def _push_fifo(self, handle: SimHandle) -> None:
        self._ready.append(handle)

    def _push_random(self, handle: SimHandle) -> None:
        process = handle.process
        ready = process.ready
        if not ready:
            self._waiting.append(process)
        ready.append(handle)

    def _pop_random(self) -> SimHandle:
        waiting = self._waiting
        chosen = int(self._random() * len(waiting)) if len(waiting) > 1 else 0
        ready = waiting[chosen].ready
        handle = ready.popleft()
        if not ready:
            waiting[chosen] = waiting[-1]
            waiting.pop()
        return handle

    def _pop_pct(self) -> SimHandle:
        waiting = self._waiting
        place = 0
        if len(waiting) > 1:
            for process in waiting:
                if not process.priority:
                    process.priority = self._random() + 1e-9
            place = max(range(len(waiting)), key=lambda i: waiting[i].priority)
        process = waiting[place]
        if self._changes and self.steps >= self._changes[-1]:
            process.priority = -1.0 / len(self._changes)  # below all, and below earlier ones
            self._changes.pop()
        handle = process.ready.popleft()
        if not process.ready:
            del waiting[place]
        return handle

    # the engine

    def run_until(self, end_ns: int, done: asyncio.Future[Any] | None = None) -> None:
        """Run until the world's clock shows *end_ns* or *done* is done.

        Raises:
            LivelockError: the step budget, or that of one instant, is used up.
        """
        assert not self._running
        asyncio._set_running_loop(self)
        self._running = True
        try:
            self._run(end_ns, done)
        finally:
            self.current = self.root
            self._running = self._stopping = False
            asyncio._set_running_loop(None)

    def _run(self, end_ns: int, done: asyncio.Future[Any] | None) -> None:
        ready, waiting, pop = self._ready, self._waiting, self._pop
        while not self._stopping:
            handle = pop() if ready or waiting else self._advance(end_ns)
            if handle is None:
                return
            callback, process = handle.callback, handle.process
            if callback is None or not process.alive:
                continue
            if process.paused:
                process.backlog.append(handle)
                continue
            self.current = process
            self.steps = steps = self.steps + 1
            try:
                if handle.args:
                    handle.context.run(callback, *handle.args)
                else:  # in half of the time
                    handle.context.run(callback)
            except ProcessExitError:
                pass  # the process is dead; its callbacks are skipped from now on
            except Exception as error:
                self._callback_failed(process, error)
            if steps >= self._next_look:
                self._look(process)
            if done is not None and done.done():
                return

    def _advance(self, end_ns: int) -> SimHandle | None:
        """Jump to the next timer; return what runs first then, None at the end."""
        if self.cancelled_timers > _COMPACT_AT and self.cancelled_timers * 2 > len(self._heap):
            self._compact()
        heap = self._heap
        while heap:
            entry = heappop(heap)
            now, _, handle = entry
            if handle.callback is None:
                self.cancelled_timers -= 1
                continue
            if now > end_ns:
                heappush(heap, entry)
                break
            handle.when_ns = -1
            if now > self.now_ns:
                self.now_ns = now
            else:
                now = self.now_ns
            if self._in_order and not (heap and heap[0][0] <= now):
                return handle  # nothing to choose from
            self.push(handle)
            while heap and heap[0][0] <= now:
                handle = heappop(heap)[2]
                handle.when_ns = -1
                self.push(handle)
            return self._pop()
        self.now_ns = max(end_ns, self.now_ns)
        return None

    def drop_pending(self, drop: Callable[[SimHandle], bool]) -> int:
        """Cancel what waits for its time and matches; returns how many."""
        found = [h for _, _, h in self._heap if h.callback is not None and drop(h)]
        for handle in found:
            handle.cancel()
        return len(found)

    def set_aside(self, process: Process) -> list[Entry]:
        """Take the timers of a process out; what comes to it from outside stays."""
        taken = [e for e in self._heap if e[2].process is process and e[2].timer]
        if taken:
            gone = {seq for _, seq, _ in taken}
            self._heap[:] = [entry for entry in self._heap if entry[1] not in gone]
            heapify(self._heap)
        return taken

    def put_back(self, entries: list[Entry], late_ns: int) -> None:
        """Put timers in again, so much later than they were."""
        for when_ns, seq, handle in entries:
            handle.when_ns = when_ns + late_ns
            heappush(self._heap, (handle.when_ns, seq, handle))

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].callback is not None]
        heapify(self._heap)
        self.cancelled_timers = 0

    def _look(self, process: Process) -> None:
        """Look for a livelock, and collect garbage if there may be much; now and then."""
        steps = self.steps
        since_ns, before = self._instant
        if self.now_ns != since_ns:
            self._instant, before = (self.now_ns, steps), steps
        if steps >= self._max_steps or steps - before >= MAX_STEPS_PER_INSTANT:
            raise LivelockError(f"{steps} steps, at {self.now_ns} ns, in {process.name}")
        self._next_look = min(steps + _LOOK_EVERY, self._max_steps)
        if steps >= self._next_collection:
            self._next_collection += _COLLECT_EVERY
            gc.collect(1)

    def _callback_failed(self, process: Process, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        self.errors.append(f"{process.name}: {text}")

    # the rest of the interface

    def run_until_complete(self, future: Any) -> Any:
        """Run a coroutine or future of the world to its end."""
        task = asyncio.ensure_future(future, loop=self)
        self.run_until(1 << 62, task)
        if not task.done():
            raise RuntimeError("nothing is left to run, and the future is not done")
        return task.result()

    def run_forever(self) -> None:
        """Run until nothing is left to do, or :meth:`stop`."""
        self.run_until(1 << 62)

    def stop(self) -> None:
        """Let the engine return after the running callback."""
        self._stopping = True

    def is_running(self) -> bool:
        """Tell whether the engine runs."""
        return self._running

    def is_closed(self) -> bool:
        """Tell whether the loop was closed."""
        return self._closed

    def close(self) -> None:
        """Drop all that is scheduled; what dead coroutines still do has no effect."""
        self._closed = True
        self._heap.clear()
        self._ready.clear()
        self._waiting.clear()
        self.push = self._drop
        for process in self.processes:
            process.bury()
        self.processes.clear()

    def _drop(self, handle: SimHandle) -> None:
        """Take nothing: the loop is closed."""

    # Asked with each future, for asyncio's debug mode measures real time: this one answers False
    # without a frame of its own.
    get_debug = staticmethod(bool)

    def set_debug(self, enabled: bool) -> None:
        """Refuse asyncio's debug mode."""
        if enabled:
            raise ForbiddenError("debug mode measures real time")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Record an exception that nobody took from a task or future of a live process."""
        if self._closed or "destroyed" in str(context.get("message")):
            return
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: there are no hooks."""

    async def shutdown_default_executor(self) -> None:
        """Do nothing: there is no executor."""
