"""One host applies differently from the others: it is found, and serves and leads no longer."""

from contextlib import nullcontext

import pytest
from tests.simulation.mutants import patched

from blixard.consensus.comparison import Comparison
from blixard.simulation.planning import Plan
from blixard.simulation.report import Options
from blixard.simulation.run import Simulation
from blixard.simulation.scenarios.divergence import BAD, prepare

pytestmark = pytest.mark.simulation


class DivergenceRun(Simulation):
    """A run in which one host's first daemon applies wrongly; at its ends no other state is."""

    def __init__(self, options, plan=None):
        super().__init__(options, plan=plan)
        prepare(self)

    def _compare(self, when):
        super()._compare(when)
        if self._failed():
            return
        states = {}
        for host in self.world.hosts:
            voter = self.apps[host.number].node.voter
            if not voter.raft.in_quarantine:
                machine = voter.machine
                states.setdefault(machine.encode(machine.freeze()), []).append(host.number)
        if len(states) > 1:
            self.oracles.fail("divergence", f"{when}, hosts {sorted(states.values())} differ")


def without_comparison():
    """Nobody compares."""

    async def nothing(_comparison):
        return None

    return patched(Comparison, "compare", nothing)


def quiet(seed, *, nodes=3, plant=nullcontext):
    options = Options(seed=seed, nodes=nodes, node=True, duration_s=20)
    simulation = DivergenceRun(options, plan=Plan((), 14_000))
    with plant():
        return simulation, simulation.run()


@pytest.mark.parametrize(("seed", "nodes"), [(1, 3), (2, 3), (3, 5)])
def test_host_with_another_state_is_quarantined(seed, nodes):
    simulation, report = quiet(seed, nodes=nodes)
    assert report.violations == ()
    found = [n for n, app in simulation.apps.items() if app.raft.in_quarantine]
    assert found == [BAD]  # also after the power loss at the end
    assert report.writes > 20


@pytest.mark.parametrize("seed", range(1, 5))
def test_divergence_under_faults_breaks_no_other_promise(seed):
    report = DivergenceRun(Options(seed=seed, nodes=3, node=True, duration_s=40)).run()
    assert report.violations == ()


def test_divergence_is_missed_without_comparison():
    _, report = quiet(1, plant=without_comparison)
    assert "divergence" in " ".join(report.violations)
