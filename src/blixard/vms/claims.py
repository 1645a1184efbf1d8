"""Which volumes the instances of a VM get, and when those may be attached; pure.

The volume of instance ``web-1`` for the claim ``data`` is ``web-1-data``. One that is there, of an
instance that is gone, is taken with what is in it: scaling down and up again, or making a VM anew,
finds the data of before.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Operation, PatchStatus, Put, Resource
from blixard.cluster.store import Store
from blixard.storage.kinds import bound_to
from blixard.storage.spec import (
    InstanceVolume,
    StoragePoolSpec,
    VolumeClaim,
    VolumeSpec,
    pool_plan,
    size_bytes,
)
from blixard.vms.spec import InstanceSpec, VMSpec


class Claims:
    """The volumes of a store, as claims on them see them."""

    def __init__(self, store: Store, new_uid: Callable[[], str]) -> None:
        self._store = store
        self._new_uid = new_uid

    def on_one_node(self, spec: VMSpec) -> VMSpec:
        """Return the spec as one with local data, if a claim is on a local pool."""
        local = any(self._backend(claim.pool) == "local" for claim in spec.volumes)
        return msgspec.structs.replace(spec, persistent=True) if local else spec

    def bind(
        self, vm: Resource, spec: VMSpec, ordinal: int, instance_uid: str
    ) -> tuple[tuple[InstanceVolume, ...], list[Operation]]:
        """Return the volumes of a new instance, and what makes or binds them.

        Raises:
            BlixardError: POOL_NOT_FOUND, VOLUME_IN_USE, INVALID (the volume lies elsewhere).
        """
        found = [self._claim(vm, claim, ordinal, instance_uid) for claim in spec.volumes]
        return tuple(volume for volume, _ in found), [op for _, op in found]

    def _claim(
        self, vm: Resource, claim: VolumeClaim, ordinal: int, instance_uid: str
    ) -> tuple[InstanceVolume, Operation]:
        pool = self._store.get("StoragePool", "", claim.pool)
        if pool is None or pool.status.get("deleting"):
            raise BlixardError("POOL_NOT_FOUND", f"storage pool {claim.pool!r} does not exist")
        namespace, instance = vm.metadata.namespace, f"{vm.metadata.name}-{ordinal}"
        name = f"{instance}-{claim.name}"
        volume = self._store.get("Volume", namespace, name)
        status = {"instance": instance_uid, "instanceName": instance}
        op: Operation
        if volume is None:
            uid, size = self._new_uid(), size_bytes(claim.size)
            spec = VolumeSpec(pool=claim.pool, size=claim.size, reclaim=claim.reclaim)
            op = Put(
                kind="Volume", namespace=namespace, name=name, uid=uid, expect=0,
                labels=vm.metadata.labels, spec=msgspec.to_builtins(spec),
                status={"phase": "Pending", **status},
            )  # fmt: skip
        else:
            self._check_free(volume, claim)
            uid, size = volume.metadata.uid, size_bytes(volume.spec["size"])
            op = PatchStatus.of(volume, status, unchanged=True)
        plan = pool_plan(claim.pool, msgspec.convert(pool.spec, StoragePoolSpec))
        return InstanceVolume(
            name=claim.name,
            uid=uid,
            pool=claim.pool,
            backend=plan.backend,
            size_bytes=size,
            made=volume is not None and is_made(volume),
            quota_bytes=plan.quota_bytes if plan.backend == "local" else 0,
        ), op

    def _check_free(self, volume: Resource, claim: VolumeClaim) -> None:
        name, holder = volume.metadata.name, self._store.by_uid(bound_to(volume))
        if volume.status.get("deleting"):
            raise BlixardError("VOLUME_IN_USE", f"volume {name} of before is being deleted")
        if holder is not None:
            raise BlixardError("VOLUME_IN_USE", f"volume {name} is {holder.metadata.name}'s")
        if volume.spec.get("pool") != claim.pool:
            place = volume.spec.get("pool")
            raise BlixardError("INVALID", f"volume {name} lies in pool {place}, not {claim.pool}")

    def lacking(self, spec: InstanceSpec) -> str:
        """Return why the volumes of an instance cannot be attached yet, or an empty text.

        A local volume is made by the node that starts its instance.
        """
        for disk in spec.disks:
            volume = self._store.by_uid(disk.uid)
            if disk.backend != "local" and (volume is None or not is_made(volume)):
                name = volume.metadata.name if volume is not None else disk.name
                said = str(volume.status.get("message") or "") if volume is not None else ""
                return f"volume {name} is not made yet{': ' if said else ''}{said}"
        return ""

    def home(self, spec: InstanceSpec) -> str:
        """Return the uid of the node that has the local volumes of an instance, or may have them.

        One that was removed before they are known to exist has nothing to come back to.
        """
        for disk in spec.disks:
            volume = self._store.by_uid(disk.uid)
            home = _home(volume) if disk.backend == "local" else ""
            if home and (is_made(volume) or self._store.by_uid(home) is not None):
                return home
        return ""

    def stay(self, vm: Resource, spec: InstanceSpec) -> list[Operation]:
        """Return what binds the local volumes of a placed instance to its node.

        From now on, not from when the guest is ready: it may write before, and never be ready.
        """
        return [
            PatchStatus(
                kind="Volume", namespace=vm.metadata.namespace,
                name=f"{vm.metadata.name}-{spec.ordinal}-{disk.name}", uid=disk.uid,
                status={"node": spec.node},
            )
            for disk in spec.disks
            if disk.backend == "local" and _home(self._store.by_uid(disk.uid)) != spec.node
        ]  # fmt: skip

    def known(self, spec: InstanceSpec) -> InstanceSpec:
        """Return the spec with what is known of its volumes now: those that were made stay so."""
        made = tuple(
            disk
            if disk.made or not is_made(self._store.by_uid(disk.uid))
            else msgspec.structs.replace(disk, made=True)
            for disk in spec.disks
        )
        return spec if made == spec.disks else msgspec.structs.replace(spec, volumes=made)

    def _backend(self, pool_name: str) -> str:
        pool = self._store.get("StoragePool", "", pool_name)
        return str(pool.spec.get("backend", "ceph")) if pool is not None else ""


def _home(volume: Resource | None) -> str:
    return str(volume.status.get("node") or "") if volume is not None else ""


def is_made(volume: Resource | None) -> bool:
    """Tell whether a volume exists in its pool."""
    return volume is not None and volume.status.get("phase") == "Available"
