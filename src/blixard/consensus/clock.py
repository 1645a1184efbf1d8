"""Ticks from the loop's time, and the notice that the node slept."""

from __future__ import annotations

import asyncio
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

    async def run(self) -> None:
        """Deliver ticks until cancelled."""
        loop = asyncio.get_running_loop()
        tick_s, most = self._config.tick_s, self._config.max_ticks_after_gap
        last, boot = loop.time(), self._env.boottime_ns()
        woke = last
        while True:
            await asyncio.sleep(max(0.0, last + tick_s - loop.time()))
            now, boot_now = loop.time(), self._env.boottime_ns()
            gap = max(now - woke, (boot_now - boot) / 1e9)
            passed, due = ticks_due(now - last, tick_s, most)
            last += passed * tick_s
            woke, boot = now, boot_now
            if due:
                self._on_ticks(due, slept=gap > self._config.election_s)
