"""The kinds StoragePool and Volume, with the rules that apply enforces whoever asks.

A volume is bound to at most one instance (``status.instance``, a uid), and to another one only
once that one is gone for good. As an instance has one node, node epoch and run at a time, so has
the volume one writer.
"""

from __future__ import annotations

from blixard.base.errors import BlixardError, Problem
from blixard.cluster.kind import Kind, StateView
from blixard.cluster.resources import Resource
from blixard.storage.spec import StoragePoolSpec, VolumeSpec, size_bytes

SIZE_MIN_BYTES = 1 << 20


def size_problems(size: str | int, pointer: str) -> list[Problem]:
    """Return what is wrong with the size of a disk."""
    try:
        if size_bytes(size) < SIZE_MIN_BYTES:
            return [Problem(pointer=pointer, message="at least 1 MiB")]
    except BlixardError as error:
        return [Problem(pointer=pointer, message=error.message)]
    return []


def validate_pool(spec: StoragePoolSpec) -> list[Problem]:
    """Return what the types cannot say: copies that the backend can keep, a quota that is one."""
    problems = []
    if spec.backend == "local" and spec.replicas not in (None, 1):
        message = "a local pool keeps one copy: take the backend ceph for more"
        problems.append(Problem(pointer="/spec/replicas", message=message, accepted=("1",)))
    if spec.quota:
        problems += size_problems(spec.quota, "/spec/quota")
    return problems


def validate_volume(spec: VolumeSpec) -> list[Problem]:
    """Return what the types cannot say: a size that is one."""
    return size_problems(spec.size, "/spec/size")


def is_left(_state: StateView, stored: Resource) -> bool:
    """Tell whether the backend may still have it: its object stays until the leader removed it."""
    return not stored.status.get("gone")


def pool_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """A pool stays on its backend, and is there as long as a volume lies in it."""
    if old is not None and new is not None and old.spec.get("backend") != new.spec.get("backend"):
        return "a pool's backend cannot change: make another pool"
    if new is None and old is not None:
        inside = [v for v in state.list("Volume") if v.spec.get("pool") == old.metadata.name]
        return f"{len(inside)} volumes are left in it" if inside else ""
    return ""


def volume_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """A volume stays in its pool, is never made smaller, and has one instance at a time."""
    before = bound_to(old)
    held = bool(before) and state.by_uid(before) is not None
    if new is None:
        return f"the instance {before} is bound to it" if held else ""
    if old is None:
        return ""
    if old.spec.get("pool") != new.spec.get("pool"):
        return "a volume's pool cannot change"
    if size_bytes(new.spec.get("size", 0)) < size_bytes(old.spec.get("size", 0)):
        return "a volume cannot be made smaller"
    if held and bound_to(new) != before:
        return f"the instance {before} is bound to it"
    return ""


def bound_to(volume: Resource | None) -> str:
    """Return the uid of the instance that a volume was bound to last, or an empty text."""
    return str(volume.status.get("instance") or "") if volume is not None else ""


def writer_rule(state: StateView, instance: Resource | None) -> str:
    """An instance has no volume but those that are bound to it: no volume has two writers."""
    for claimed in instance.spec.get("volumes", ()) if instance is not None else ():
        volume = state.by_uid(str(claimed.get("uid", "")))
        if volume is None or volume.kind != "Volume":
            return f"the volume {claimed.get('name')} does not exist"
        if instance is not None and bound_to(volume) != instance.metadata.uid:
            return f"the volume {volume.metadata.name} is bound to another instance"
    return ""


KINDS: tuple[Kind, ...] = (
    Kind(
        name="StoragePool",
        plural="storagepools",
        short=("pool", "sp"),
        namespaced=False,
        spec=StoragePoolSpec,
        validate=validate_pool,
        rule=pool_rule,
        outlives=is_left,
    ),
    Kind(
        name="Volume",
        plural="volumes",
        short=("vol",),
        spec=VolumeSpec,
        validate=validate_volume,
        rule=volume_rule,
        outlives=is_left,
        name_pattern=r"[a-z0-9]([-a-z0-9]{0,118}[a-z0-9])?",
    ),
)
