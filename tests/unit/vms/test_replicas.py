"""From VMs and nodes to instances: placing, scaling, losing nodes, coming back."""

import pytest

from blixard.cluster.resources import Delete, Put
from blixard.vms.batch import BYTES_MAX, OPS_MAX
from blixard.vms.replicas import ReplicaPlanner
from tests.unit.vms.states import Cluster


@pytest.fixture
def cluster():
    return Cluster()


def nodes_of(cluster):
    return {name: spec["nodeName"] for name, spec in cluster.instances().items()}


def test_replicas_spread_over_the_nodes(cluster):
    cluster.vm(replicas=3)
    cluster.settle()
    assert sorted(nodes_of(cluster).values()) == ["node1", "node2", "node3"]
    assert sorted(nodes_of(cluster)) == ["web-1", "web-2", "web-3"]


def test_a_settled_state_needs_nothing(cluster):
    cluster.vm(replicas=3)
    cluster.settle()
    cluster.all_ready()
    cluster.settle()
    assert cluster.plan() == 0
    assert cluster.vm_status()["phase"] == "Running"


def test_each_instance_has_an_address_of_its_own(cluster):
    cluster.vm(replicas=5)
    cluster.settle()
    addresses = [spec["ip"] for spec in cluster.instances().values()]
    assert len(set(addresses)) == 5
    assert all(a.startswith("10.42.") for a in addresses)


def test_what_fits_nowhere_is_pending_with_reasons():
    cluster = Cluster(memory_mib=100)
    cluster.vm(replicas=1, memory=1024)
    cluster.settle()
    status = cluster.statuses()["web-1"]
    assert status["phase"] == "Pending"
    assert "100 MiB memory free, 1024 needed" in status["reason"]
    assert cluster.vm_status()["phase"] == "Pending"


def test_scaling_down_removes_the_highest_ordinals(cluster):
    cluster.vm(replicas=5)
    cluster.settle()
    cluster.all_ready()
    cluster.vm(replicas=3)
    cluster.settle()
    cluster.stopped()
    assert sorted(cluster.instances()) == ["web-1", "web-2", "web-3"]


def test_a_fenced_instance_moves_under_a_higher_run(cluster):
    cluster.vm(replicas=1)
    cluster.settle()
    cluster.all_ready()
    before = cluster.instances()["web-1"]
    assert before["fenced"]
    cluster.lose(before["nodeName"])
    cluster.settle()
    after = cluster.instances()["web-1"]
    assert after["nodeName"] != before["nodeName"]
    assert after["run"] == before["run"] + 1
    assert cluster.statuses()["web-1"]["phase"] == "Pending"


def test_a_kept_instance_is_replaced_by_another_ordinal(cluster):
    cluster.vm(replicas=3)
    cluster.settle()
    cluster.all_ready()
    lost = nodes_of(cluster)["web-2"]
    cluster.lose(lost)
    cluster.settle()
    assert sorted(cluster.instances()) == ["web-1", "web-2", "web-3", "web-4"]
    assert cluster.statuses()["web-2"]["phase"] == "Unknown"
    assert nodes_of(cluster)["web-4"] != lost


def test_the_one_from_before_goes_when_its_node_returns(cluster):
    cluster.vm(replicas=3)
    cluster.settle()
    cluster.all_ready()
    lost = nodes_of(cluster)["web-2"]
    cluster.lose(lost)
    cluster.settle()
    cluster.report("web-4", phase="Running", ready=True)
    cluster.patch("Node", lost, state="Ready")
    cluster.settle()
    cluster.stopped()
    assert sorted(cluster.instances()) == ["web-1", "web-3", "web-4"]


def test_without_a_replacement_it_is_taken_back():
    cluster = Cluster(nodes=2)
    cluster.vm(replicas=2, memory=4000)
    cluster.settle()
    cluster.all_ready()
    lost = nodes_of(cluster)["web-2"]
    cluster.lose(lost)
    cluster.settle()
    cluster.patch("Node", lost, state="Ready")
    cluster.settle()
    kept = {n: s for n, s in cluster.instances().items() if s["node"]}
    assert len(kept) == 2
    assert all(
        s["nodeEpoch"] == cluster.store.by_uid(s["node"]).status["epoch"] for s in kept.values()
    )


def test_local_data_waits_for_its_node(cluster):
    cluster.vm(replicas=1, persistent=True)
    cluster.settle()
    cluster.all_ready()
    before = cluster.instances()["web-1"]
    cluster.lose(before["nodeName"])
    cluster.settle()
    assert cluster.instances() == {"web-1": before}
    assert cluster.statuses()["web-1"]["phase"] == "Unknown"


def test_stopping_keeps_the_place(cluster):
    cluster.vm(replicas=2)
    cluster.settle()
    before = nodes_of(cluster)
    cluster.vm(replicas=2, running=False)
    cluster.settle()
    assert nodes_of(cluster) == before
    assert {s["desired"] for s in cluster.instances().values()} == {"Stopped"}


def changed(cluster):
    return [n for n, s in cluster.instances().items() if s["memoryMib"] == 256]


def test_a_change_restarts_one_instance_at_a_time(cluster):
    cluster.vm(replicas=3)
    cluster.settle()
    cluster.all_ready()
    cluster.vm(replicas=3, memory=256)
    cluster.settle()
    assert changed(cluster) == []
    cluster.stopped()
    (first,) = changed(cluster)
    cluster.report(first, phase="Running", ready=True)
    cluster.settle()
    cluster.stopped()
    assert len(changed(cluster)) == 2


def test_a_leaving_node_is_emptied_one_by_one(cluster):
    cluster.vm(replicas=3)
    cluster.settle()
    cluster.all_ready()
    node = nodes_of(cluster)["web-1"]
    cluster.patch("Node", node, removing=True)
    cluster.settle()
    assert cluster.instances()["web-1"]["desired"] == "Stopped"
    cluster.report("web-1", phase="Stopped", ready=False)
    cluster.settle()
    assert nodes_of(cluster)["web-1"] != node


def test_a_stop_within_a_restart_does_not_empty_a_leaving_node(cluster):
    """Its node stopped it to start it again: it may run by now."""
    cluster.vm(replicas=1)
    cluster.settle()
    cluster.all_ready()
    cluster.vm(replicas=1, restartGeneration=1)
    cluster.settle()
    cluster.report("web-1", phase="Stopped", ready=False)
    node, old = nodes_of(cluster)["web-1"], cluster.instances()["web-1"]["run"]
    cluster.patch("Node", node, removing=True)
    cluster.settle()
    assert nodes_of(cluster)["web-1"] == node
    assert cluster.instances()["web-1"]["run"] == old + 1
    cluster.report("web-1", phase="Stopped", ready=False)
    cluster.settle()
    assert nodes_of(cluster)["web-1"] != node


def test_a_placed_instance_cannot_be_moved_while_it_may_run(cluster):
    cluster.vm(replicas=1)
    cluster.settle()
    cluster.all_ready()
    instance = cluster.store.get("Instance", "default", "web-1")
    other = next(f"u{n}" for n in (1, 2, 3) if f"u{n}" != instance.spec["node"])
    moved = {**instance.spec, "node": other, "run": instance.spec["run"] + 1}
    outcome = cluster.apply(Put(kind="Instance", namespace="default", name="web-1", spec=moved))
    assert outcome.code == "INVARIANT"
    assert "may still run" in outcome.message


def test_what_ended_by_itself_may_be_starting_again(cluster):
    cluster.vm(replicas=1, restartPolicy="Never")
    cluster.settle()
    cluster.report("web-1", phase="Stopped", ready=False)
    instance = cluster.store.get("Instance", "default", "web-1")
    other = next(f"u{n}" for n in (1, 2, 3) if f"u{n}" != instance.spec["node"])
    moved = {**instance.spec, "node": other, "run": instance.spec["run"] + 1}
    outcome = cluster.apply(Put(kind="Instance", namespace="default", name="web-1", spec=moved))
    assert "may still run" in outcome.message


def test_a_start_after_a_stop_is_a_new_run(cluster):
    cluster.vm(replicas=1)
    cluster.settle()
    first = cluster.instances()["web-1"]
    cluster.vm(replicas=1, running=False)
    cluster.settle()
    cluster.report("web-1", phase="Stopped", ready=False)
    stopped = cluster.store.get("Instance", "default", "web-1").spec
    again = {**stopped, "desired": "Running"}
    outcome = cluster.apply(Put(kind="Instance", namespace="default", name="web-1", spec=again))
    assert "needs a higher run number" in outcome.message
    cluster.vm(replicas=1)
    cluster.settle()
    second = cluster.instances()["web-1"]
    assert (second["node"], second["run"]) == (first["node"], first["run"] + 2)
    assert cluster.statuses()["web-1"]["phase"] == "Pending"
    cluster.patch("Node", second["nodeName"], removing=True)
    cluster.settle()
    assert cluster.instances()["web-1"]["node"] == first["node"]


def test_a_pass_is_bounded_whatever_one_vm_wants():
    cluster = Cluster(nodes=10, vcpus=64, memory_mib=65536)
    cluster.vm(replicas=600)
    assert OPS_MAX <= cluster.plan() <= OPS_MAX + 2
    cluster.settle()
    assert len(cluster.instances()) == 600


def test_large_recipes_fit_into_several_commands(cluster):
    content = "x" * 100_000
    cluster.vm(replicas=12, recipe={"files": [{"path": "/f", "content": content}]})
    passes = 0
    while cluster.plan():
        passes += 1
    assert passes >= 12 * len(content) // (BYTES_MAX + len(content))
    assert len(cluster.instances()) == 12


def test_only_what_changed_is_looked_at_again(cluster, monkeypatch):
    for name in ("a", "b", "c"):
        cluster.vm(name, replicas=2)
    cluster.settle()
    cluster.all_ready()
    cluster.settle()
    looked = []
    plan_vm = ReplicaPlanner._plan_vm
    monkeypatch.setattr(
        ReplicaPlanner,
        "_plan_vm",
        lambda planner, vm, found: looked.append(vm.metadata.name) or plan_vm(planner, vm, found),
    )
    cluster.plan()
    assert looked == []
    cluster.report("b-1", phase="Running", ready=False)
    cluster.plan()
    assert looked == ["b"]
    cluster.lose(nodes_of(cluster)["c-1"])
    cluster.plan()
    assert set(looked) == {"a", "b", "c"}


def test_what_waits_for_room_is_placed_once_another_left():
    cluster = Cluster(nodes=1, memory_mib=1024)
    cluster.vm("first", memory=1024)
    cluster.settle()
    cluster.vm("second", memory=1024)
    cluster.settle()
    assert not cluster.instances()["second-1"]["node"]
    cluster.commit(Delete(kind="VM", namespace="default", name="first"))
    cluster.settle()
    assert not cluster.instances()["second-1"]["node"]
    cluster.stopped()
    assert cluster.instances()["second-1"]["node"]


def test_a_node_without_the_role_gets_no_vms(cluster):
    for number in (1, 2, 3):
        node = cluster.store.get("Node", "", f"node{number}")
        roles = ["ceph-osd"] if number < 3 else ["hypervisor", "ceph-osd"]
        cluster.commit(
            Put(kind="Node", namespace="", name=f"node{number}", spec={**node.spec, "roles": roles})
        )
    cluster.vm(replicas=2)
    cluster.vm("pinned", placement={"nodeSelector": {"a": "b"}})
    cluster.settle()
    assert {n for v, n in nodes_of(cluster).items() if v != "pinned-1"} == {"node3"}
    reason = cluster.statuses()["pinned-1"]["reason"]
    assert "2 nodes: without the role hypervisor" in reason
