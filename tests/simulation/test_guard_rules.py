"""``onPartition`` changed on running VMs: nobody counts on a guard that was not told, or was later.

The plans are made by hand: each host is cut off, or its daemon stopped, in turn, so that whichever
runs the VM loses its lease and comes back alive; the operator's changes lie so that a cut meets them half done.
"""

import asyncio
from contextlib import ExitStack

import pytest
from tests.simulation.mutants import GUARD_MUTANTS, patched

from blixard.base.errors import BlixardError
from blixard.node.link import NodeLink
from blixard.simulation.hypervisor import SimHypervisor
from blixard.simulation.planning import Fault, Plan
from blixard.simulation.report import Options
from blixard.simulation.run import Simulation
from blixard.simulation.workload import Declare, Operator

pytestmark = pytest.mark.simulation

CUTS_S = (20, 44, 68)
CUT_S = 12
WORD_AGAIN_S = 12.0
REPORT_S = 2.0
ARM_S = 3.4


def wanting(*changes):
    """Have the operator change one VM at these seconds before, or after, each cut begins."""
    times = [(cut + at, mode) for cut in CUTS_S for at, mode in changes]

    async def run(operator):
        await operator._declare(Declare("single", 1, changes[-1][1]))
        for at_s, mode in times:
            await asyncio.sleep(max(0.0, at_s - operator._env.boottime_ns() / 1e9))
            await operator._declare(Declare("single", 1, mode))

    return patched(Operator, "run", run)


def no_other_changes():
    async def nothing(_operator):
        return

    return patched(Operator, "switch", nothing)


def slow_reports():
    """Have each report wait before it is sent."""
    send = NodeLink._send_reports

    async def slow(link, *reported):
        await asyncio.sleep(REPORT_S)
        return await send(link, *reported)

    return patched(NodeLink, "_send_reports", slow)


def disarmed_again():
    """Have each word that disarms arrive a second time: its connection broke, it was repeated."""
    disarm = SimHypervisor.disarm

    async def twice(hypervisor, uid, *, seq):
        await disarm(hypervisor, uid, seq=seq)
        world = hypervisor._world

        def again():
            try:
                world.disarm(uid, seq)
            except BlixardError:
                return

        world.later(WORD_AGAIN_S, again)

    return patched(SimHypervisor, "disarm", twice)


def armed_slowly():
    """Have each word that arms be on its way for most of a lease, while renewals overtake it."""
    arm = SimHypervisor.arm

    async def slow(hypervisor, uid, deadline_ns, *, epoch, seq):
        await asyncio.sleep(ARM_S)
        await arm(hypervisor, uid, deadline_ns, epoch=epoch, seq=seq)

    return patched(SimHypervisor, "arm", slow)


SCENARIOS = {
    # The change is committed after the cut began: the guard cannot hear of it in time.
    "counted_before_the_word": lambda: (wanting((-7, "keep"), (1, "fence")),),
    # The guard has disarmed, and the cut keeps the node from saying so.
    "disarmed_before_the_commit": lambda: (wanting((-5, "fence"), (-1, "keep")), slow_reports()),
    # The word of ten seconds before the daemon stops comes again while nobody can mend it.
    "older_words_count": lambda: (wanting((-10, "keep"), (-7, "fence")), disarmed_again()),
    "renewed_while_it_was_armed": lambda: (wanting((-16, "keep"), (-13, "fence")), armed_slowly()),
}


def each_host_cut_off_in_turn(name):
    kind = "pause" if name == "older_words_count" else "partition"
    cuts = [Fault(at * 1000, kind, CUT_S * 1000, (host,)) for host, at in enumerate(CUTS_S, 1)]
    options = Options(seed=1, nodes=3, clients=1, duration_s=106, node=True)
    simulation = Simulation(options, plan=Plan(tuple(cuts), (CUTS_S[-1] + CUT_S + 2) * 1000))
    with ExitStack() as stack:
        for patch in (*SCENARIOS[name](), no_other_changes()):
            stack.enter_context(patch)
        return simulation.run()


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_switched_instance_never_runs_twice(name):
    report = each_host_cut_off_in_turn(name)
    assert report.violations == ()
    assert report.guest_runs >= 2


@pytest.mark.parametrize("name", sorted(GUARD_MUTANTS))
def test_planted_bug_in_switching_is_caught(name):
    plant, oracle = GUARD_MUTANTS[name]
    with plant():
        report = each_host_cut_off_in_turn(name)
    assert any(text.startswith(oracle) for text in report.violations)
