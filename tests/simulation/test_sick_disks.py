"""Planted bugs show that the scenarios of sick leaders matter: the sick one stays."""

import pytest
from tests.simulation.mutants import patched

from blixard.consensus.node import RaftNode
from blixard.consensus.saving import Saver
from blixard.simulation.scenarios.table import run_scenario

pytestmark = pytest.mark.simulation


def stays_with_a_stalled_disk():
    return patched(Saver, "pending_s", lambda _saver, _now: 0.0)


def stays_with_a_full_disk():
    async def stay(_node):
        return None

    return patched(RaftNode, "prefer_another_leader", stay)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("disks/hung-sync", stays_with_a_stalled_disk),
        ("disks/full-leader", stays_with_a_full_disk),
    ],
)
def test_planted_bug_keeps_the_sick_leader(name, plant):
    with plant():
        report = run_scenario(name, 1)
    assert "another leads, within" in " ".join(report.violations)
