"""Volumes of instances that move while they run: what is refused, and who may have them."""

import asyncio

import pytest

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Put
from blixard.ports.volumes import PoolPlan
from blixard.storage.fake.volumes import FakeVolumes
from tests.unit.vms.states import Cluster
from tests.unit.vms.test_claims import CLAIM, run, work
from tests.unit.vms.test_migrations import Moves

V = "v1"


class WithVolume(Moves):
    """web-1 runs on its node with a volume of a pool."""

    def __init__(self, backend):
        Cluster.__init__(self)
        spec = {"backend": backend}
        self.commit(Put(kind="StoragePool", namespace="", name="ssd", spec=spec, uid=self.uid()))
        work(self)
        self.vm(replicas=1, volumes=[CLAIM], onPartition="fence")
        run(self)
        self.home = self.web.spec["nodeName"]
        self.other = "node2" if self.home != "node2" else "node3"

    def uid_of(self, node):
        return self.store.get("Node", "", node).metadata.uid


def test_local_volume_keeps_its_instance_whoever_asks():
    moves = WithVolume("local")
    refused = moves.wish(targetNode=moves.other)
    assert f"the data of web-1 is on {moves.home}: volume data" in refused.message
    uid = moves.uid_of(moves.other)
    move = {"uid": "m", "name": "m", "target": uid, "targetName": moves.other, "targetEpoch": 1,
            "run": 2, "step": "prepare"}  # fmt: skip
    web = moves.web
    spec = {**web.spec, "migration": move, "persistent": False}
    before = {**web.spec, "persistent": False}
    for changed in (before, spec):
        said = moves.apply(
            Put(kind="Instance", namespace="default", name="web-1", uid=web.metadata.uid,
                spec=changed, owner=web.metadata.owner)
        )  # fmt: skip
    assert "without data on its node" in said.message


def test_volumes_change_only_after_a_migration_was_taken_back():
    moves = WithVolume("ceph")
    moves.copying()
    web = moves.web
    put = Put(kind="Instance", namespace="default", name="web-1", uid=web.metadata.uid,
              spec={**web.spec, "volumes": []}, owner=web.metadata.owner)  # fmt: skip
    assert "only after the migration was taken back" in moves.apply(put).message


@pytest.mark.parametrize("switched", [True, False])
def test_the_end_that_lost_is_remembered(switched):
    moves = WithVolume("ceph")
    home, other = moves.uid_of(moves.home), moves.uid_of(moves.other)
    moves.copying()
    assert moves.word("paused", moves.home) if switched else moves.word("failed", moves.other)
    assert moves.web.spec["node"] == (other if switched else home)
    assert moves.web.spec["left"] == ([home] if switched else [other])


def attach(pools, node, **named):
    return pools.attach("ssd", V, name="data", node_uid=node, epoch=1, **named)


async def two_holders():
    pools = FakeVolumes()
    await pools.ensure_pool(PoolPlan(name="ssd", backend="ceph"))
    await pools.ensure_volume("ssd", V, 1)
    await attach(pools, "a")
    await attach(pools, "b", moves_from="a")
    return pools


def test_a_volume_has_two_holders_until_one_gives_it_back():
    async def scenario():
        for first, second in (("a", "b"), ("b", "a")):
            pools = await two_holders()
            for node, named in (("c", {}), ("b", {}), ("c", {"moves_from": "b"})):
                with pytest.raises(BlixardError, match="VOLUME_IN_USE"):
                    await attach(pools, node, **named)
            await pools.detach("ssd", V, node_uid=first, epoch=1)
            assert pools.volumes[V].holders == {second: 1}
            with pytest.raises(BlixardError, match="VOLUME_IN_USE"):
                await attach(pools, "c", moves_from=first)

    asyncio.run(scenario())


def test_an_end_that_gave_nothing_back_holds_up_nobody():
    async def scenario():
        pools = await two_holders()
        await attach(pools, "b", left=("a",))
        assert pools.volumes[V].holders == {"b": 1}
        pools = await two_holders()
        await pools.detach("ssd", V, node_uid="b", epoch=1, left=("a",))
        assert pools.volumes[V].holders == {}
        pools = await two_holders()
        await pools.fence("a", before_epoch=2)
        assert pools.volumes[V].holders == {"b": 1}

    asyncio.run(scenario())
