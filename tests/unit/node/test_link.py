"""A node's tie to the leader when its guard does not answer."""

import asyncio

import msgspec
import pytest

from blixard.base.errors import BlixardError
from blixard.cluster.leases import LeaseConfig
from blixard.hypervisors.fake.hypervisor import FakeHypervisor
from blixard.node import messages as m
from blixard.node.kinds import Program
from blixard.node.link import NodeLink
from blixard.ports.hypervisor import LaunchPlan

PLAN = LaunchPlan(
    instance_uid="i", name="i", namespace="d", node_epoch=1, run=1, runner="r",
    memory_mib=64, vcpus=1,
)  # fmt: skip


class Guard(FakeHypervisor):
    """One that may be silent."""

    silent = False

    async def instances(self):
        self._speak()
        return await super().instances()

    async def extend(self, deadline_boottime_ns):
        self._speak()
        await super().extend(deadline_boottime_ns)

    def _speak(self):
        if self.silent:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", "the guard does not answer")


class Outside:
    """Environment and leader at once; the leader is at *epoch* and grants every lease."""

    def __init__(self):
        self.epoch, self.now_ns, self.events = 2, 10**9, []
        self.guard = Guard()
        config = LeaseConfig(heartbeat_s=0.001)
        self.link = NodeLink(self, self, config, self.guard, program=Program())

    def boottime_ns(self):
        return self.now_ns

    def log(self, _level, event, **_fields):
        self.events.append(event)

    async def ask(self, _method, payload, *, timeout_s, patience_s):
        assert timeout_s > patience_s > 0
        same = msgspec.msgpack.decode(payload, type=m.Heartbeat).epoch == self.epoch
        return m.encode(m.HeartbeatReply(granted=same, epoch=self.epoch))


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def play(scenario):
    async def run():
        outside = Outside()
        beating = asyncio.create_task(outside.link.run_heartbeats())
        try:
            await scenario(outside)
            assert not beating.done()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    asyncio.run(run())


def test_silent_guard_ends_neither_the_heartbeats_nor_the_lease():
    async def scenario(outside):
        await until(lambda: outside.link.lease.expires_ns)
        outside.guard.silent = True
        await until(lambda: "guard_silent" in outside.events)
        outside.now_ns += 10**9
        await until(lambda: outside.link.lease.expires_ns == outside.now_ns + 4 * 10**9)

    play(scenario)


def test_epoch_is_entered_once_the_guard_answers():
    async def scenario(outside):
        outside.guard.silent = True
        await until(lambda: "guard_silent" in outside.events)
        assert outside.link.lease.epoch == 0
        outside.guard.silent = False
        await until(lambda: outside.link.lease.epoch == 2)

    play(scenario)


@pytest.mark.parametrize(("armed_under", "left"), [(1, "exited"), (2, "running"), (0, "running")])
def test_epoch_ends_what_was_armed_under_an_older_one(armed_under, left):
    """The plan is of epoch 1 in each case; 0: nobody armed it."""

    async def scenario(outside):
        await outside.guard.start_paused(PLAN)
        if armed_under:
            await outside.guard.arm("i", 10**12, epoch=armed_under, seq=armed_under)
        await outside.guard.resume("i")
        await until(lambda: outside.link.lease.epoch == 2)
        assert [i.state for i in await outside.guard.instances()] == [left]

    play(scenario)
