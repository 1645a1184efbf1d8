"""A migration as the monitor of a QEMU knows it: how it stands, what it may do, how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from blixard.hypervisors.qemu.likeness import Likeness
from blixard.hypervisors.qemu.migration import ASK_S, failure
from blixard.hypervisors.qemu.qmp import QmpClient

SETTLE_S = 10.0
DOWNTIME_MS = 300
BANDWIDTH_BYTES = 1 << 40  # what the stream takes is the limit
OUTGOING, INCOMING, HELD = "blixard-outgoing", "blixard-incoming", "blixard-held"
# What a migration of QEMU is called that has begun and not ended.
UNDER_WAY = ("setup", "cancelling", "active", "device", "pre-switchover", "wait-unplug")
FAILED = ("failed", "cancelled", "cancelling")


class Progress:
    """What a QEMU says of its migration, as its events tell."""

    def __init__(self) -> None:
        self.status = ""
        self._changed = asyncio.Event()

    def note(self, event: dict[str, Any]) -> None:
        """Take an event; others than of a migration are nothing to us."""
        data = event.get("data")
        if event.get("event") == "MIGRATION" and isinstance(data, dict):
            self.status = str(data.get("status", ""))
            self._changed.set()

    async def reaches(self, wanted: str, qmp: QmpClient) -> None:
        """Return once it has come to *wanted*. Raises BlixardError MIGRATION_FAILED."""
        while self.status != wanted:
            if self.status in FAILED:
                raise failure(f"QEMU says that it is {self.status}")
            if not qmp.connected:
                raise failure("the process has ended")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_S):
                    await self._changed.wait()


class Process(msgspec.Struct, frozen=True):
    """One end's QEMU and what may be done to it.

    ``stop`` stops its CPUs and tells the guard, ``stopped`` tells the guard alone, ``go_on`` lets
    them run, ``words`` returns the last thing that the process said.
    """

    qmp: QmpClient
    progress: Progress
    likeness: Likeness
    stop: Callable[[], Awaitable[None]]
    stopped: Callable[[], Awaitable[None]]
    go_on: Callable[[], Awaitable[None]]
    kill: Callable[[], Awaitable[None]]
    words: Callable[[], str]


async def set_up(qmp: QmpClient, *capabilities: str) -> None:
    """Set what a migration of this QEMU may do."""
    wanted = [{"capability": name, "state": True} for name in ("events", *capabilities)]
    await qmp.execute("migrate-set-capabilities", capabilities=wanted)
    limits = {"max-bandwidth": BANDWIDTH_BYTES, "downtime-limit": DOWNTIME_MS}
    await qmp.execute("migrate-set-parameters", **limits)


async def settle(qmp: QmpClient) -> None:
    """End a migration of this QEMU that somebody left under way; nothing to do is fine."""
    async with asyncio.timeout(SETTLE_S):
        asked = False
        while (await migration_status(qmp)) in UNDER_WAY:
            if not asked:
                await qmp.execute("migrate_cancel")
            asked = True
            await asyncio.sleep(0.005)


async def check_whole(qmp: QmpClient) -> None:
    """Refuse to run a guest whose state is not here yet, or not here any more.

    Raises:
        BlixardError: MIGRATION_FAILED.
    """
    state = (await qmp.execute("query-status"))["status"]
    if state == "inmigrate":
        raise failure("it waits for the state of a guest on another node")
    if state == "postmigrate" and await migration_status(qmp) == "completed":
        raise failure("its state has gone to another node")


async def migration_status(qmp: QmpClient) -> str:
    """Return how QEMU's migration stands; empty if there was none."""
    answer = await qmp.execute("query-migrate")
    return str(answer.get("status", "")) if isinstance(answer, dict) else ""
