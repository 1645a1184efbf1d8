"""Volumes as files of the node."""

from __future__ import annotations

import asyncio
import fcntl
import pathlib

import pytest

from blixard.base.errors import BlixardError
from blixard.ports.volumes import PoolPlan, StoredVolume
from blixard.storage.local.backend import LocalVolumes

MIB = 1 << 20


@pytest.fixture
def pools(tmp_path: pathlib.Path) -> LocalVolumes:
    made = LocalVolumes(str(tmp_path / "volumes"))
    plan = PoolPlan(name="fast", backend="local", replicas=1, quota_bytes=10 * MIB)
    asyncio.run(made.ensure_pool(plan))
    return made


def file_of(pools: LocalVolumes, uid: str) -> pathlib.Path:
    disk = asyncio.run(pools.attach("fast", uid, name="data", node_uid="n", epoch=1))
    return pathlib.Path(disk.path)


def test_volume_is_sparse_zeros_for_root_alone(pools: LocalVolumes) -> None:
    asyncio.run(pools.ensure_volume("fast", "v1", 4 * MIB))
    stat = file_of(pools, "v1").stat()
    assert (stat.st_size, stat.st_blocks, stat.st_mode & 0o777) == (4 * MIB, 0, 0o600)


def test_existing_volume_keeps_its_bytes(pools: LocalVolumes) -> None:
    asyncio.run(pools.ensure_volume("fast", "v1", 4 * MIB))
    with open(file_of(pools, "v1"), "rb+") as file:
        file.write(b"kept")
    asyncio.run(pools.ensure_volume("fast", "v1", 8 * MIB))
    assert asyncio.run(pools.list_volumes("fast")) == [StoredVolume(uid="v1", size_bytes=4 * MIB)]
    assert file_of(pools, "v1").read_bytes()[:4] == b"kept"
    health = asyncio.run(pools.pool_health("fast"))
    assert (health.state, 0 < health.used_bytes <= MIB) == ("healthy", True)


def test_quota_counts_what_was_promised(pools: LocalVolumes) -> None:
    asyncio.run(pools.ensure_volume("fast", "v1", 6 * MIB))
    for call in (
        pools.ensure_volume("fast", "v2", 5 * MIB),
        pools.resize_volume("fast", "v1", 11 * MIB),
    ):
        with pytest.raises(BlixardError, match="POOL_FULL"):
            asyncio.run(call)
    asyncio.run(pools.resize_volume("fast", "v1", 10 * MIB))
    with pytest.raises(BlixardError, match="INVALID"):
        asyncio.run(pools.resize_volume("fast", "v1", 9 * MIB))


def test_disk_without_the_room_is_refused(tmp_path: pathlib.Path) -> None:
    pools = LocalVolumes(str(tmp_path))
    asyncio.run(pools.ensure_pool(PoolPlan(name="fast", backend="local", replicas=1)))
    with pytest.raises(BlixardError, match="POOL_FULL"):
        asyncio.run(pools.ensure_volume("fast", "v1", 1 << 60))


def test_open_volume_is_not_removed(pools: LocalVolumes) -> None:
    asyncio.run(pools.ensure_volume("fast", "v1", MIB))
    with open(file_of(pools, "v1"), "rb+") as guest:
        fcntl.flock(guest, fcntl.LOCK_EX)
        with pytest.raises(BlixardError, match="VOLUME_IN_USE"):
            asyncio.run(pools.delete_volume("fast", "v1"))
    with pytest.raises(BlixardError, match=r"POOL_IN_USE.*v1"):
        asyncio.run(pools.delete_pool("fast"))
    for _ in range(2):
        asyncio.run(pools.delete_volume("fast", "v1"))
        asyncio.run(pools.delete_pool("fast"))


def test_what_is_not_there_is_named(pools: LocalVolumes) -> None:
    with pytest.raises(BlixardError, match="VOLUME_NOT_FOUND"):
        file_of(pools, "none")
    for call in (pools.list_volumes("none"), pools.pool_health("none")):
        with pytest.raises(BlixardError, match="POOL_NOT_FOUND"):
            asyncio.run(call)
