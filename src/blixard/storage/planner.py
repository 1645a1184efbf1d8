"""What is to be done about pools, volumes and lost nodes: pure functions of the state.

Intent is replicated, the work is the leader's: it calls the backend and writes down what came of
it. Every step may be repeated, and one that a deposed leader does late does no harm: the uid of a
volume is never used again, and a fence only ever shuts out epochs that have ended.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.cluster.fences import may_still_write
from blixard.cluster.resources import Delete, Operation, PatchStatus, Resource
from blixard.cluster.store import Store
from blixard.storage.kinds import bound_to

# In the order in which they are done: whoever waits for a fence has no VM meanwhile.
Kind = Literal["fence", "make-pool", "make", "unmake", "unmake-pool"]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a backend; ``target`` is a Node, a StoragePool or a Volume."""

    kind: Kind
    target: Resource
    backend: str
    epoch: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is, also when its target's status has changed."""
        return self.kind, self.target.metadata.uid, self.target.metadata.generation + self.epoch


def actions(store: Store) -> list[Action]:
    """Return the calls that bring the storage closer to what is wanted."""
    pools = {pool.metadata.name: pool for pool in store.list("StoragePool")}
    volumes = store.list("Volume")
    inside = {str(volume.spec.get("pool")) for volume in volumes}
    found = _fences(store) if volumes else []
    found += [
        Action(kind="make-pool", target=pool, backend=_backend(pool))
        for pool in pools.values()
        if _backend(pool) != "local" and not pool.status.get("deleting") and not is_current(pool)
    ]
    for volume in volumes:
        pool = pools.get(str(volume.spec.get("pool")))
        kind = _volume_step(store, volume, pool)
        if kind is not None and pool is not None:
            found.append(Action(kind=kind, target=volume, backend=_backend(pool)))
    found += [
        Action(kind="unmake-pool", target=pool, backend=_backend(pool))
        for pool in pools.values()
        if pool.status.get("deleting") and pool.metadata.name not in inside
    ]
    return found


def _fences(store: Store) -> list[Action]:
    """Lost nodes on which something waits that may only go on elsewhere."""
    waiting: dict[str, Resource] = {}
    for instance in store.list("Instance"):
        node = store.by_uid(str(instance.spec.get("node", "")))
        if node is None or node.status.get("state") != "Lost":
            continue
        moves = instance.spec.get("fenced") or node.status.get("removing")
        if moves and may_still_write(node, instance.spec):
            waiting[node.metadata.uid] = node
    return [
        Action(kind="fence", target=waiting[uid], backend="ceph", epoch=_epoch(waiting[uid]))
        for uid in sorted(waiting)
    ]


def _volume_step(store: Store, volume: Resource, pool: Resource | None) -> Kind | None:
    if pool is None:
        return None
    if volume.status.get("deleting"):
        return None if in_use(store, volume) else "unmake"
    shared = _backend(pool) != "local"
    if shared and is_current(pool) and volume.status.get("phase") != "Available":
        return "make"
    return None


def in_use(store: Store, volume: Resource) -> bool:
    """Tell whether an instance is bound to it, running or not."""
    holder = bound_to(volume)
    return bool(holder) and store.by_uid(holder) is not None


def is_current(pool: Resource) -> bool:
    """Tell whether the backend has the pool as it is declared now."""
    ready = pool.status.get("phase") == "Ready"
    return ready and pool.status.get("observedGeneration") == pool.metadata.generation


def settled_ops(store: Store) -> list[Operation]:
    """Return what follows from the state without asking a backend.

    Volumes that are to go with their instance are deleted once it is gone; a local volume is known
    to exist once its instance was ready.
    """
    ops: list[Operation] = []
    pools = {pool.metadata.name: pool for pool in store.list("StoragePool")}
    for volume in store.list("Volume"):
        holder = store.by_uid(bound_to(volume)) if bound_to(volume) else None
        if volume.status.get("deleting"):
            continue
        if bound_to(volume) and holder is None and volume.spec.get("reclaim") == "delete":
            ops.append(Delete.of(volume, unchanged=True))
        pool = pools.get(str(volume.spec.get("pool")))
        local = pool is not None and _backend(pool) == "local"
        made = volume.status.get("phase") == "Available"
        if local and not made and holder is not None and holder.status.get("ready"):
            status = {"phase": "Available", "node": holder.spec.get("node")}
            ops.append(PatchStatus.of(volume, status))
    return ops


def done_ops(action: Action) -> list[Operation]:
    """Return what is written down once the backend has done it."""
    target = action.target
    match action.kind:
        case "fence":
            return [PatchStatus.of(target, {"storageFencedEpoch": action.epoch})]
        case "make-pool":
            generation = target.metadata.generation
            told = {"phase": "Ready", "observedGeneration": generation, "message": None}
            return [PatchStatus.of(target, told)]
        case "make":
            return [PatchStatus.of(target, {"phase": "Available", "message": None})]
    return [PatchStatus.of(target, {"gone": True}), Delete.of(target)]


def failed_ops(action: Action, message: str) -> list[Operation]:
    """Return what is shown of a call that failed, if that is news."""
    if action.kind == "fence" or action.target.status.get("message") == message:
        return []
    return [PatchStatus.of(action.target, {"message": message})]


def begun_ops(action: Action) -> list[Operation]:
    """Return what has to be known before a call: whom the storage is about to shut out."""
    if action.kind != "fence" or action.target.status.get("storageFenceEpoch") == action.epoch:
        return []
    return [PatchStatus.of(action.target, {"storageFenceEpoch": action.epoch})]


def orphans(store: Store, found: list[str]) -> list[str]:
    """Return the volumes of a pool that nothing declares, of those that the backend has."""
    return [uid for uid in found if store.by_uid(uid) is None]


def _backend(pool: Resource) -> str:
    return str(pool.spec.get("backend", "ceph"))


def _epoch(node: Resource) -> int:
    return int(node.status.get("epoch", 0))
