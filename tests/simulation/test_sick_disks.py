"""A leader whose disk hangs or is full does not stay leader; planted bugs show that it matters."""

from contextlib import nullcontext

import pytest
from tests.simulation.mutants import patched

from blixard.consensus.node import RaftNode
from blixard.consensus.saving import Saver
from blixard.simulation.knobs import Knobs
from blixard.simulation.planning import Fault, Plan
from blixard.simulation.run import SECOND, Options, Simulation

pytestmark = pytest.mark.simulation

SICK_MS, LASTS_MS = 8_000, 12_000
PATIENCE_NS = 5 * SECOND


def who_leads(kind, seed, plant=nullcontext):
    """Make the leader's disk sick; return (leader before, leaders some seconds later, report)."""
    # The host that leads is not known before the run: the fault is put on the clock during it.
    simulation = Simulation(
        Options(seed=seed, nodes=3, duration_s=30), plan=Plan((), 25_000), knobs=Knobs()
    )
    before, after = [], []

    def leaders():
        rafts = {n: app.raft for n, app in simulation.apps.items()}
        return [n for n, raft in sorted(rafts.items()) if raft is not None and raft.is_leader]

    def sicken():
        before.extend(leaders())
        simulation.injector.begin(Fault(SICK_MS, kind, LASTS_MS, tuple(before)))

    root = simulation.world.loop.root
    root.call_at_ns(SICK_MS * 1_000_000, sicken)
    root.call_at_ns(SICK_MS * 1_000_000 + PATIENCE_NS, lambda: after.extend(leaders()))
    with plant():
        report = simulation.run()
    return before, after, report


@pytest.mark.parametrize("kind", ["stall", "full"])
@pytest.mark.parametrize("seed", [1, 2])
def test_another_host_leads(kind, seed):
    before, after, report = who_leads(kind, seed)
    assert report.violations == ()
    assert len(before) == len(after) == 1
    assert before != after


def stays_with_a_stalled_disk():
    return patched(Saver, "pending_s", lambda _saver, _now: 0.0)


def stays_with_a_full_disk():
    async def stay(_node):
        return None

    return patched(RaftNode, "prefer_another_leader", stay)


@pytest.mark.parametrize(
    ("kind", "plant"), [("stall", stays_with_a_stalled_disk), ("full", stays_with_a_full_disk)]
)
def test_planted_bug_keeps_the_sick_leader(kind, plant):
    before, after, _ = who_leads(kind, 1, plant)
    assert set(before) <= set(after)
