"""Choose a node for an instance: what fits, then what spreads, with the reasons in words."""

from __future__ import annotations

import msgspec

VM_ROLE = "hypervisor"  # of nodes that run VMs; a node without any role named has it


class NodeRoom(msgspec.Struct, frozen=True, kw_only=True):
    """One node as placement sees it; free amounts are after overcommit and reservations.

    ``runs_vms``: it has the role for it. ``same_group`` counts instances of the same VM there,
    ``groups`` the anti-affinity groups present there.
    """

    uid: str
    name: str
    ready: bool
    schedulable: bool
    runs_vms: bool = True
    free_vcpus: float
    free_memory_mib: int
    total_memory_mib: int
    free_slots: int
    same_group: int = 0
    instances: int = 0
    groups: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class PlacementRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance needs."""

    vcpus: int
    memory_mib: int
    node_selector: dict[str, str] = {}
    anti_affinity_group: str = ""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen node (None: fits nowhere) and why; ``refused`` has one reason per other node."""

    node: NodeRoom | None
    why: str
    refused: dict[str, str] = {}


def refusal(request: PlacementRequest, room: NodeRoom) -> str:
    """Return why *room* cannot hold the instance; empty if it can."""
    if not room.ready:
        return "not ready"
    if not room.schedulable:
        return "not schedulable"
    if not room.runs_vms:
        return f"without the role {VM_ROLE}"
    for key, value in sorted(request.node_selector.items()):
        if room.labels.get(key) != value:
            return f"label {key} is {room.labels.get(key, 'absent')}, not {value}"
    if request.anti_affinity_group and request.anti_affinity_group in room.groups:
        return f"holds a member of anti-affinity group {request.anti_affinity_group}"
    return shortage(request, room)


def shortage(request: PlacementRequest, room: NodeRoom) -> str:
    """Return what the node has too little of; empty if it has enough."""
    if room.free_slots < 1:
        return "its limit of VMs is reached"
    if room.free_memory_mib < request.memory_mib:
        return f"{room.free_memory_mib} MiB memory free, {request.memory_mib} needed"
    if room.free_vcpus < request.vcpus:
        return f"{room.free_vcpus:g} vCPUs free, {request.vcpus} needed"
    return ""


def _rank(room: NodeRoom) -> tuple[int, float, int, str]:
    share = 1 - room.free_memory_mib / max(1, room.total_memory_mib)
    return (room.same_group, round(share, 3), room.instances, room.name)


def choose(request: PlacementRequest, rooms: list[NodeRoom]) -> Choice:
    """Return the node with the fewest instances of the same VM, then the least memory in use."""
    refused = {room.name: refusal(request, room) for room in rooms}
    fitting = [room for room in rooms if not refused[room.name]]
    refused = {name: reason for name, reason in sorted(refused.items()) if reason}
    if not fitting:
        return Choice(node=None, why=_nowhere(refused), refused=refused)
    best = min(fitting, key=_rank)
    used_percent = 100 * (1 - best.free_memory_mib / max(1, best.total_memory_mib))
    why = (
        f"{len(fitting)} of {len(rooms)} nodes fit; {best.name} has {best.same_group} other "
        f"instances of this VM and {used_percent:.0f} % of its memory reserved"
    )
    return Choice(node=best, why=why, refused=refused)


def _nowhere(refused: dict[str, str]) -> str:
    if not refused:
        return "the cluster has no node"
    counted: dict[str, int] = {}
    for reason in refused.values():
        counted[reason] = counted.get(reason, 0) + 1
    parts = [
        f"{count} {'node' if count == 1 else 'nodes'}: {reason}"
        for reason, count in sorted(counted.items())
    ]
    return "fits nowhere: " + "; ".join(parts)
