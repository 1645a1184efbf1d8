"""What scenarios and authors ask of pools and volumes: as the state says, and as the disks hold."""

from __future__ import annotations

from typing import Any

from blixard.cluster.store import Store
from blixard.ports.volumes import Backend
from blixard.simulation.ceph import Image, SimCeph
from blixard.simulation.scenarios.guests import state, store_of
from blixard.simulation.scenarios.shell import Shell
from blixard.simulation.scenarios.stage import Stage
from blixard.storage.kinds import bound_to

_CALL_S = 8.0
CLAIM = "data"


def make_pool(shell: Shell, name: str, *, replicas: int = 3, backend: Backend = "ceph") -> None:
    """Declare a pool, on the simulated Ceph or of files of the hosts, unless it is there."""
    spec = {"backend": backend, **({"replicas": replicas} if backend == "ceph" else {})}
    _put(shell, f"/v1/storagepools/{name}", "StoragePool", name, spec)


def make_vm(
    shell: Shell,
    name: str,
    *,
    pool: str,
    size: str = "1GiB",
    reclaim: str = "retain",
    more: dict[str, Any] | None = None,
) -> None:
    """Declare a VM each of whose instances has a volume."""
    claims = [{"name": CLAIM, "pool": pool, "size": size, "reclaim": reclaim}]
    body = {
        "recipe": {"packages": ["nginx"]},
        "memory": "256MiB",
        "volumes": claims,
        **(more or {}),
    }
    _put(shell, f"/v1/namespaces/default/vms/{name}", "VM", name, body)


def _put(shell: Shell, path: str, kind: str, name: str, spec: dict[str, Any]) -> None:
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    shell.client.request("PUT", path, body=body, timeout_s=_CALL_S)


def ceph(stage: Stage) -> SimCeph:
    """Return the simulated Ceph."""
    return stage.world.ceph


def orphans(stage: Stage) -> list[str]:
    """Return the volumes on the disks that nothing declares."""
    store = state(stage)
    return [uid for uid in sorted(ceph(stage).images) if store.by_uid(uid) is None]


def unmade(store: Store) -> list[str]:
    """Return the volumes that are declared and not there, or not yet gone."""
    return [
        volume.metadata.name
        for volume in store.list("Volume")
        if volume.status.get("phase") != "Available" or volume.status.get("deleting")
    ]


def homeless(store: Store) -> list[str]:
    """Return the volumes that are to go with an instance which is gone."""
    return [
        volume.metadata.name
        for volume in store.list("Volume")
        if volume.spec.get("reclaim") == "delete" and store.by_uid(bound_to(volume)) is None
    ]


def held_elsewhere(store: Store, images: dict[str, Image]) -> list[str]:
    """Return the volumes that a node has which is neither their instance's nor known to be late."""
    found = []
    for uid, image in sorted(images.items()):
        instance = store.by_uid(bound_to(store.by_uid(uid)))
        spec = instance.spec if instance is not None else {}
        coming = (spec.get("migration") or {}).get("target")
        known = {spec.get("node"), coming, *spec.get("left", ())}
        found += [f"{node} has {uid}" for node in sorted(image.holders) if node not in known]
    return found


def stored_well(stage: Stage) -> list[str]:
    """Return what is not as it should be: copies, volumes that nobody declares or that lack."""
    leaders = stage.leaders()
    store = store_of(stage, leaders[0]) if leaders else None
    if store is None:
        return ["nobody leads"]
    return [
        *ceph(stage).unbalanced(),
        *(f"{uid} is declared by nobody" for uid in orphans(stage)),
        *held_elsewhere(store, ceph(stage).images),
        *(f"{name} is not made or not gone" for name in unmade(store)),
        *(f"{name} should have gone" for name in homeless(store)),
    ]


def check_storage(stage: Stage, within_s: float = 60.0) -> None:
    """All copies are there, and every volume has its declaration, soon."""
    stage.until(
        within_s, lambda: not stored_well(stage), "storage is whole", "storage",
        seen=lambda: "; ".join(stored_well(stage)[:5]),
    )  # fmt: skip
