"""What a lost node may still write to storage that others reach; pure.

A lost node's lease has ended, and the guard has killed what is fenced. But a write may be under
way, and a guard may fail with its host: the storage itself has to refuse the node's older epochs
before another node opens the same volume. ``status.storageFenceEpoch`` of a node is the epoch
before which that was begun, ``status.storageFencedEpoch`` the one before which it is done.
"""

from __future__ import annotations

from typing import Any

from blixard.cluster.resources import Resource


def shares_volumes(instance_spec: dict[str, Any]) -> bool:
    """Tell whether an instance has a volume that other nodes can attach."""
    return any(v.get("backend") != "local" for v in instance_spec.get("volumes", ()))


def may_still_write(node: Resource, instance_spec: dict[str, Any]) -> bool:
    """Tell whether the storage may still take what the instance wrote under an ended epoch."""
    fenced, epoch = node.status.get("storageFencedEpoch", 0), node.status.get("epoch", 0)
    return shares_volumes(instance_spec) and fenced < epoch


def was_shut_out(node: Resource, instance_spec: dict[str, Any]) -> bool:
    """Tell whether the storage refuses, or soon will, what the instance writes in its epoch."""
    begun = node.status.get("storageFenceEpoch", 0)
    return shares_volumes(instance_spec) and instance_spec.get("nodeEpoch", 0) < begun
