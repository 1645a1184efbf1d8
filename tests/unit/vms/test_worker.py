"""One instance on its node, step by step: the phases it goes through and what it reports."""

import asyncio
import itertools

import msgspec
import pytest

from blixard.base.errors import BlixardError
from blixard.hypervisors.fake.hypervisor import FakeHypervisor
from blixard.ports.guests import BuiltGuest, GuestRecipe
from blixard.ports.hypervisor import GuestStatus
from blixard.vms.disks import Disks
from blixard.vms.reconcile import Assignment
from blixard.vms.spec import LIFECYCLE, InstanceSpec
from blixard.vms.tools import Tools
from blixard.vms.worker import Worker

SPEC = InstanceSpec(vm="web", ordinal=1, node="n", run=1, node_epoch=1, memory_mib=64, fenced=True)


class Outside:
    """The environment, network, builder and authority of one worker."""

    epoch, deadline_ns = 1, 10**12

    def __init__(self, disks=None):
        self.hypervisor = FakeHypervisor()
        self.reports = []
        self.builds = 0
        self.missing = False
        self.allowed = True
        tools = Tools(
            env=self,
            hypervisor=self.hypervisor,
            network=self,
            builder=self,
            authority=self,
            report=lambda _assignment, status, path: self.reports.append((status, path)),
            network_of=lambda _name: ("10.0.0.1", 24, 1450),
            disks=disks or Disks({}, ""),
        )
        self.worker = Worker("i", tools, asyncio.Lock())
        self._start = self.hypervisor.start_paused
        self.hypervisor.start_paused = self.start_paused

    async def start_paused(self, plan):
        if self.missing:
            raise BlixardError("GUEST_START_FAILED", "the runner is not there")
        return await self._start(plan)

    async def build(self, _recipe, _progress):
        self.builds += 1
        self.missing = False
        return BuiltGuest(runner="r", digest="d", size_bytes=1, build_s=0.0)

    async def release_tap(self, _uid):
        return None

    def granted(self):
        return True

    async def confirm_start(self, *_question):
        return self.allowed

    def wall_time_ms(self):
        return 1_700_000_000_000

    def log(self, *_words, **_fields):
        return None

    def assign(self, **changes):
        spec = msgspec.structs.replace(SPEC, **changes)
        self.worker.assign(Assignment(uid="i", namespace="default", name="web-1", spec=spec))

    async def steps(self, count):
        """Take steps as ``run`` does, without its pauses."""
        for _ in range(count):
            self.worker.history.next_launch_s = self.worker.history.next_check_s = 0.0
            try:
                await self.worker._step()
            except BlixardError as error:
                self.worker._failed(error)

    def restart(self):
        self.worker = Worker("i", self.worker._tools, asyncio.Lock())

    def answers(self):
        self.hypervisor.guests["i"] = GuestStatus(ready=True)

    @property
    def phases(self):
        return [status.phase for status, _ in self.reports]


def play(scenario):
    async def run():
        outside = Outside()
        outside.assign()
        await scenario(outside)
        walked = ["Pending"] + [phase for _, path in outside.reports for phase in path]
        pairs = itertools.pairwise(walked)
        assert all(LIFECYCLE.leads(before, after) for before, after in pairs), walked
        return outside

    return asyncio.run(run())


async def become_ready(outside):
    await outside.steps(2)
    outside.answers()
    await outside.steps(1)


def test_a_start_is_told_with_what_it_took():
    outside = play(become_ready)
    assert outside.phases == ["Building", "Starting", "Starting", "Running"]
    status, _ = outside.reports[-1]
    assert list(status.phases_ms) == ["build", "prepare", "start", "boot", "ready"]
    assert all(took >= 0 for took in status.phases_ms.values())


def test_a_vanished_runner_is_built_again():
    async def scenario(outside):
        await become_ready(outside)
        outside.hypervisor.crash("i")
        await outside.steps(1)
        outside.missing = True
        await outside.steps(3)
        outside.answers()
        await outside.steps(1)

    outside = play(scenario)
    assert outside.builds == 2
    assert outside.phases[-5:] == ["Failed", "Building", "Starting", "Starting", "Running"]


def test_a_refused_start_rests_until_it_is_allowed():
    async def scenario(outside):
        outside.allowed = False
        await outside.steps(2)
        outside.assign(desired="Stopped")
        await outside.steps(1)

    outside = play(scenario)
    assert outside.phases[-1] == "Stopped"
    assert processes_of(outside) == []


def processes_of(outside):
    return asyncio.run(outside.hypervisor.instances())


def test_a_restarted_daemon_finds_its_guest():
    async def scenario(outside):
        await become_ready(outside)
        outside.restart()
        outside.assign()
        await outside.steps(1)

    outside = play(scenario)
    status, path = outside.reports[-1]
    assert (status.phase, status.ready, path) == ("Running", True, ("Unknown", "Running"))


@pytest.mark.parametrize(
    "change", [{"recipe": GuestRecipe(packages=("curl",))}, {"restart_generation": 1}]
)
def test_a_restarted_daemon_knows_what_its_guest_was_started_for(change):
    async def scenario(outside):
        await become_ready(outside)
        [found] = await outside.hypervisor.instances()
        outside.first_pid = found.pid
        outside.restart()
        outside.assign(**change)
        await outside.steps(5)

    outside = play(scenario)
    assert [process.pid for process in processes_of(outside)] != [outside.first_pid]


@pytest.mark.parametrize("end", ["guard gone", "image changed", "killed late"])
def test_every_end_is_a_way_of_the_table(end):
    async def scenario(outside):
        await become_ready(outside)
        if end == "guard gone":
            outside.hypervisor._instances.clear()
        elif end == "image changed":
            outside.assign(recipe=GuestRecipe(packages=("curl",)))
        else:
            outside.hypervisor.advance(10**6)
            outside.deadline_ns = 10**18
        await outside.steps(4)
        outside.answers()
        await outside.steps(1)

    assert play(scenario).phases[-1] == "Running"


def test_what_it_does_not_know_it_refuses():
    worker = Outside().worker
    with pytest.raises(BlixardError, match="knows no"):
        worker.reporter.go("resume")


def test_an_instance_that_comes_back_while_its_worker_takes_leave_is_started():
    async def scenario(outside):
        async def comes_back(_uid):
            outside.assign(run=2)

        await become_ready(outside)
        outside.worker.assign(None)
        await outside.steps(2)
        outside.release_tap = comes_back
        await outside.steps(1)
        assert not outside.worker.ended
        outside.answers()
        await outside.steps(3)

    assert play(scenario).phases[-1] == "Running"
