"""A majority is lost for good: the scenario holds on more seeds, and planted bugs in it are found."""

import msgspec
import pytest
from tests.simulation.mutants import patched

from blixard.cluster import recovery as cluster_recovery
from blixard.cluster.recovery import go_on_alone
from blixard.consensus import offline
from blixard.simulation.scenarios.table import run_scenario

pytestmark = pytest.mark.simulation

NAME = "recovery/goes-on-alone"


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_last_node_loses_no_acknowledged_write_and_runs_nothing_twice(seed):
    report = run_scenario(NAME, seed)
    assert report.violations == ()
    assert report.writes > 20
    assert report.guest_runs >= 3


def others_lost_at_once():
    """The others' leases are taken for ended already."""

    def hasty(draft, own_uid, **given):
        go_on_alone(draft, own_uid, **given)
        for node in draft.list("Node"):
            if node.metadata.uid != own_uid:
                epoch = int(node.status.get("epoch", 0)) + 1
                status = {**node.status, "state": "Lost", "epoch": epoch, "lostAtMs": 1}
                draft.put(msgspec.structs.replace(node, status=status))

    return patched(cluster_recovery, "go_on_alone", hasty)


def uncommitted_entries_dropped():
    """What is not known to be committed is cut off."""
    read_log = offline.read_log

    async def cautious(env, directory, config):
        found = await read_log(env, directory, config)
        kept = [entry for entry in found.entries if entry[0] <= found.commit_index]
        return msgspec.structs.replace(found, entries=kept)

    return patched(offline, "read_log", cautious)


@pytest.mark.parametrize(
    ("plant", "oracle"),
    [
        (others_lost_at_once, "double run"),
        (uncommitted_entries_dropped, "acknowledged writes"),
    ],
)
def test_planted_bug_in_recovery_is_caught(plant, oracle):
    caught = ""
    for seed in range(1, 13):
        with plant():
            caught = " ".join(run_scenario(NAME, seed).violations)
        if caught:
            break
    assert oracle in caught
