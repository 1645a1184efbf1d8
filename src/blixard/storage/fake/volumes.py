"""``ports.volumes.VolumeBackend`` in memory: who may attach what, without any bytes."""

from __future__ import annotations

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.volumes import DiskAttachment, PoolHealth, PoolPlan, StoredVolume


class FakeVolume(msgspec.Struct):
    """One volume; ``holders``: epochs by node uid, two while a guest moves with it."""

    pool: str
    size_bytes: int
    holders: dict[str, int] = {}


class FakeVolumes:
    """One storage; ``failing`` makes each call raise."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolPlan] = {}
        self.volumes: dict[str, FakeVolume] = {}
        self.fenced: dict[str, int] = {}
        self.failing: BlixardError | None = None

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing

    def _volume(self, pool: str, uid: str) -> FakeVolume:
        self._check()
        if pool not in self.pools:
            raise BlixardError("POOL_NOT_FOUND", f"there is no pool {pool!r}")
        if uid not in self.volumes:
            raise BlixardError("VOLUME_NOT_FOUND", f"pool {pool!r} has no volume {uid}")
        return self.volumes[uid]

    async def ensure_pool(self, plan: PoolPlan) -> None:
        """Make the pool, or make it match."""
        self._check()
        self.pools[plan.name] = plan

    async def delete_pool(self, name: str) -> None:
        """Remove an empty pool."""
        self._check()
        if any(volume.pool == name for volume in self.volumes.values()):
            raise BlixardError("POOL_IN_USE", f"volumes are left in {name!r}")
        self.pools.pop(name, None)

    async def pool_health(self, name: str) -> PoolHealth:
        """Return a pool that is well, if it is there."""
        self._check()
        return PoolHealth(state="healthy" if name in self.pools else "unknown")

    async def ensure_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make the volume if it is absent."""
        self._check()
        if pool not in self.pools:
            raise BlixardError("POOL_NOT_FOUND", f"there is no pool {pool!r}")
        self.volumes.setdefault(volume_uid, FakeVolume(pool, size_bytes))

    async def resize_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make it larger."""
        volume = self._volume(pool, volume_uid)
        if size_bytes < volume.size_bytes:
            raise BlixardError("INVALID", "a volume cannot be made smaller")
        volume.size_bytes = size_bytes

    async def delete_volume(self, pool: str, volume_uid: str) -> None:
        """Remove the volume."""
        self._check()
        volume = self.volumes.get(volume_uid)
        if volume is not None and volume.pool == pool and volume.holders:
            raise BlixardError("VOLUME_IN_USE", f"{sorted(volume.holders)} have it attached")
        self.volumes.pop(volume_uid, None)

    async def list_volumes(self, pool: str) -> list[StoredVolume]:
        """Return what is in the pool."""
        self._check()
        found = sorted(uid for uid, volume in self.volumes.items() if volume.pool == pool)
        return [StoredVolume(uid=uid, size_bytes=self.volumes[uid].size_bytes) for uid in found]

    async def attach(
        self,
        pool: str,
        volume_uid: str,
        *,
        name: str,
        node_uid: str,
        epoch: int,
        moves_from: str = "",
        left: tuple[str, ...] = (),
    ) -> DiskAttachment:
        """Return the disk for a guest of this node epoch."""
        volume = self._volume(pool, volume_uid)
        if epoch < self.fenced.get(node_uid, 0):
            raise BlixardError("FENCED", f"epoch {epoch} of {node_uid} was fenced")
        check_free(volume.holders, node_uid, moves_from, left)
        if not moves_from:
            volume.holders.clear()
        volume.holders[node_uid] = epoch
        return DiskAttachment(
            name=name,
            size_bytes=volume.size_bytes,
            kind="file",
            pool=pool,
            volume=volume_uid,
            path=f"volumes/{pool}/{volume_uid}",
        )

    async def detach(
        self,
        pool: str,
        volume_uid: str,
        *,
        node_uid: str,
        epoch: int,
        left: tuple[str, ...] = (),
    ) -> None:
        """Give it back; absent, or another node's, is fine."""
        self._check()
        volume = self.volumes.get(volume_uid)
        if volume is None or volume.pool != pool or volume.holders.get(node_uid, epoch + 1) > epoch:
            return
        for uid in (node_uid, *left):
            volume.holders.pop(uid, None)

    async def fence(self, node_uid: str, *, before_epoch: int) -> None:
        """Take from the node what earlier epochs of it have."""
        self._check()
        self.fenced[node_uid] = max(before_epoch, self.fenced.get(node_uid, 0))
        for volume in self.volumes.values():
            if volume.holders.get(node_uid, before_epoch) < before_epoch:
                del volume.holders[node_uid]


def check_free(
    holders: dict[str, int], node_uid: str, moves_from: str, left: tuple[str, ...]
) -> None:
    """Raise BlixardError VOLUME_IN_USE, unless a node may attach what these nodes have."""
    others = sorted(set(holders) - {node_uid, moves_from, *left})
    if others:
        raise BlixardError("VOLUME_IN_USE", f"{others[0]} has it attached")
    if moves_from and moves_from not in holders:
        raise BlixardError("VOLUME_IN_USE", f"{moves_from} does not have it any more")
