"""The oracles of snapshots, bounds and healthy instances find what is planted; all of them see."""

from itertools import count

import pytest
from tests.simulation.mutants import patched

from blixard.consensus.snapshots import SnapshotStore
from blixard.simulation.hypervisor import SimHypervisor
from blixard.simulation.register import RegisterMachine
from blixard.simulation.report import Options
from blixard.simulation.run import Simulation, simulate
from blixard.vms import reconcile

pytestmark = pytest.mark.simulation

SEEDS_THAT_SHOW = (3, 6)
MUST_HAPPEN = (
    "leader changed under load",
    "snapshot installed",
    "log cut by a conflict",
    "members changed under a fault",
    "killed by its guard",
    "request repeated after an unknown outcome",
    "broken node replaced",
)


def snapshot_loses_a_request():
    """A snapshot does not hold the oldest request id, under the right hash."""
    encode = RegisterMachine.encode

    def losing(machine, handle):
        for oldest in list(handle.requests)[:1]:
            del handle.requests[oldest]
        return encode(machine, handle)

    return patched(RegisterMachine, "encode", losing)


def snapshots_are_never_removed():
    """Every snapshot stays on the disk."""

    async def prune(_store):
        return

    return patched(SnapshotStore, "prune", prune)


def guard_is_not_told_of_renewals():
    """The deadline that an instance was started with is never moved."""

    async def extend(_hypervisor, _deadline_ns):
        return

    return patched(SimHypervisor, "extend", extend)


def stopped_for_nothing():
    """Now and then a worker stops what runs well."""
    live, asked = reconcile._live, count(1)

    def stopping(*facts):
        if next(asked) % 200 == 0:
            return reconcile.Step(kind="stop", why="no reason")
        return live(*facts)

    return patched(reconcile, "_live", stopping)


@pytest.mark.parametrize(
    ("plant", "seed", "node", "violation"),
    [
        (snapshot_loses_a_request, 2, False, "saves at"),
        (snapshots_are_never_removed, 2, False, "snapshots, at most"),
        (guard_is_not_told_of_renewals, 1, True, "healthy"),
        (stopped_for_nothing, 1, True, "healthy"),
    ],
)
def test_planted_bug_is_found(plant, seed, node, violation):
    with plant():
        report = simulate(Options(seed=seed, node=node))
    assert len(report.violations) == 1
    assert violation in report.violations[0]


def test_what_the_oracles_watch_for_happens():
    seen, compared, ended = set(), 0, 0
    for seed in SEEDS_THAT_SHOW:
        simulation = Simulation(Options(seed=seed, node=True))
        assert simulation.run().violations == ()
        seen |= set(simulation.oracles.seen)
        compared += simulation.oracles.contents.compared
        ended += simulation.oracles.stops.judged
    assert set(MUST_HAPPEN) <= seen
    assert ended > 0
