"""Removing a node: a persisted program of idempotent steps, decided from the state alone.

``cluster remove-node`` creates an Operation; the leader takes it one step at a time, and so does
the next leader. Steps: mark -> (graceful: wait until its instances have left) -> fence -> leave the
voters -> delete the Node.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.cluster.fences import may_still_write
from blixard.cluster.resources import Resource
from blixard.cluster.store import Store

GRACEFUL_DEADLINE_S = 600.0


class RemovalStep(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next; ``message`` is what the operation shows."""

    kind: Literal["mark", "wait", "fence", "leave", "delete", "done", "failed"]
    message: str


def removal_step(
    store: Store, node: Resource | None, *, force: bool, raft_ids: set[int], waited_s: float
) -> RemovalStep:
    """Return the next step of a removal; *raft_ids* are the members of the Raft configuration."""
    if node is None:
        return RemovalStep(kind="done", message="the node is removed")
    if not node.status.get("removing"):
        if not _stays(store, node):
            return RemovalStep(
                kind="failed",
                message=f"{node.metadata.name} is the last node that stays: add another one first",
            )
        return RemovalStep(kind="mark", message="no new instances are placed there")
    lost = node.status.get("state") == "Lost"
    there = [i for i in store.list("Instance") if i.spec.get("node") == node.metadata.uid]
    left = [i.metadata.name for i in there]
    if left and not force and not lost:
        if waited_s > GRACEFUL_DEADLINE_S:
            return RemovalStep(
                kind="failed", message=f"still there after 10 min: {', '.join(sorted(left)[:5])}"
            )
        return RemovalStep(kind="wait", message=f"{len(left)} instances have to move")
    if force and not lost and node.status.get("state") == "Ready":
        return RemovalStep(kind="fence", message="waiting until its lease has ended")
    if lost and any(may_still_write(node, instance.spec) for instance in there):
        return RemovalStep(kind="wait", message="its storage still takes writes from there")
    if node.spec.get("raftId") in raft_ids:
        return RemovalStep(kind="leave", message="leaving the voters")
    return RemovalStep(kind="delete", message="forgetting the node")


def _stays(store: Store, going: Resource) -> bool:
    """Tell whether another node is there that is not on its way out itself."""
    return any(
        not node.status.get("removing")
        for node in store.list("Node")
        if node.metadata.uid != going.metadata.uid
    )
