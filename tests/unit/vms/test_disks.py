"""The volumes of an instance on its node: attached before it starts, given back before it rests."""

import asyncio

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.volumes import PoolPlan
from blixard.storage.fake.volumes import FakeVolumes
from blixard.storage.spec import InstanceVolume
from blixard.vms.disks import Disks
from tests.unit.vms.test_worker import Outside, become_ready

SHARED = InstanceVolume(name="data", uid="v", pool="p", backend="ceph", size_bytes=1 << 30)
LOCAL = msgspec.structs.replace(SHARED, backend="local", quota_bytes=5)


def play(scenario, volume=SHARED):
    async def run():
        volumes = FakeVolumes()
        if volume is SHARED:
            await volumes.ensure_pool(PoolPlan(name="p", backend="ceph"))
            await volumes.ensure_volume("p", "v", 1 << 30)
        outside = Outside(Disks({volume.backend: volumes}, "n"))
        outside.volumes = volumes
        outside.assign(volumes=(volume,))
        await scenario(outside)
        return outside

    return asyncio.run(run())


def test_guest_starts_with_its_volumes():
    outside = play(become_ready)
    (process,) = asyncio.run(outside.hypervisor.instances())
    assert [(d.name, d.volume) for d in process.plan.disks] == [("data", "v")]
    assert outside.volumes.volumes["v"].holders == {"n": 1}
    assert outside.phases[-1] == "Running"


def test_volumes_are_given_back_before_it_is_called_stopped():
    async def scenario(outside):
        await become_ready(outside)
        outside.volumes.detach, detach = refused, outside.volumes.detach
        outside.assign(volumes=(SHARED,), desired="Stopped", run=2)
        await outside.steps(3)
        assert outside.reports[-1][0].phase == "Failed"
        outside.volumes.detach = detach
        await outside.steps(1)

    outside = play(scenario)
    assert outside.phases[-1] == "Stopped"
    assert outside.volumes.volumes["v"].holders == {}


async def refused(*_words, **_named):
    raise BlixardError("STORAGE_UNAVAILABLE")


def test_missing_volume_is_no_empty_disk():
    async def scenario(outside):
        del outside.volumes.volumes["v"]
        await outside.steps(2)

    outside = play(scenario)
    assert "VOLUME_NOT_FOUND" in outside.reports[-1][0].reason
    assert outside.volumes.volumes == {}


def test_local_volume_is_made_by_its_node_and_once():
    outside = play(become_ready, LOCAL)
    assert outside.volumes.pools["p"].quota_bytes == 5
    assert list(outside.volumes.volumes) == ["v"]
    made = msgspec.structs.replace(LOCAL, made=True)

    async def scenario(outside):
        outside.assign(volumes=(made,), run=2)
        await outside.steps(2)

    assert "POOL_NOT_FOUND" in play(scenario, LOCAL).reports[-1][0].reason
