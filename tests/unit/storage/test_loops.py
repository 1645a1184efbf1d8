"""The leader's loop over pools and volumes: it calls, writes down what came of it, tries again."""

import asyncio

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Delete, Put
from blixard.storage.fake.volumes import FakeVolumes
from blixard.storage.loops import StorageController
from tests.unit.vms.states import Cluster


class Outside:
    """A leader whose commits go straight into the state, and a storage in memory."""

    is_leader, term = True, 1

    def __init__(self):
        self.cluster = Cluster()
        self.volumes = FakeVolumes()
        self.asked = []
        self.transport = self
        self.controller = StorageController(
            self, self, self, {"ceph": self.volumes, "local": self.volumes}, own_uid="u1"
        )

    @property
    def store(self):
        return self.cluster.store

    async def commit(self, ops, **_named):
        self.cluster.commit(*ops)

    async def request(self, uid, method, payload, *, timeout_s):
        assert timeout_s > 0
        self.asked.append((uid, method))
        return payload

    def log(self, *_words, **_fields):
        return None

    def put(self, kind, name, namespace="", **spec):
        put = Put(kind=kind, namespace=namespace, name=name, spec=spec, uid=self.cluster.uid())
        self.cluster.commit(put)

    def status(self, kind, name, namespace=""):
        return self.store.get(kind, namespace, name).status

    def passes(self):
        asyncio.run(self.controller.one_pass(self.term))


def with_volume():
    outside = Outside()
    outside.put("StoragePool", "ssd", backend="ceph")
    outside.put("Volume", "v", "default", pool="ssd", size="1GiB")
    return outside


def test_pool_and_volume_are_made_and_looked_at():
    outside = with_volume()
    outside.passes()
    assert outside.volumes.pools["ssd"].replicas == 3
    assert outside.status("StoragePool", "ssd")["health"]["state"] == "healthy"
    assert outside.status("Volume", "v", "default")["phase"] == "Available"
    assert [v.size_bytes for v in outside.volumes.volumes.values()] == [1 << 30]


def test_failure_is_shown_and_tried_again():
    outside = with_volume()
    outside.volumes.failing = BlixardError("STORAGE_UNAVAILABLE", "no monitor answers")
    outside.passes()
    assert "no monitor answers" in outside.status("StoragePool", "ssd")["message"]
    outside.volumes.failing = None
    outside.passes()
    assert outside.volumes.pools == {}  # the pause after a failure is not over
    outside.controller._failures.clear()
    outside.passes()
    assert "message" not in outside.status("StoragePool", "ssd")


def test_changed_pool_is_made_to_match():
    outside = with_volume()
    outside.passes()
    outside.put("StoragePool", "ssd", backend="ceph", replicas=2, quota="1TB")
    outside.passes()
    assert outside.volumes.pools["ssd"].replicas == 2
    assert outside.volumes.pools["ssd"].quota_bytes == 1 << 40


def test_deleted_volume_and_pool_go_in_order():
    outside = with_volume()
    outside.passes()
    outside.cluster.commit(
        Delete(kind="StoragePool", namespace="", name="ssd"),
        Delete(kind="Volume", namespace="default", name="v"),
    )
    outside.passes()
    assert (outside.volumes.volumes, outside.volumes.pools) == ({}, {})
    assert outside.store.count("Volume") == outside.store.count("StoragePool") == 0


def test_volumes_of_nobody_are_reported_and_kept():
    outside = with_volume()
    outside.passes()
    asyncio.run(outside.volumes.ensure_volume("ssd", "stray", 1))
    outside.controller._asked_s.clear()
    outside.passes()
    assert outside.status("StoragePool", "ssd")["orphans"] == ["stray"]
    assert "stray" in outside.volumes.volumes


def test_local_volume_is_removed_by_its_node():
    outside = Outside()
    outside.put("StoragePool", "disk", backend="local")
    outside.put("Volume", "v", "default", pool="disk", size="1GiB")
    outside.cluster.patch("Volume", "v", "default", phase="Available", node="u2")
    outside.cluster.commit(Delete(kind="Volume", namespace="default", name="v"))
    outside.passes()
    assert outside.asked == [("u2", "node.unmake-volume")]
    assert outside.store.count("Volume") == 0


def test_nothing_is_done_in_another_term():
    outside = with_volume()
    asyncio.run(outside.controller.one_pass(7))
    assert outside.volumes.pools == {}
