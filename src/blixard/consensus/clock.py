"""Ticks from the loop's time, and the notice that the node slept."""

from __future__ import annotations

import asyncio
import traceback
from typing import Protocol

from blixard.consensus.config import RaftConfig
from blixard.ports.environment import Environment


class OnTicks(Protocol):
    """Told how many ticks are due, and whether there was a gap as long as an election."""

    def __call__(self, count: int, *, slept: bool) -> None:
        """Deliver the ticks."""


def ticks_due(elapsed_s: float, tick_s: float, most: int) -> tuple[int, int]:
    """Return (ticks that passed, ticks to deliver): after a gap only a few are delivered."""
    passed = int(elapsed_s / tick_s + 1e-6)
    return passed, min(passed, most)


class Ticker:
    """Wakes up once a tick.

    The loop's clock stops while the host is suspended, CLOCK_BOOTTIME does not: both are watched.
    """

    def __init__(self, env: Environment, config: RaftConfig, on_ticks: OnTicks) -> None:
        self._env = env
        self._config = config
        self._on_ticks = on_ticks
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Deliver ticks until stopped: a timer's callback, for a task costs twice as much."""
        self._loop = asyncio.get_running_loop()
        self._last = self._woke = self._loop.time()
        self._boot = self._env.boottime_ns()
        self._wait()

    def stop(self) -> None:
        """Deliver no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.call_at(self._last + self._config.tick_s, self._fire)

    def _fire(self) -> None:
        now, boot = self._loop.time(), self._env.boottime_ns()
        gap = max(now - self._woke, (boot - self._boot) / 1e9)
        tick_s, most = self._config.tick_s, self._config.max_ticks_after_gap
        passed, due = ticks_due(now - self._last, tick_s, most)
        self._last += passed * tick_s
        self._woke, self._boot = now, boot
        self._wait()
        if due:
            try:
                self._on_ticks(due, slept=gap > self._config.election_s)
            except Exception:
                self._env.fatal(f"the Raft engine's ticks crashed: {traceback.format_exc()}")
