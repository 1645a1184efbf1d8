"""VMs in whole runs: what nodes report is what the table says."""

import pytest
from tests.simulation.mutants import patched, reports_of_any_run

from blixard.cluster import apply
from blixard.simulation.planning import Fault, Plan
from blixard.simulation.report import Options
from blixard.simulation.run import Simulation, simulate

pytestmark = pytest.mark.simulation


@pytest.mark.parametrize("seed", [11, 12])
def test_no_report_of_a_correct_node_is_outside_the_table(seed):
    check, judged, refused = apply._check_phase, [], []

    def noting(kind, op, old):
        judged.append(op.name)
        try:
            check(kind, op, old)
        except apply.Refused as error:
            refused.append(error.message)
            raise

    with patched(apply, "_check_phase", noting):
        report = simulate(Options(seed=seed, node=True))
    assert report.violations == ()
    assert len(judged) > 50
    assert refused == []


def each_host_cut_off_in_turn():
    """Return a run in which the fenced VM has to move, and its old node comes back alive."""
    cuts = [Fault(at, "partition", 12_000, (host,)) for host, at in enumerate((12_000, 30_000), 1)]
    cuts.append(Fault(48_000, "partition", 12_000, (3,)))
    options = Options(seed=1, nodes=3, duration_s=85, node=True)
    return Simulation(options, plan=Plan(tuple(cuts), 62_000))


def test_reports_of_an_older_run_are_not_accepted():
    simulation = each_host_cut_off_in_turn()
    assert simulation.run().violations == ()
    assert simulation.oracles.effects.accepted > 20


def test_accepting_reports_of_an_older_run_is_caught():
    with reports_of_any_run():
        report = each_host_cut_off_in_turn().run()
    assert any("accepts a report" in text for text in report.violations)
