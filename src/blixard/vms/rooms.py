"""The nodes' free room, with reservations made while a plan is being drawn."""

from __future__ import annotations

from typing import Any

import msgspec

from blixard.cluster.moves import move_of
from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.placement.choice import VM_ROLE, NodeRoom, PlacementRequest


class _Use(msgspec.Struct):
    vcpus: int = 0
    memory_mib: int = 0
    instances: int = 0


class Rooms:
    """Free room of every node: capacity times overcommit, less what instances reserve."""

    def __init__(self, store: Store) -> None:
        config = store.get("ClusterConfig", "", "cluster")
        spec = config.spec if config is not None else {}
        self._overcommit_vcpus = float(spec.get("overcommitVcpus", 4.0))
        self._overcommit_memory = float(spec.get("overcommitMemory", 1.0))
        self._nodes = {n.metadata.uid: n for n in store.list("Node")}
        self._order = sorted(self._nodes)
        self._use = {uid: _Use() for uid in self._nodes}
        self._of_owner: dict[tuple[str, str], int] = {}
        self._groups: dict[str, list[str]] = {}
        self._seen: dict[str, NodeRoom] = {}
        groups = {vm.metadata.uid: _group(vm) for vm in store.list("VM")}
        for instance in store.list("Instance"):
            spec, owner = instance.spec, instance.metadata.owner
            for node in _nodes_of(spec):
                if node in self._use:
                    self._count(node, owner, spec.get("vcpus", 1), spec.get("memoryMib", 0))
                    if groups.get(owner):
                        self._groups.setdefault(node, []).append(groups[owner])

    def _count(self, node: str, owner: str, vcpus: int, memory_mib: int, *, sign: int = 1) -> None:
        self._seen.pop(node, None)
        use = self._use[node]
        use.vcpus += sign * vcpus
        use.memory_mib += sign * memory_mib
        use.instances += sign
        self._of_owner[node, owner] = self._of_owner.get((node, owner), 0) + sign

    def epoch(self, node_uid: str) -> int:
        """Return the node's current epoch."""
        return int(self._nodes[node_uid].status.get("epoch", 1))

    def reserve(self, node_uid: str, owner: str, request: PlacementRequest) -> None:
        """Count an instance that the plan puts there."""
        self._count(node_uid, owner, request.vcpus, request.memory_mib)
        if request.anti_affinity_group:
            self._groups.setdefault(node_uid, []).append(request.anti_affinity_group)

    def release(self, node_uid: str, owner: str, request: PlacementRequest) -> None:
        """Count an instance no longer that has ended there."""
        self._count(node_uid, owner, request.vcpus, request.memory_mib, sign=-1)
        if request.anti_affinity_group:
            self._groups[node_uid].remove(request.anti_affinity_group)

    def of_node(self, node_uid: str) -> NodeRoom:
        """Return one node."""
        return self._room(node_uid, 0)

    def seen_by(self, owner: str) -> list[NodeRoom]:
        """Return all nodes as the VM *owner* sees them, in order of uid."""
        return [self._room(uid, self._of_owner.get((uid, owner), 0)) for uid in self._order]

    def _room(self, uid: str, same_group: int) -> NodeRoom:
        room = self._seen.get(uid)
        if room is None:
            self._seen[uid] = room = self._measured(uid)
        return msgspec.structs.replace(room, same_group=same_group) if same_group else room

    def _measured(self, uid: str) -> NodeRoom:
        node, use = self._nodes[uid], self._use[uid]
        capacity = node.spec.get("capacity", {})
        memory = int(capacity.get("memoryMib", 0) * self._overcommit_memory)
        return NodeRoom(
            uid=uid,
            name=node.metadata.name,
            ready=node.status.get("state") == "Ready",
            schedulable=bool(node.spec.get("schedulable", True))
            and not node.status.get("removing"),
            runs_vms=not node.spec.get("roles") or VM_ROLE in node.spec["roles"],
            free_vcpus=capacity.get("vcpus", 0) * self._overcommit_vcpus - use.vcpus,
            free_memory_mib=memory - use.memory_mib,
            total_memory_mib=memory,
            free_slots=int(node.spec.get("maxVms", 100)) - use.instances,
            instances=use.instances,
            groups=tuple(self._groups.get(uid, ())),
            labels={**node.metadata.labels, **node.spec.get("labels", {})},
        )


def _nodes_of(spec: dict[str, Any]) -> tuple[str, ...]:
    """Return where an instance takes room: on its node, and where it is being moved."""
    move = move_of(spec)
    return (spec.get("node", ""), *((move["target"],) if move is not None else ()))


def _group(vm: Resource) -> str:
    placement = vm.spec.get("placement") or {}
    return str(placement.get("antiAffinityGroup", ""))
