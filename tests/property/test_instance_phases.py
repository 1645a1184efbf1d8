"""The worker's table and what apply takes of reports are one."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from blixard.cluster.resources import PatchStatus
from blixard.vms.spec import LIFECYCLE
from tests.unit.vms.states import Cluster

PHASES = sorted(LIFECYCLE.table)


def cluster_at(phase):
    cluster = Cluster(nodes=1)
    cluster.vm()
    cluster.plan()
    cluster.patch("Instance", "web-1", "default", phase=phase)
    return cluster


CLUSTERS = {phase: cluster_at(phase) for phase in PHASES}


def report(cluster, path, phase=None):
    """Return the code of a node's report; the state stays as it was."""
    instance, before = cluster.store.get("Instance", "default", "web-1"), cluster.store
    op = PatchStatus(
        kind="Instance",
        namespace="default",
        name="web-1",
        uid=instance.metadata.uid,
        status={"phase": phase or (path[-1] if path else "Running"), "path": list(path)},
        node_uid=instance.spec["node"],
        node_epoch=instance.spec["nodeEpoch"],
        run=instance.spec["run"],
    )
    code = cluster.apply(op).code
    cluster.machine.store = before
    return code


def neighbours(phase):
    return {phase, *LIFECYCLE.table[phase].values()}


def test_each_pair_of_phases_is_judged_by_the_table():
    for old, new in itertools.product(PHASES, PHASES):
        expected = "" if new in neighbours(old) else "TRANSITION_REFUSED"
        assert report(CLUSTERS[old], [new]) == expected, (old, new)


@given(st.sampled_from(PHASES), st.lists(st.sampled_from(PHASES), max_size=6))
def test_any_path_is_judged_by_the_table(old, path):
    walk = bool(path) and all(b in neighbours(a) for a, b in itertools.pairwise(path))
    connected = walk and (old in path or path[0] in neighbours(old))
    assert report(CLUSTERS[old], path) == ("" if connected else "TRANSITION_REFUSED")


@given(st.data())
def test_whatever_the_table_does_is_taken_in_any_batches(data):
    old = data.draw(st.sampled_from(PHASES))
    phase, path = old, []
    for _ in range(data.draw(st.integers(1, 8))):
        phase = LIFECYCLE.next(phase, data.draw(st.sampled_from(sorted(LIFECYCLE.table[phase]))))
        path.append(phase)
    assert report(CLUSTERS[old], path) == ""
    cut = data.draw(st.integers(0, len(path) - 1))
    assert report(CLUSTERS[path[cut]], path) == "", "told again after a lost answer"


def test_a_path_that_ends_elsewhere_is_refused():
    cluster = CLUSTERS["Starting"]
    assert report(cluster, ["Running"], "Stopped") == "TRANSITION_REFUSED"
    assert report(cluster, ["Running"] * 17) == "TRANSITION_REFUSED"
    assert report(cluster, ["Dancing"]) == "TRANSITION_REFUSED"
