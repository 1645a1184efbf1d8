"""The files of a simulated host that are volumes: what a guest wrote into them outlives the host's
power, and goes with its disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import LaunchPlan
from blixard.ports.volumes import DiskAttachment
from blixard.storage.fake.volumes import FakeVolumes

if TYPE_CHECKING:
    from blixard.simulation.process import Process
    from blixard.simulation.stored import Stored

_SYNC_NS = 2_000_000


class SimLocalVolumes(FakeVolumes):
    """``ports.volumes.VolumeBackend`` for the pools of one host, with what guests wrote."""

    def __init__(self) -> None:
        super().__init__()
        self._objects: dict[str, dict[int, int]] = {}  # volume: what was written last, by object

    def objects(self, volume_uid: str) -> dict[int, int]:
        """Return the content of a volume."""
        return self._objects.setdefault(volume_uid, {})

    async def delete_volume(self, pool: str, volume_uid: str) -> None:
        """Remove the volume with its bytes."""
        await super().delete_volume(pool, volume_uid)
        self._objects.pop(volume_uid, None)

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
        """Return the disk for a guest of this node epoch; a file stays where it is."""
        if moves_from:
            raise BlixardError("INVALID", f"{volume_uid} is a file of {moves_from}: it stays there")
        return await super().attach(
            pool, volume_uid, name=name, node_uid=node_uid, epoch=epoch, left=left
        )


class LocalMedium:
    """One volume as a guest on its host has it open: ``guest_disks.Medium``."""

    def __init__(
        self,
        volumes: SimLocalVolumes,
        stored: Stored,
        machine: Process,
        plan: LaunchPlan,
        disk: DiskAttachment,
        *,
        alive: Callable[[], bool],
    ) -> None:
        self.uid = disk.volume
        self._content = volumes.objects(disk.volume)
        self._stored = stored
        self._machine = machine
        self._user = plan.name
        self._alive = alive
        self._client = stored.client()
        stored.opened(disk.volume, self._client, plan)
        stored.lies(disk.volume, machine.host, plan)

    def read(self, number: int) -> int | None:
        """Return what was written last to an object."""
        return self._content.get(number, 0)

    def write(self, number: int, value: int, done: Callable[[bool], None]) -> None:
        """Write, and tell when it is durable; a host that loses power first tells nothing."""
        at_ns = self._machine.loop.now_ns + _SYNC_NS
        self._machine.call_at_ns(at_ns, self._durable, number, value, done)

    def _durable(self, number: int, value: int, done: Callable[[bool], None]) -> None:
        if self._alive():
            self._content[number] = value
            self._stored.accepted(self.uid, self._client, self._user)
            done(True)
