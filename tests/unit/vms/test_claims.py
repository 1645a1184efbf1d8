"""Volumes of a VM's instances: made, bound to one at a time, found again, and fenced before a move."""

import msgspec
import pytest

from blixard.cluster.resources import Delete, PatchStatus, Put
from blixard.storage.planner import actions, begun_ops, done_ops, settled_ops
from tests.unit.vms.states import Cluster

CLAIM = {"name": "data", "pool": "ssd", "size": 1}


def cluster_with(backend="ceph", **vm):
    cluster = Cluster()
    spec = {"backend": backend}
    cluster.commit(Put(kind="StoragePool", namespace="", name="ssd", spec=spec, uid=cluster.uid()))
    work(cluster)
    cluster.vm(**{"volumes": [CLAIM], **vm})
    return cluster


def work(cluster):
    """Do all that the storage's planner wants, as a backend does that never fails."""
    done = []
    for _ in range(20):
        ops = settled_ops(cluster.store)
        wanted = actions(cluster.store)
        if not ops and not wanted:
            return done
        if wanted:
            ops = [*ops, *begun_ops(wanted[0]), *done_ops(wanted[0])]
            done.append(wanted[0].kind)
        cluster.commit(*ops)
    raise AssertionError("the storage's planner never comes to rest")


def run(cluster):
    """Plan and work until nothing is left to do, and let everything run."""
    for _ in range(5):
        cluster.settle()
        work(cluster)
    cluster.settle()
    cluster.all_ready()
    work(cluster)
    cluster.settle()


def volumes(cluster):
    return {v.metadata.name: v for v in cluster.store.list("Volume")}


def node_of(cluster, name="web-1"):
    return cluster.store.by_uid(cluster.instances()[name]["node"]).metadata.name


def test_instance_waits_until_its_volume_is_made():
    cluster = cluster_with()
    cluster.settle()
    assert cluster.instances()["web-1"]["node"] == ""
    assert "not made yet" in cluster.statuses()["web-1"]["reason"]
    assert work(cluster) == ["make"]
    cluster.settle()
    assert cluster.instances()["web-1"]["node"]
    volume = volumes(cluster)["web-1-data"]
    assert cluster.store.by_uid(volume.status["instance"]).metadata.name == "web-1"


def test_absent_pool_is_named():
    cluster = Cluster()
    cluster.vm(volumes=[CLAIM])
    cluster.settle()
    assert cluster.instances() == {}
    assert "'ssd' does not exist" in cluster.vm_status()["message"]


def test_each_instance_has_volumes_of_its_own():
    cluster = cluster_with(replicas=3)
    run(cluster)
    bound = {v.status["instanceName"]: name for name, v in volumes(cluster).items()}
    assert bound == {f"web-{n}": f"web-{n}-data" for n in (1, 2, 3)}


def test_lost_instance_moves_only_after_the_storage_fence():
    cluster = cluster_with()
    run(cluster)
    home = node_of(cluster)
    cluster.lose(home)
    cluster.settle()
    assert node_of(cluster) == home
    assert "still takes writes" in cluster.statuses()["web-1"]["reason"]
    assert work(cluster) == ["fence"]
    assert cluster.store.get("Node", "", home).status["storageFencedEpoch"] == 2
    cluster.settle()
    assert node_of(cluster) != home


def test_apply_refuses_a_move_before_the_fence():
    cluster = cluster_with()
    run(cluster)
    cluster.lose(node_of(cluster))
    instance = cluster.store.get("Instance", "default", "web-1")
    other = {"node": "u3", "run": instance.spec["run"] + 1}
    spec = {**instance.spec, **other} if instance.spec["node"] != "u3" else instance.spec
    spec["node"] = "u3" if instance.spec["node"] != "u3" else "u2"
    put = Put(kind="Instance", namespace="default", name="web-1", spec=spec)
    assert "still takes writes" in cluster.apply(put).message


def test_fence_of_an_older_loss_does_not_count():
    cluster = cluster_with()
    run(cluster)
    home = node_of(cluster)
    cluster.patch("Node", home, storageFencedEpoch=1)
    cluster.lose(home)
    assert [action.kind for action in actions(cluster.store)] == ["fence"]


def test_kept_instance_needs_no_fence():
    cluster = cluster_with(onPartition="keep", replicas=2)
    run(cluster)
    cluster.lose(node_of(cluster))
    assert actions(cluster.store) == []


def test_instance_that_was_shut_out_starts_anew_on_its_node():
    cluster = cluster_with()
    run(cluster)
    home, run_before = node_of(cluster), cluster.instances()["web-1"]["run"]
    cluster.lose(home)
    cluster.commit(*begun_ops(actions(cluster.store)[0]))
    cluster.patch("Node", home, state="Ready")
    cluster.settle()
    assert node_of(cluster) == home
    assert cluster.instances()["web-1"]["run"] == run_before + 1
    assert cluster.instances()["web-1"]["nodeEpoch"] == 2


def test_node_that_may_write_is_not_forgotten():
    cluster = cluster_with()
    run(cluster)
    home = node_of(cluster)
    cluster.lose(home)
    delete = Delete(kind="Node", namespace="", name=home)
    assert "takes its writes" in cluster.apply(delete).message
    work(cluster)
    cluster.commit(delete)


@pytest.mark.parametrize(("reclaim", "left"), [("retain", ["web-1-data"]), ("delete", [])])
def test_volume_after_its_vm(reclaim, left):
    cluster = cluster_with(volumes=[{**CLAIM, "reclaim": reclaim}])
    run(cluster)
    uid = volumes(cluster)["web-1-data"].metadata.uid
    cluster.commit(Delete(kind="VM", namespace="default", name="web"))
    cluster.settle()
    cluster.stopped()
    work(cluster)
    assert sorted(volumes(cluster)) == left
    cluster.vm(volumes=[CLAIM])
    run(cluster)
    assert (volumes(cluster)["web-1-data"].metadata.uid == uid) == bool(left)


def test_volume_in_use_is_not_deleted():
    cluster = cluster_with()
    run(cluster)
    cluster.commit(Delete(kind="Volume", namespace="default", name="web-1-data"))
    assert volumes(cluster)["web-1-data"].status["deleting"]
    assert work(cluster) == []
    gone = PatchStatus.of(volumes(cluster)["web-1-data"], {"gone": True})
    delete = Delete(kind="Volume", namespace="default", name="web-1-data")
    assert "is bound to it" in cluster.apply(gone, delete).message


def test_volume_has_one_writer():
    cluster = cluster_with(replicas=2)
    run(cluster)
    first, second = (cluster.store.get("Instance", "default", f"web-{n}") for n in (1, 2))
    stolen = {**second.spec, "volumes": first.spec["volumes"]}
    put = Put(kind="Instance", namespace="default", name="web-2", spec=stolen)
    assert "bound to another instance" in cluster.apply(put).message
    taken = PatchStatus.of(volumes(cluster)["web-1-data"], {"instance": second.metadata.uid})
    assert "is bound to it" in cluster.apply(taken).message


def test_local_data_stay_with_their_node():
    cluster = cluster_with(backend="local")
    run(cluster)
    home = node_of(cluster)
    assert volumes(cluster)["web-1-data"].status["node"] == cluster.instances()["web-1"]["node"]
    assert cluster.instances()["web-1"]["volumes"][0]["made"]
    assert not cluster.instances()["web-1"]["fenced"]
    cluster.lose(home)
    run(cluster)
    assert node_of(cluster) == home
    cluster.patch("Node", home, state="Ready")
    cluster.commit(Delete(kind="VM", namespace="default", name="web"))
    cluster.settle()
    cluster.stopped()
    cluster.vm(volumes=[CLAIM])
    run(cluster)
    assert node_of(cluster) == home


def test_local_data_of_a_guest_that_was_never_ready_stay_with_their_node():
    cluster = cluster_with(backend="local")
    cluster.settle()
    home = node_of(cluster)
    assert volumes(cluster)["web-1-data"].status["phase"] == "Pending"
    cluster.commit(Delete(kind="VM", namespace="default", name="web"))
    cluster.settle()
    cluster.stopped()
    assert cluster.instances() == {}
    cluster.lose(home)
    cluster.vm(volumes=[CLAIM])
    cluster.settle()
    assert cluster.instances()["web-1"]["node"] == ""
    cluster.patch("Node", home, state="Ready")
    cluster.settle()
    assert node_of(cluster) == home


def test_local_volume_that_may_never_have_existed_does_not_wait_for_a_removed_node():
    cluster = cluster_with(backend="local")
    cluster.settle()
    home = node_of(cluster)
    cluster.commit(Delete(kind="VM", namespace="default", name="web"))
    cluster.settle()
    cluster.stopped()
    cluster.commit(Delete(kind="Node", namespace="", name=home))
    cluster.vm(volumes=[CLAIM])
    run(cluster)
    elsewhere = cluster.instances()["web-1"]["node"]
    assert elsewhere
    assert volumes(cluster)["web-1-data"].status["node"] == elsewhere


@pytest.mark.parametrize(
    ("change", "said"),
    [({"pool": "hdd"}, "pool cannot change"), ({"size": "1MiB"}, "made smaller")],
)
def test_volume_keeps_what_it_has(change, said):
    cluster = cluster_with()
    run(cluster)
    spec = {**volumes(cluster)["web-1-data"].spec, **change}
    put = Put(kind="Volume", namespace="default", name="web-1-data", spec=spec)
    assert said in cluster.apply(put).message


def test_claims_of_a_vm_do_not_change():
    cluster = cluster_with()
    spec = cluster.store.get("VM", "default", "web").spec
    same = {**spec, "volumes": [{**CLAIM, "reclaim": "retain"}]}
    cluster.commit(Put(kind="VM", namespace="default", name="web", spec=same))
    other = msgspec.json.decode(msgspec.json.encode({**spec, "volumes": []}))
    put = Put(kind="VM", namespace="default", name="web", spec=other)
    assert "cannot change" in cluster.apply(put).message


def test_pool_with_volumes_stays():
    cluster = cluster_with()
    run(cluster)
    cluster.commit(Delete(kind="StoragePool", namespace="", name="ssd"))
    assert work(cluster) == []
    assert cluster.store.get("StoragePool", "", "ssd") is not None
