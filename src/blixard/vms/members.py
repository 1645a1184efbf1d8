"""An instance as the planner sees it, and when its reservation may go; pure.

What is told to end, because it is deleted, scaled away, moved or stopped, gets a run of its own for
that: whatever its node said of the run before, also late, does not speak for this one. It counts on
its node until that node reported the end, or is gone, or is lost and the instance was fenced.
"""

from __future__ import annotations

import msgspec

from blixard.cluster.fences import may_still_write, was_shut_out
from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.vms.spec import InstanceSpec, InstanceStatus


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """An instance, decoded, with the state of its node; ``node_epoch`` is the node's current one.

    ``stale``: its node takes part again under an epoch that the instance does not have yet.
    ``writes``: the storage may still take writes of it, though its lost node's lease has ended;
    ``shut_out``: its node is back, and the storage refuses what runs there since before.
    """

    resource: Resource
    spec: InstanceSpec
    status: InstanceStatus
    node_lost: bool = False
    node_gone: bool = False
    node_epoch: int = 0
    stale: bool = False
    writes: bool = False
    shut_out: bool = False

    @property
    def kept_away(self) -> bool:
        """Unknown on a lost node, to be replaced by another ordinal."""
        return self.node_lost and not self.spec.fenced and not self.spec.persistent

    @property
    def has_stopped(self) -> bool:
        """Tell whether its node said that this run is over; it is never started again."""
        spec, status = self.spec, self.status
        return spec.desired == "Stopped" and status.phase == "Stopped" and status.run == spec.run

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing of it can run, so that its reservation may go."""
        fenced = self.node_lost and self.spec.fenced and not self.writes
        return not self.spec.node or self.node_gone or fenced or self.has_stopped


def decode_member(resource: Resource, store: Store) -> Member:
    """Return the instance with the state of its node."""
    spec = msgspec.convert(resource.spec, InstanceSpec)
    status = msgspec.convert(resource.status, InstanceStatus)
    node = store.by_uid(spec.node) if spec.node else None
    lost = node is not None and node.status.get("state") == "Lost"
    epoch = int(node.status.get("epoch", 0)) if node is not None else 0
    stale = node is not None and not lost and epoch != spec.node_epoch
    return Member(
        resource=resource,
        spec=spec,
        status=status,
        node_lost=lost,
        node_gone=bool(spec.node) and node is None,
        node_epoch=epoch,
        stale=stale,
        writes=node is not None and lost and may_still_write(node, resource.spec),
        shut_out=node is not None and stale and was_shut_out(node, resource.spec),
    )


def told_to_end(member: Member) -> InstanceSpec:
    """Return the spec of an instance that is to end on its node, under its node's newest epoch."""
    spec = member.spec
    run = spec.run + (spec.desired == "Running")
    return msgspec.structs.replace(spec, desired="Stopped", run=run, node_epoch=member.node_epoch)
