"""The steps of a removal, from the state alone."""

from __future__ import annotations

import pytest

from blixard.node.removal import removal_step
from tests.unit.vms.states import Cluster


def nodes(cluster):
    return cluster.store.list("Node")


def step(cluster, node, *, force=False):
    return removal_step(cluster.store, node, force=force, raft_ids=set(), waited_s=0.0)


@pytest.mark.parametrize("force", [False, True])
def test_last_node_that_stays_is_not_touched(force):
    cluster = Cluster()
    first, *others = nodes(cluster)
    assert step(cluster, first, force=force).kind == "mark"
    for other in others:
        cluster.patch("Node", other.metadata.name, removing=True)
    last = step(cluster, nodes(cluster)[0], force=force)
    assert last.kind == "failed"
    assert "node1 is the last node" in last.message


def test_removal_under_way_goes_on():
    cluster = Cluster()
    for node in nodes(cluster):
        cluster.patch("Node", node.metadata.name, removing=True)
    assert step(cluster, nodes(cluster)[0]).kind == "delete"
