"""A node's way to the volumes of its instances: attached before a start, given back at rest."""

from __future__ import annotations

from blixard.ports.volumes import DiskAttachment, PoolPlan
from blixard.storage.backends import Backends, backend_for
from blixard.storage.spec import InstanceVolume
from blixard.vms.spec import InstanceSpec


class Disks:
    """Attaches and detaches under the node's epoch; every call may be repeated."""

    def __init__(self, backends: Backends, node_uid: str) -> None:
        self._backends = backends
        self._node_uid = node_uid

    async def attach(
        self, spec: InstanceSpec, epoch: int, *, moves_from: str = ""
    ) -> tuple[DiskAttachment, ...]:
        """Return the disks of an instance, in the order of its volumes.

        *moves_from*: the uid of the node where it runs, if its memory is to come from there.

        Raises:
            BlixardError: as the backend does; what was attached before stays so.
        """
        disks = []
        for volume in spec.disks:
            backend = backend_for(self._backends, volume.backend)
            if volume.backend == "local" and not volume.made:
                # Only here can it be made: its data is where its instance is.
                await backend.ensure_pool(_local_pool(volume))
                await backend.ensure_volume(volume.pool, volume.uid, volume.size_bytes)
            disks.append(
                await backend.attach(
                    volume.pool,
                    volume.uid,
                    name=volume.name,
                    node_uid=self._node_uid,
                    epoch=epoch,
                    moves_from=moves_from,
                    left=() if moves_from else spec.left_nodes,
                )
            )
        return tuple(disks)

    async def detach(self, spec: InstanceSpec, epoch: int) -> None:
        """Give all volumes of an instance that has ended here back. Raises BlixardError."""
        for volume in spec.disks:
            backend = backend_for(self._backends, volume.backend)
            await backend.detach(
                volume.pool,
                volume.uid,
                node_uid=self._node_uid,
                epoch=epoch,
                left=spec.left_nodes,
            )

    async def leave(self, disks: tuple[DiskAttachment, ...], epoch: int) -> None:
        """Give back what a guest of here used that lives on elsewhere. Raises BlixardError."""
        for disk in disks:
            backend = backend_for(self._backends, "local" if disk.kind == "file" else "ceph")
            await backend.detach(disk.pool, disk.volume, node_uid=self._node_uid, epoch=epoch)


def _local_pool(volume: InstanceVolume) -> PoolPlan:
    return PoolPlan(name=volume.pool, backend="local", replicas=1, quota_bytes=volume.quota_bytes)
