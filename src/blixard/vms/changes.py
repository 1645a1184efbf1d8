"""What a change means for an instance: whether it ends for it, starts anew, or waits; pure."""

from __future__ import annotations

import msgspec

from blixard.vms.members import Member
from blixard.vms.spec import InstanceSpec


def size(spec: InstanceSpec) -> tuple[int, int]:
    """Return what it takes of its node: vCPUs and MiB of memory."""
    return spec.vcpus, spec.memory_mib


def removal_rank(member: Member) -> tuple[bool, bool, bool, bool, int]:
    """Order of removal: ending, from before a loss, not placed, not ready, the highest ordinal."""
    return (
        member.spec.desired == "Running",
        not member.stale,
        bool(member.spec.node),
        member.status.ready,
        -member.spec.ordinal,
    )


def free_ordinals(members: list[Member], count: int) -> list[int]:
    """Return the lowest ordinals that no instance has."""
    taken = {m.spec.ordinal for m in members}
    free: list[int] = []
    ordinal = 1
    while len(free) < count:
        if ordinal not in taken:
            free.append(ordinal)
        ordinal += 1
    return free


def starts_anew(old: InstanceSpec, new: InstanceSpec) -> bool:
    """Tell whether it may start after it was, or may have been, told to be over."""
    if new.desired != "Running":
        return False
    if old.desired == "Stopped":
        return True
    return new.restart_policy != "Always" and old.restart_generation != new.restart_generation


def restart_needed(old: InstanceSpec, new: InstanceSpec) -> bool:
    """Tell whether a running guest has to end for the change."""
    return (old.recipe, old.memory_mib, old.vcpus, old.restart_generation) != (
        new.recipe,
        new.memory_mib,
        new.vcpus,
        new.restart_generation,
    )


def only_desired(old: InstanceSpec, new: InstanceSpec) -> InstanceSpec:
    """Return the old spec with the part of a change that disturbs no running guest."""
    return msgspec.structs.replace(
        old, desired=new.desired, fenced=new.fenced, guard=new.guard, guard_seq=new.guard_seq
    )


def may_disturb(member: Member, alive: list[Member], disturbed: set[str]) -> bool:
    """One at a time: an instance is restarted for a change only while all others are ready."""
    if not member.status.ready:
        return True
    others = (m for m in alive if m is not member)
    return member.resource.metadata.owner not in disturbed and all(m.status.ready for m in others)
