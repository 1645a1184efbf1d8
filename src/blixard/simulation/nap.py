"""How a simulated device or client waits: one callback, where ``asyncio.sleep`` takes two."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blixard.simulation.loop import SimHandle
    from blixard.simulation.process import Process


class Nap:
    """To be awaited once, by a task of *process*; stands where a task expects a future."""

    __slots__ = (
        "_asyncio_future_blocking", "_cancelled", "_context", "_delay_s", "_handle", "_process",
        "_wake",
    )  # fmt: skip

    def __init__(self, process: Process, delay_s: float) -> None:
        self._process = process
        self._delay_s = delay_s
        self._cancelled = False
        self._handle: SimHandle | None = None
        self._wake: Callable[[Any], object] | None = None

    def __await__(self) -> Generator[Nap, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the process."""
        return self._process.loop

    def add_done_callback(
        self, wake: Callable[[Any], object], *, context: contextvars.Context
    ) -> None:
        """Begin to wait: the task says here how it is woken."""
        process = self._process
        loop = process.loop
        self._wake, self._context = wake, context
        when_ns = loop.now_ns + process.clock.world_delay_ns(self._delay_s)
        self._handle = loop.schedule(when_ns, self._end, (), context, process, timer=True)

    def cancel(self, msg: object = None) -> bool:
        """Wake the task with a CancelledError; False: it is awake."""
        del msg
        if self._wake is None or self._handle is None or self._cancelled:
            return False
        self._handle.cancel()
        self._cancelled = True
        self._process.loop.call_soon(self._end, context=self._context)
        return True

    def result(self) -> None:
        """Return nothing; raises CancelledError if it was cancelled."""
        if self._cancelled:
            raise asyncio.CancelledError

    def _end(self) -> None:
        self._handle = None  # it refers to this method: freed at once, not by the collector
        wake, self._wake = self._wake, None
        if wake is not None:
            wake(self)
