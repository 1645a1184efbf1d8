from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from blixard.base.errors import BlixardError
from blixard.hypervisors.fake.hypervisor import FakeHypervisor
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.ports.hypervisor import GuestStatus, Hypervisor, LaunchPlan

from .streams import MemoryStream

SECOND_NS = 10**9


def plan() -> LaunchPlan:
    return LaunchPlan(
        instance_uid="u1",
        name="web-1",
        namespace="default",
        node_epoch=1,
        run=1,
        runner="runner",
        memory_mib=64,
        vcpus=1,
    )


def run(scenario: Callable[[FakeHypervisor], Awaitable[None]]) -> None:
    asyncio.run(_checked(scenario))


async def _checked(scenario: Callable[[FakeHypervisor], Awaitable[None]]) -> None:
    await scenario(FakeHypervisor())


def test_both_implement_the_port() -> None:
    def accepts(_kind: type[Hypervisor]) -> None:
        """The type checker compares."""

    accepts(FakeHypervisor)
    accepts(QemuHypervisor)


def test_life_from_start_to_forgotten() -> None:
    async def scenario(fake: FakeHypervisor) -> None:
        changed: list[str] = []
        fake.on_change(changed.append)
        assert (await fake.start_paused(plan())).state == "paused"
        await fake.resume("u1")
        fake.guests["u1"] = GuestStatus(ready=True)
        await fake.shutdown("u1", grace_s=5)
        (left,) = await fake.instances()
        assert (left.state, left.exit_code) == ("exited", 0)
        await fake.forget("u1")
        assert await fake.instances() == []
        assert changed == ["u1", "u1"]

    run(scenario)


def test_deadline_kills_and_is_final() -> None:
    async def scenario(fake: FakeHypervisor) -> None:
        await fake.start_paused(plan())
        await fake.arm("u1", 2 * SECOND_NS, epoch=1, seq=0)
        await fake.extend(SECOND_NS)
        await fake.resume("u1")
        fake.advance(1.5)
        assert (await fake.instances())[0].state == "running"
        fake.advance(1)
        (left,) = await fake.instances()
        assert left.killed_by_guard
        with pytest.raises(BlixardError):
            await fake.resume("u1")

    run(scenario)


def test_running_instance_is_not_forgotten() -> None:
    async def scenario(fake: FakeHypervisor) -> None:
        await fake.start_paused(plan())
        with pytest.raises(BlixardError):
            await fake.forget("u1")
        with pytest.raises(BlixardError):
            await fake.start_paused(plan())

    run(scenario)


def test_exec_needs_an_agent() -> None:
    async def scenario(fake: FakeHypervisor) -> None:
        stream = MemoryStream()
        with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
            await fake.exec("u1", ["id"], tty=False, stream=stream)
        fake.guests["u1"] = GuestStatus(ready=True)
        stream.said.put_nowait(b"\x00in")
        stream.said.put_nowait(None)
        await fake.exec("u1", ["id"], tty=False, stream=stream)
        assert stream.told == [b"\x01id\n", b"\x01in", b"\x030"]

    run(scenario)
