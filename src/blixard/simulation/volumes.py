"""``ports.volumes.VolumeBackend`` over the simulated Ceph, for one incarnation of a daemon."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from blixard.base.errors import BlixardError
from blixard.ports.volumes import DiskAttachment, PoolHealth, PoolPlan, StoredVolume
from blixard.simulation.ceph import OBJECTS, Image, Piece, SimCeph
from blixard.simulation.nap import Nap
from blixard.simulation.process import Process
from blixard.storage.fake.volumes import check_free

if TYPE_CHECKING:
    from blixard.simulation.world import Host

_CALL_S = 0.01
_PATIENCE_S = 3.0


class SimVolumes:
    """Asks the monitors, which take an answer's time, or a deadline if there is no majority."""

    def __init__(
        self, ceph: SimCeph, host: Host, daemon: Process, generator: random.Random
    ) -> None:
        self._ceph = ceph
        self._host = host
        self._daemon = daemon
        self._random = generator

    async def _ask(self) -> None:
        """Raise BlixardError STORAGE_UNAVAILABLE, if no majority of monitors is reached."""
        await Nap(self._daemon, _CALL_S * (0.5 + self._random.random()))
        if not self._ceph.reaches(self._host):
            await Nap(self._daemon, _PATIENCE_S)
            if not self._ceph.reaches(self._host):
                raise BlixardError(
                    "STORAGE_UNAVAILABLE", "no majority of the monitors answers", details={}
                )

    def _pool(self, name: str) -> PoolPlan:
        if name not in self._ceph.pools:
            raise BlixardError("POOL_NOT_FOUND", f"there is no pool {name!r}")
        return self._ceph.pools[name]

    def _image(self, pool: str, volume_uid: str) -> Image:
        self._pool(pool)
        image = self._ceph.images.get(volume_uid)
        if image is None:
            raise BlixardError("VOLUME_NOT_FOUND", f"pool {pool!r} has no volume {volume_uid}")
        return image

    async def ensure_pool(self, plan: PoolPlan) -> None:
        """Make the pool, or make it match."""
        await self._ask()
        self._ceph.pools[plan.name] = plan
        self._ceph.begin()

    async def delete_pool(self, name: str) -> None:
        """Remove an empty pool."""
        await self._ask()
        inside = sorted(uid for uid, image in self._ceph.images.items() if image.pool == name)
        if inside:
            raise BlixardError("POOL_IN_USE", f"volumes are left in {name!r}: {inside[:3]}")
        self._ceph.pools.pop(name, None)

    async def pool_health(self, name: str) -> PoolHealth:
        """Return how the pool is."""
        try:
            await self._ask()
        except BlixardError as error:
            return PoolHealth(reason=error.message)
        self._pool(name)
        return self._ceph.health(name)

    async def ensure_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make the volume if it is absent."""
        await self._ask()
        self._pool(pool)
        if volume_uid not in self._ceph.images:
            pieces = [Piece(volume_uid, number) for number in range(OBJECTS)]
            self._ceph.images[volume_uid] = Image(pool, volume_uid, size_bytes, pieces)

    async def resize_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make it larger."""
        await self._ask()
        image = self._image(pool, volume_uid)
        if size_bytes < image.size_bytes:
            raise BlixardError("INVALID", f"{volume_uid} cannot be made smaller")
        image.size_bytes = size_bytes

    async def delete_volume(self, pool: str, volume_uid: str) -> None:
        """Remove the volume with its bytes."""
        await self._ask()
        self._pool(pool)
        image = self._ceph.images.get(volume_uid)
        if image is not None and image.holders:
            raise BlixardError("VOLUME_IN_USE", f"{sorted(image.holders)} have {volume_uid}")
        self._ceph.images.pop(volume_uid, None)

    async def list_volumes(self, pool: str) -> list[StoredVolume]:
        """Return what is in the pool."""
        await self._ask()
        self._pool(pool)
        images = [image for _, image in sorted(self._ceph.images.items()) if image.pool == pool]
        return [StoredVolume(uid=image.uid, size_bytes=image.size_bytes) for image in images]

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
        await self._ask()
        ceph, image = self._ceph, self._image(pool, volume_uid)
        if epoch < ceph.fenced.get(node_uid, 0):
            raise BlixardError("FENCED", f"epoch {epoch} of {node_uid} was fenced")
        check_free(image.holders, node_uid, moves_from, left)
        ceph.shut_out(image, node_uid)
        if not moves_from:
            self._take_back(image, (*left, node_uid))
        user = f"blixard.{node_uid}.{epoch}"
        ceph.keys[user] = (node_uid, epoch)
        image.holders[node_uid] = epoch
        ceph.stored.happened("volume attached")
        return DiskAttachment(
            name=name, size_bytes=image.size_bytes, kind="rbd", pool=pool, volume=volume_uid,
            image=volume_uid, user=user, conf="ceph.conf",
        )  # fmt: skip

    async def detach(
        self,
        pool: str,
        volume_uid: str,
        *,
        node_uid: str,
        epoch: int,
        left: tuple[str, ...] = (),
    ) -> None:
        """Give it back."""
        await self._ask()
        self._pool(pool)
        image = self._ceph.images.get(volume_uid)
        if image is not None and image.holders.get(node_uid, epoch + 1) <= epoch:
            self._take_back(image, (*left, node_uid))
            self._ceph.stored.happened("volume given back")

    def _take_back(self, image: Image, nodes: tuple[str, ...]) -> None:
        """Shut out what these nodes began; they have it no longer."""
        for uid in nodes:
            self._ceph.shut_out(image, uid)
            image.holders.pop(uid, None)

    async def fence(self, node_uid: str, *, before_epoch: int) -> None:
        """Delete the node's older keys, shut its clients out, and take its volumes from it."""
        await self._ask()
        ceph = self._ceph
        ceph.fenced[node_uid] = max(before_epoch, ceph.fenced.get(node_uid, 0))
        ceph.keys = {
            user: key
            for user, key in ceph.keys.items()
            if key[0] != node_uid or key[1] >= before_epoch
        }
        for image in ceph.images.values():
            if image.holders.get(node_uid, before_epoch) < before_epoch:
                self._take_back(image, (node_uid,))
        ceph.stored.happened("node fenced")
