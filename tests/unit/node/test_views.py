"""What the leader tells the nodes, worked out once per state."""

import pytest

from blixard.node.views import ClusterView
from tests.unit.vms.states import Cluster


@pytest.fixture
def cluster():
    made = Cluster()
    made.vm(replicas=3)
    made.settle()
    return made


def digests(cluster, view):
    return {n.metadata.name: view.digest(n) for n in cluster.store.list("Node")}


def test_each_node_is_told_its_own_instances(cluster):
    view = ClusterView(cluster.store, {1})
    for node in cluster.store.list("Node"):
        duties = view.of(node)
        expected = [
            i.metadata.uid
            for i in cluster.store.list("Instance")
            if i.spec["node"] == node.metadata.uid
        ]
        assert [a.uid for a in duties.assignments] == expected
        assert len(duties.networks[0].endpoints) == 3
        assert len(duties.networks[0].peers) == 2
        assert [p.voter for p in duties.peers] == [True, False, False]


def test_a_status_changes_nobodys_duties(cluster):
    view = ClusterView(cluster.store, {1})
    before = digests(cluster, view)
    cluster.report("web-1", phase="Running", ready=True)
    assert view.describes(cluster.store, {1})
    assert digests(cluster, ClusterView(cluster.store, {1})) == before


def test_a_changed_spec_reaches_its_nodes(cluster):
    view = ClusterView(cluster.store, {1})
    before = digests(cluster, view)
    cluster.vm(replicas=3, running=False)
    cluster.plan()
    assert not view.describes(cluster.store, {1})
    after = digests(cluster, ClusterView(cluster.store, {1}, view))
    assert [name for name in before if before[name] != after[name]] == ["node1", "node2", "node3"]


@pytest.mark.parametrize("change", ["instance", "voters", "epoch"])
def test_what_nodes_are_told_makes_the_view_anew(cluster, change):
    view = ClusterView(cluster.store, {1})
    before = digests(cluster, view)
    voters = {1, 2} if change == "voters" else {1}
    if change == "instance":
        cluster.vm(replicas=4)
        cluster.plan()
    elif change == "epoch":
        cluster.lose("node2")
    assert not view.describes(cluster.store, voters)
    after = digests(cluster, ClusterView(cluster.store, voters, view))
    assert before["node2"] != after["node2"]
