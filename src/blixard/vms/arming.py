"""Telling a node's guard what to do with an instance once the node's lease has ended."""

from __future__ import annotations

from blixard.vms.guarding import mode_of
from blixard.vms.spec import InstanceSpec
from blixard.vms.tools import Tools


async def tell_guard(uid: str, spec: InstanceSpec, tools: Tools, epoch: int) -> None:
    """Have its process killed at the lease's end, or kept. Raises BlixardError."""
    hypervisor, authority = tools.hypervisor, tools.authority
    if mode_of(spec) == "fence":
        deadline_ns = authority.deadline_ns
        await hypervisor.arm(uid, deadline_ns, epoch=epoch, seq=spec.guard_seq)
        await _tell_renewed(tools, deadline_ns, epoch)
    elif spec.guard_seq:
        await hypervisor.disarm(uid, seq=spec.guard_seq)


async def _tell_renewed(tools: Tools, armed_ns: int, epoch: int) -> None:
    """The guard may have heard of a renewal before it knew that this instance is armed."""
    authority = tools.authority
    if authority.epoch == epoch and authority.deadline_ns > armed_ns:
        await tools.hypervisor.extend(authority.deadline_ns)
