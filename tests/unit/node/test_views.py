"""What the leader tells the nodes, worked out once per state."""

import msgspec
import pytest

from blixard.cluster.resources import Put
from blixard.functions.spec import digest_of
from blixard.node.messages import FullView
from blixard.node.views import ClusterView, source_of
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


def with_functions(cluster, **spec):
    """Give all nodes memory for functions, and let there be one."""
    for node in cluster.store.list("Node"):
        capacity = {**node.spec["capacity"], "functionMemoryMib": 1024}
        changed = {**node.spec, "capacity": capacity}
        uid = node.metadata.uid
        cluster.commit(
            Put(kind="Node", namespace="", name=node.metadata.name, uid=uid, spec=changed)
        )
    put_function(cluster, **spec)


def put_function(cluster, **spec):
    cluster.commit(
        Put(kind="Function", namespace="default", name="f", uid="f", spec={"source": "x", **spec})
    )


def test_cluster_without_functions_sends_what_it_always_did(cluster):
    view = ClusterView(cluster.store, {1})
    for node in cluster.store.list("Node"):
        sent = msgspec.msgpack.encode(view.of(node))
        assert len(msgspec.msgpack.decode(sent)) == 7
        assert msgspec.msgpack.decode(sent, type=FullView).functions.functions == ()


def test_nodes_are_told_their_parts_of_a_function(cluster):
    with_functions(cluster, maxInstances=4)
    view = ClusterView(cluster.store, {1})
    parts = []
    for node in cluster.store.list("Node"):
        sent = msgspec.msgpack.encode(view.of(node))
        functions = msgspec.msgpack.decode(sent, type=FullView).functions
        assert functions.memory_mib == 1024
        parts += [duty.instances_max for duty in functions.functions]
    assert sorted(parts) == [1, 1, 2]


def test_a_changed_function_changes_duties(cluster):
    with_functions(cluster)
    view = ClusterView(cluster.store, {1})
    before = digests(cluster, view)
    cluster.report("web-1", phase="Running", ready=True)
    assert view.describes(cluster.store, {1})
    put_function(cluster, timeout="5s")
    assert not view.describes(cluster.store, {1})
    after = digests(cluster, ClusterView(cluster.store, {1}, view))
    assert [name for name in before if before[name] != after[name]] == ["node1", "node2", "node3"]


def test_source_is_given_by_its_digest(cluster):
    put_function(cluster)
    assert source_of(cluster.store, "f", digest_of("x")) == b"x"
    assert source_of(cluster.store, "f", digest_of("y")) is None
    assert source_of(cluster.store, "u1", digest_of("")) is None
