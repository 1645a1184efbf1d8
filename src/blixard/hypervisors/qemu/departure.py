"""The source's end of a migration: a guest that leaves, in the order that keeps it whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu.migration import (
    DONE,
    END,
    HELLO,
    HELLO_S,
    MARK,
    MARKED,
    READY,
    STALL_S,
    failing,
    to_the_end,
)
from blixard.hypervisors.qemu.migration_monitor import (
    FAILED,
    HELD,
    OUTGOING,
    Process,
    set_up,
    settle,
)
from blixard.hypervisors.qemu.socket_pair import socket_pair, unread_bytes
from blixard.hypervisors.qemu.target_talk import TargetTalk
from blixard.ports.hypervisor import MigrationFigures
from blixard.ports.transport import Stream

LIVE_S = 60.0  # a guest that changes its memory faster than it can be sent is stopped then


class Departure:
    """A guest that leaves."""

    def __init__(self, process: Process, stream: Stream, *, live: bool) -> None:
        self._process = process
        self._qmp = process.qmp
        self._stream = stream
        self._live = live
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._stopped_s = 0.0
        self._own, self._theirs = socket_pair()
        self._talk = TargetTalk(stream, self._own)

    async def run(self, switch: Callable[[], Awaitable[None]]) -> MigrationFigures:
        """Send all of it. Raises as ``ports.hypervisor.Hypervisor.send_state`` does."""
        try:
            await self._to_the_switch()
            # Whatever this raises, QEMU waits with stopped CPUs; letting them run ends its wait.
            await switch()
            with failing("sending the rest"):
                await self._rest()
        except BaseException:
            await to_the_end(self._leave())
            await to_the_end(self._stream.close())
            raise
        await self._leave()
        now_s = self._loop.time()
        return MigrationFigures(
            total_ms=round((now_s - self._began_s) * 1000),
            downtime_ms=round((now_s - self._stopped_s) * 1000),
            bytes_sent=self._talk.sent_bytes,
        )

    async def _to_the_switch(self) -> None:
        begun = False
        try:
            with failing("sending the memory"):
                await self._greet()
                begun = True
                await self._begin()
                await self._until_stopped()
                await self._mark()
        except BaseException:
            if begun:
                await to_the_end(self._go_on())
            raise

    async def _greet(self) -> None:
        """Tell the target what this guest is; its refusal costs the guest nothing."""
        await settle(self._qmp)
        async with asyncio.timeout(HELLO_S):
            hello = msgspec.msgpack.encode(self._process.likeness)
            await self._talk.say(HELLO, hello)
            self._talk.listen()
            await self._talk.hear(READY)

    async def _begin(self) -> None:
        await self._qmp.give(OUTGOING, self._theirs.fileno())
        self._theirs.close()
        await set_up(self._qmp, "pause-before-switchover")
        if not self._live:
            self._stopped_s = self._loop.time()
            await self._process.stop()
        self._process.progress.status = ""
        self._talk.pass_on()
        await self._qmp.execute("migrate", uri=f"fd:{OUTGOING}")

    async def _until_stopped(self) -> None:
        """Return once QEMU has stopped the CPUs, the guard knows, and all it sent is on its way."""
        waiting = self._process.progress.reaches("pre-switchover", self._qmp)
        if self._live:
            await self._talk.unless_failed(self._converge(waiting))
            if not self._stopped_s:
                self._stopped_s = self._loop.time()
            await self._process.stopped()
        else:
            await self._talk.unless_failed(waiting)
        async with asyncio.timeout(STALL_S):
            while self._talk.passing or unread_bytes(self._own):
                await self._talk.unless_failed(asyncio.sleep(0.001))

    async def _converge(self, waiting: Awaitable[None]) -> None:
        """Wait for a running guest; stop one that changes its memory faster than it can be sent."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({task}, timeout=LIVE_S)
            if not task.done():
                self._stopped_s = self._loop.time()
                await self._process.stop()
            await task
        finally:
            task.cancel()

    async def _mark(self) -> None:
        """Make sure that the target has everything but the rest before the owner is switched."""
        await self._talk.say(MARK)
        async with asyncio.timeout(STALL_S):
            await self._talk.hear(MARKED)

    async def _rest(self) -> None:
        await self._qmp.give(HELD, self._own.fileno())
        try:
            await self._qmp.execute("migrate-continue", state="pre-switchover")
            async with asyncio.timeout(STALL_S):
                await self._talk.unless_failed(
                    self._process.progress.reaches("completed", self._qmp)
                )
                await self._talk.all_passed()
        except BaseException:
            if self._process.progress.status in FAILED:
                await self._process.kill()  # it may have let its CPUs run again
            raise
        end = msgspec.msgpack.encode([self._talk.sent_bytes, self._talk.checksum])
        await self._talk.say(END, end)
        async with asyncio.timeout(STALL_S):
            await self._talk.hear(DONE)

    async def _go_on(self) -> None:
        """Let the guest run on here, as if nothing had been."""
        await self._leave()
        with contextlib.suppress(BlixardError, TimeoutError):
            await self._process.go_on()

    async def _leave(self) -> None:
        await self._talk.end()
        self._own.close()
        self._theirs.close()
