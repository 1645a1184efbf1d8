"""What is deleted or scaled away keeps its reservation until its node said that it ended."""

import pytest

from blixard.cluster.resources import Delete, Put
from tests.unit.vms.states import Cluster

DELETE = Delete(kind="VM", namespace="default", name="web")


@pytest.fixture
def cluster():
    return Cluster()


def ready(cluster, **spec):
    cluster.vm(**spec)
    cluster.settle()
    cluster.all_ready()
    cluster.settle()


def deleted(cluster):
    cluster.commit(DELETE)
    cluster.settle()


def test_deleting_a_vm_ends_its_instances_first(cluster):
    ready(cluster, replicas=2)
    used = [cluster.store.reserved(f"u{n}") for n in (1, 2, 3)]
    before = cluster.instances()
    deleted(cluster)
    assert cluster.vm_status()["phase"] == "Stopping"
    assert {s["phase"] for s in cluster.statuses().values()} == {"Stopping"}
    assert all(s["run"] == before[n]["run"] + 1 for n, s in cluster.instances().items())
    assert [cluster.store.reserved(f"u{n}") for n in (1, 2, 3)] == used
    cluster.stopped()
    assert cluster.instances() == {}
    assert cluster.store.list("VM") == []
    assert cluster.store.reserved("u1") == (0, 0)


def test_a_second_delete_changes_nothing(cluster):
    ready(cluster, replicas=2)
    deleted(cluster)
    revision = cluster.store.get("VM", "default", "web").metadata.revision
    cluster.commit(DELETE)
    assert cluster.store.get("VM", "default", "web").metadata.revision == revision


def test_what_is_being_deleted_can_be_neither_changed_nor_made_again(cluster):
    ready(cluster, replicas=1)
    deleted(cluster)
    vm = cluster.store.get("VM", "default", "web")
    put = Put(kind="VM", namespace="default", name="web", spec=vm.spec, uid=cluster.uid())
    assert cluster.apply(put).code == "CONFLICT"
    again = cluster.apply(
        Put(kind="VM", namespace="default", name="web", spec=vm.spec, uid=cluster.uid(), expect=0)
    )
    assert (again.code, "until its deletion is complete" in again.message) == (
        "ALREADY_EXISTS",
        True,
    )


def test_what_was_never_placed_is_deleted_at_once():
    cluster = Cluster(memory_mib=100)
    ready(cluster, replicas=2, memory=1024)
    deleted(cluster)
    assert cluster.store.list("VM") == []


def test_a_stopped_vm_is_deleted_at_once(cluster):
    ready(cluster, replicas=2)
    cluster.vm(replicas=2, running=False)
    cluster.settle()
    cluster.stopped()
    assert cluster.vm_status()["phase"] == "Stopped"
    deleted(cluster)
    assert cluster.store.list("VM") == []


def test_a_late_word_of_a_restart_in_place_ends_nothing(cluster):
    """Its node stopped the run before to start it again: that speaks for no stop that follows."""
    ready(cluster, replicas=1)
    run = cluster.instances()["web-1"]["run"]
    cluster.vm(replicas=1, restartGeneration=1)
    cluster.settle()
    assert cluster.instances()["web-1"]["run"] == run  # and it waits for nobody
    cluster.vm(replicas=1, restartGeneration=1, running=False)
    cluster.settle()
    cluster.patch("Instance", "web-1", "default", phase="Stopped", ready=False, run=run)
    deleted(cluster)
    assert sorted(cluster.instances()) == ["web-1"]
    cluster.stopped()
    assert cluster.store.list("VM") == []


def test_scaling_up_again_takes_back_what_has_not_ended(cluster):
    ready(cluster, replicas=5)
    before = cluster.instances()
    cluster.vm(replicas=3)
    cluster.settle()
    assert cluster.instances()["web-5"]["desired"] == "Stopped"
    assert cluster.vm_status()["replicas"] == 5
    cluster.vm(replicas=5)
    cluster.settle()
    after = cluster.instances()
    assert {n: s["node"] for n, s in after.items()} == {n: s["node"] for n, s in before.items()}
    runs = {n: s["run"] - before[n]["run"] for n, s in after.items()}
    assert runs == {"web-1": 0, "web-2": 0, "web-3": 0, "web-4": 2, "web-5": 2}
    assert {s["desired"] for s in after.values()} == {"Running"}


def test_what_ends_is_removed_first_whatever_becomes_unready(cluster):
    ready(cluster, replicas=3)
    cluster.vm(replicas=2)
    cluster.settle()
    cluster.report("web-1", phase="Running", ready=False)
    cluster.settle()
    assert [n for n, s in cluster.instances().items() if s["desired"] == "Stopped"] == ["web-3"]


def test_an_ending_instance_holds_its_node_against_others():
    cluster = Cluster(nodes=1, memory_mib=1024)
    ready(cluster, replicas=2, memory=512)
    cluster.vm(replicas=1, memory=512)
    cluster.vm("other", memory=512)
    cluster.settle()
    assert not cluster.instances()["other-1"]["node"]
    cluster.stopped()
    assert cluster.instances()["other-1"]["node"]


def test_a_fenced_instance_ends_with_its_node(cluster):
    ready(cluster, replicas=1, onPartition="fence")
    deleted(cluster)
    cluster.lose(cluster.instances()["web-1"]["nodeName"])
    cluster.settle()
    assert cluster.store.list("VM") == []


def test_a_kept_instance_may_run_on_while_its_node_is_lost(cluster):
    ready(cluster, replicas=1, onPartition="keep")
    node = cluster.instances()["web-1"]["nodeName"]
    cluster.lose(node)
    deleted(cluster)
    assert cluster.vm_status()["message"] == "its node is lost"
    cluster.patch("Node", node, state="Ready")
    cluster.settle()
    spec = cluster.instances()["web-1"]
    assert spec["nodeEpoch"] == cluster.store.by_uid(spec["node"]).status["epoch"]
    cluster.stopped()
    assert cluster.store.list("VM") == []


@pytest.mark.parametrize("policy", ["keep", "fence"])
def test_removing_its_node_by_force_completes_a_deletion(cluster, policy):
    ready(cluster, replicas=1, onPartition=policy)
    deleted(cluster)
    node = cluster.instances()["web-1"]["nodeName"]
    cluster.commit(Delete(kind="Node", namespace="", name=node))
    cluster.settle()
    assert cluster.store.list("VM") == []


def test_a_node_that_is_lost_while_a_kept_guest_ends_is_waited_for(cluster):
    ready(cluster, replicas=2)
    cluster.vm(replicas=1)
    cluster.settle()
    (ending,) = (n for n, s in cluster.instances().items() if s["desired"] == "Stopped")
    node = cluster.instances()[ending]["nodeName"]
    cluster.lose(node)
    cluster.settle()
    assert ending in cluster.instances()
    cluster.patch("Node", node, state="Ready")
    cluster.settle()
    cluster.stopped()
    assert len(cluster.instances()) == 1


def test_nobody_deletes_an_instance_that_may_run(cluster):
    ready(cluster, replicas=1)
    outcome = cluster.apply(Delete(kind="Instance", namespace="default", name="web-1"))
    assert (outcome.code, "may still run" in outcome.message) == ("INVARIANT", True)


def sizes(cluster):
    return {
        n: (s["nodeName"], s["memoryMib"], s["desired"]) for n, s in cluster.instances().items()
    }


def test_a_smaller_size_frees_memory_once_the_larger_guest_ended():
    cluster = Cluster(nodes=1, memory_mib=1024)
    ready(cluster, memory=1024)
    cluster.vm(memory=512)
    cluster.vm("other", memory=512)
    cluster.settle()
    assert sizes(cluster)["web-1"] == ("node1", 1024, "Stopped")
    assert sizes(cluster)["other-1"][0] == ""
    cluster.stopped()
    assert sizes(cluster)["web-1"] == ("node1", 512, "Running")
    assert sizes(cluster)["other-1"] == ("node1", 512, "Running")


def test_a_larger_size_goes_where_there_is_room():
    cluster = Cluster(nodes=2, memory_mib=1024)
    ready(cluster, memory=512)
    node = sizes(cluster)["web-1"][0]
    other = "node1" if node == "node2" else "node2"
    cluster.patch("Node", other, state="Joining")
    cluster.vm("full", memory=512)
    cluster.settle()
    cluster.patch("Node", other, state="Ready")
    cluster.vm(memory=1024)
    cluster.settle()
    cluster.stopped()
    assert sizes(cluster)["web-1"] == (other, 1024, "Running")


def test_a_larger_size_that_fits_nowhere_is_pending_and_holds_up_nobody():
    cluster = Cluster(nodes=1, memory_mib=1024)
    ready(cluster, memory=512)
    cluster.vm(memory=2048)
    cluster.vm("other", memory=512)
    cluster.settle()
    cluster.stopped()
    assert sizes(cluster) == {"web-1": ("", 2048, "Running"), "other-1": ("node1", 512, "Running")}
    assert "fits nowhere" in cluster.statuses()["web-1"]["reason"]


def test_local_data_waits_for_room_on_its_node():
    cluster = Cluster(nodes=2, memory_mib=1024)
    ready(cluster, memory=512, persistent=True)
    node = sizes(cluster)["web-1"][0]
    cluster.vm(memory=2048, persistent=True)
    cluster.settle()
    cluster.stopped()
    assert sizes(cluster)["web-1"] == (node, 512, "Stopped")
    assert "1024 MiB memory free, 2048 needed" in cluster.vm_status()["message"]
    cluster.vm(memory=1024, persistent=True)
    cluster.settle()
    assert sizes(cluster)["web-1"] == (node, 1024, "Running")


def test_a_stopped_vm_takes_its_new_size(cluster):
    ready(cluster, memory=512)
    cluster.vm(memory=512, running=False)
    cluster.settle()
    cluster.stopped()
    cluster.vm(memory=256, running=False)
    cluster.settle()
    cluster.stopped()
    assert {s[1:] for s in sizes(cluster).values()} == {(256, "Stopped")}
    assert cluster.vm_status()["phase"] == "Stopped"


def test_nobody_changes_the_size_of_what_may_run(cluster):
    ready(cluster, replicas=1)
    spec = cluster.store.get("Instance", "default", "web-1").spec
    smaller = {**spec, "memoryMib": 64, "run": spec["run"] + 1}
    outcome = cluster.apply(Put(kind="Instance", namespace="default", name="web-1", spec=smaller))
    assert (outcome.code, "may still run" in outcome.message) == ("INVARIANT", True)
