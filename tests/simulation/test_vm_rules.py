"""VMs in whole runs: what nodes report is what the table says."""

import pytest
from tests.simulation.mutants import patched

from blixard.cluster import apply
from blixard.simulation.run import Options, simulate

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
