"""Both ends of a migration against a QEMU that is played: what is written, asked and undone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu import departure
from blixard.hypervisors.qemu.arrival import Arrival
from blixard.hypervisors.qemu.departure import Departure
from blixard.hypervisors.qemu.likeness import Likeness
from blixard.hypervisors.qemu.migration import DONE
from blixard.hypervisors.qemu.migration_monitor import (
    HELD,
    INCOMING,
    OUTGOING,
    Process,
    Progress,
    settle,
)

MEMORY, REST = os.urandom(3_000_000), b"devices"
ALIKE = Likeness(version=1, qemu="7.2", machine=(), files={})


class Pipe:
    """One direction of frames in memory; *damage* may change what passes."""

    def __init__(self, damage: Callable[[bytes], bytes | None]) -> None:
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue(4)
        self._damage = damage

    async def put(self, frame: bytes) -> None:
        await self.frames.put(self._damage(frame))


class End:
    """One end of a stream."""

    def __init__(self, out: Pipe, back: Pipe) -> None:
        self._out, self._back = out, back
        self.closed = False

    async def send(self, frame: bytes) -> None:
        if self.closed:
            raise ConnectionError("closed")
        await self._out.put(frame)

    async def receive(self) -> bytes | None:
        return await self._back.frames.get()

    async def close(self) -> None:
        self.closed = True
        if not self._out.frames.full():
            self._out.frames.put_nowait(None)


class Qemu:
    """The monitor of a QEMU that sends MEMORY and REST, or takes what comes."""

    connected = True

    def __init__(self) -> None:
        self.progress = Progress()
        self.done: list[str] = []
        self.taken = b""
        self.fails = ""
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._given: dict[str, socket.socket] = {}
        self._task: asyncio.Task[None] | None = None

    def says(self, status: str) -> None:
        self.progress.note({"event": "MIGRATION", "data": {"status": status}})

    async def give(self, name: str, descriptor: int) -> None:
        self.done.append(f"give {name}")
        self._given[name] = socket.socket(fileno=os.dup(descriptor))

    async def execute(self, name: str, **_arguments: Any) -> Any:
        self.done.append(name)
        if name == self.fails:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"{name} failed")
        if name == "query-migrate":
            return {"status": self.progress.status}
        work = {"migrate": self._send, "migrate-continue": self._rest, "migrate-incoming": self._in}
        if name in work:
            if self._task is not None:
                await self._task
            self._task = asyncio.ensure_future(work[name]())
        if name == "migrate_cancel":
            self.says("cancelled")
        return {}

    async def end(self) -> None:
        """The process ends, with all that it holds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for own in self._given.values():
            own.close()

    async def _send(self) -> None:
        own = self._given[OUTGOING]
        own.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(own, MEMORY)
        await self.may_end.wait()
        self.says("pre-switchover")

    async def _rest(self) -> None:
        own = self._given[OUTGOING]
        await asyncio.get_running_loop().sock_sendall(own, REST)
        self.says("completed")
        own.close()

    async def _in(self) -> None:
        own = self._given[INCOMING]
        own.setblocking(False)
        while not self.taken.endswith(REST):
            data = await asyncio.get_running_loop().sock_recv(own, 1 << 20)
            if not data:
                self.says("failed")
                return
            self.taken += data
        self.says("completed")


class World:
    """A source, a target, a stream between them."""

    def __init__(self, damage: Callable[[bytes], bytes | None] = lambda frame: frame) -> None:
        there, back = Pipe(damage), Pipe(lambda frame: frame)
        self.ends = End(there, back), End(back, there)
        self.source, self.target = Qemu(), Qemu()
        self.said: list[str] = []

    def process(self, qemu: Qemu, likeness: Likeness) -> Process:
        def saying(word: str) -> Callable[[], Awaitable[None]]:
            async def say() -> None:
                self.said.append(f"{'source' if qemu is self.source else 'target'} {word}")
                if word == "stops":
                    qemu.may_end.set()

            return say

        return Process(
            qmp=qemu,  # type: ignore[arg-type]
            progress=qemu.progress,
            likeness=likeness,
            stop=saying("stops"),
            stopped=saying("stands still"),
            go_on=saying("goes on"),
            kill=saying("is killed"),
            words=lambda: "words",
        )

    async def move(
        self, *, live: bool = False, switch: Callable[[], Awaitable[None]] | None = None,
        target: Likeness = ALIKE,
    ) -> list[Any]:  # fmt: skip
        async def switched() -> None:
            self.said.append("switch")

        leaving = Departure(self.process(self.source, ALIKE), self.ends[0], live=live)
        arrival = Arrival(self.process(self.target, target), self.ends[1])
        both = asyncio.gather(
            leaving.run(switch or switched), arrival.run(), return_exceptions=True
        )
        try:
            return await asyncio.wait_for(both, 20)
        finally:
            await self.source.end()
            await self.target.end()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


@pytest.mark.parametrize(("live", "first"), [(False, "stops"), (True, "stands still")])
def test_all_arrives_and_nothing_runs_on(live: bool, first: str) -> None:
    async def scenario() -> None:
        world = World()
        figures, nothing = await world.move(live=live)
        assert world.target.taken == MEMORY + REST
        assert figures.bytes_sent == len(MEMORY + REST)
        assert nothing is None
        assert world.said == [f"source {first}", "switch"]
        held = world.source.done.index(f"give {HELD}")
        assert held < world.source.done.index("migrate-continue")

    run(scenario)


def test_guest_that_never_rests_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "LIVE_S", 0.05)

    async def scenario() -> None:
        world = World()
        world.source.may_end.clear()
        await world.move(live=True)
        assert world.said == ["source stops", "source stands still", "switch"]
        assert world.target.taken == MEMORY + REST

    run(scenario)


def test_damaged_memory_is_no_arrival() -> None:
    async def scenario() -> None:
        world = World(lambda f: b"\x00" + f[1:] if len(f) > 10_000 else f)
        failed, refused = await world.move()
        assert "is not what was sent" in str(refused)
        assert "is not what was sent" in str(failed)
        assert world.said == ["source stops", "switch", "target is killed"]

    run(scenario)


def test_early_end_lets_the_guest_go_on() -> None:
    async def scenario() -> None:
        seen = []

        def cut(frame: bytes) -> bytes | None:
            seen.append(frame)
            return None if len(seen) == 4 else frame

        world = World(cut)
        failed, ended = await world.move()
        assert "before the end" in str(ended)
        assert "MIGRATION_FAILED" in str(failed)
        assert sorted(world.said) == ["source goes on", "source stops", "target is killed"]

    run(scenario)


def test_unlike_target_costs_the_guest_nothing() -> None:
    async def scenario() -> None:
        world = World()
        other = msgspec.structs.replace(ALIKE, qemu="8.0")
        failed, _ = await world.move(target=other)
        assert "QEMU is 7.2 here and 8.0 there" in str(failed)
        assert world.said == ["target is killed"]
        assert "migrate" not in world.source.done

    run(scenario)


@pytest.mark.parametrize("live", [False, True])
def test_switch_that_fails_leaves_the_guest_standing(live: bool) -> None:
    async def scenario() -> None:
        async def switch() -> None:
            raise BlixardError("OUTCOME_UNKNOWN", "nobody knows")

        world = World()
        failed, _ = await world.move(live=live, switch=switch)
        assert failed.code == "OUTCOME_UNKNOWN"
        assert "source goes on" not in world.said
        assert not {"migrate-continue", "migrate_cancel"} & set(world.source.done)
        assert world.ends[0].closed

    run(scenario)


def test_failure_after_the_switch_never_lets_it_go_on() -> None:
    async def scenario() -> None:
        world = World()
        world.source.fails = "migrate-continue"
        failed, _ = await world.move(live=True)
        assert "migrate-continue failed" in str(failed)
        assert "source goes on" not in world.said

    run(scenario)


def test_source_that_goes_at_the_very_end_loses_nothing() -> None:
    async def scenario() -> None:
        world = World()
        answer = world.ends[1].send

        async def deaf(frame: bytes) -> None:
            if frame[0] == DONE:
                await world.ends[1].close()
            await answer(frame)

        world.ends[1].send = deaf  # type: ignore[method-assign]
        failed, nothing = await world.move()
        assert "MIGRATION_FAILED" in str(failed)
        assert nothing is None
        assert world.said == ["source stops", "switch"]

    run(scenario)


def test_migration_left_under_way_is_ended_first() -> None:
    async def scenario() -> None:
        qemu = Qemu()
        qemu.says("active")
        await settle(qemu)  # type: ignore[arg-type]
        assert qemu.done.count("migrate_cancel") == 1
        await settle(qemu)  # type: ignore[arg-type]
        assert qemu.done.count("migrate_cancel") == 1

    run(scenario)
