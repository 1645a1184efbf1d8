"""Guests outlive the daemon, never the host, and never their deadline."""

import asyncio

import pytest

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.oracles import Oracles
from blixard.simulation.world import World

PLAN = LaunchPlan(
    instance_uid="i",
    name="i",
    namespace="n",
    node_epoch=1,
    run=1,
    runner="r",
    memory_mib=64,
    vcpus=1,
)


class Machine:
    def __init__(self, nodes=2):
        self.oracles = Oracles()
        self.world = World(1, nodes, mode="fifo", observer=self.oracles)
        for host in self.world.hosts:
            host.boot()
            host.start_daemon()

    def run(self, seconds):
        self.world.loop.run_until(self.world.loop.now_ns + int(seconds * 1e9))

    def do(self, host, coroutine):
        task = host.daemon.process.spawn(coroutine, name="do")
        self.world.loop.run_until(self.world.loop.now_ns + 10**10, task)
        return task.result()

    def start(self, host, lease_s=None):
        hypervisor = host.daemon.hypervisor
        self.do(host, hypervisor.start_paused(PLAN))
        if lease_s is not None:
            end = host.guests.boottime_ns() + int(lease_s * 1e9)
            self.do(host, hypervisor.arm("i", end, epoch=1, seq=0))
        self.do(host, hypervisor.resume("i"))


def test_guest_runs_on_when_the_daemon_dies():
    machine = Machine()
    host = machine.world.hosts[0]
    machine.start(host)
    host.kill_daemon()
    machine.run(10)
    host.start_daemon()
    assert [i.state for i in machine.do(host, host.daemon.hypervisor.instances())] == ["running"]


def test_guard_kills_at_the_deadline_without_the_daemon():
    machine = Machine()
    host = machine.world.hosts[0]
    machine.start(host, lease_s=4)
    host.pause_daemon()
    machine.run(3.9)
    assert host.guests.running()
    machine.run(0.2)
    assert host.guests.get("i").killed_by_guard


def test_extended_deadline_keeps_the_guest():
    machine = Machine()
    host = machine.world.hosts[0]
    machine.start(host, lease_s=4)
    later = host.guests.boottime_ns() + 8 * 10**9
    machine.do(host, host.daemon.hypervisor.extend(later))
    machine.run(6)
    assert host.guests.running()


def test_crash_of_the_host_ends_its_guests():
    machine = Machine()
    host = machine.world.hosts[0]
    machine.start(host)
    host.crash()
    host.boot()
    assert host.guests.running() == []


def test_frozen_host_kills_overdue_guests_first():
    machine = Machine()
    one, two = machine.world.hosts
    machine.start(one, lease_s=4)
    one.freeze()
    machine.run(10)
    machine.start(two)
    one.thaw()
    assert machine.oracles.violations == []
    assert one.guests.running() == []


def test_two_copies_are_a_double_run():
    machine = Machine()
    for host in machine.world.hosts:
        machine.start(host)
    assert "double run" in machine.oracles.violations[0]


def test_resume_after_the_deadline_is_refused():
    machine = Machine()
    host = machine.world.hosts[0]
    hypervisor = host.daemon.hypervisor
    machine.do(host, hypervisor.start_paused(PLAN))
    machine.do(host, hypervisor.arm("i", host.guests.boottime_ns() - 1, epoch=1, seq=0))
    with pytest.raises(BlixardError, match="GUEST_START_FAILED"):
        machine.do(host, hypervisor.resume("i"))


def test_guest_answers_once_it_has_booted():
    machine = Machine()
    host = machine.world.hosts[0]
    machine.start(host)
    with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
        machine.do(host, host.daemon.hypervisor.guest_status("i"))
    machine.run(5)
    assert machine.do(host, host.daemon.hypervisor.guest_status("i")).ready


def test_word_of_a_dead_daemon_arrives_and_counts_only_if_none_overtook_it():
    machine = Machine()
    host = machine.world.hosts[0]
    machine.start(host, lease_s=60)
    host.guests.guard_mean_s = 10
    host.daemon.process.spawn(host.daemon.hypervisor.disarm("i", seq=1), name="late")
    machine.run(1)
    host.kill_daemon()
    host.start_daemon()
    end_ns = host.guests.boottime_ns() + 60 * 10**9
    host.guests.guard_mean_s = 0.001
    machine.do(host, host.daemon.hypervisor.arm("i", end_ns, epoch=2, seq=2))
    machine.run(20)
    [found] = machine.do(host, host.daemon.hypervisor.instances())
    assert (found.guard, found.guard_seq, found.guard_epoch) == ("fence", 2, 2)


@pytest.mark.parametrize(("how", "fires_s"), [("freeze", 10.0), ("suspend", 13.0)])
def test_time_outs_stand_still_in_a_suspend_alone(how, fires_s):
    machine = Machine()
    host = machine.world.hosts[0]
    fired = []

    async def sleeper():
        loop = asyncio.get_running_loop()
        began_s, boot_ns = loop.time(), host.daemon.env.boottime_ns()
        await asyncio.sleep(5)
        boot_s = (host.daemon.env.boottime_ns() - boot_ns) / 1e9
        fired.append((machine.world.loop.now_ns / 1e9, loop.time() - began_s, boot_s))

    host.drift_ppb = 0
    host.crash()
    host.boot()
    host.start_daemon()
    began_s = machine.world.loop.now_ns / 1e9
    host.daemon.env.spawn(sleeper(), name="sleeper")
    machine.run(2)
    (host.freeze if how == "freeze" else host.suspend)()
    machine.run(8)
    host.thaw()
    machine.run(9)
    world_s, loop_s, boot_s = fired[0]
    assert world_s - began_s == pytest.approx(fires_s)
    assert loop_s == pytest.approx(5.0 if how == "suspend" else 10.0)
    assert boot_s == pytest.approx(fires_s)
