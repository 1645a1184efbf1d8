"""The status of a VM, from its instances; pure."""

from __future__ import annotations

from blixard.vms.members import Member
from blixard.vms.spec import VMSpec


def summarise(
    spec: VMSpec, members: list[Member], problem: str, *, deleting: bool = False
) -> dict[str, object]:
    """Return the status of a VM: phase, counts and the first reason that matters."""
    ready = sum(1 for m in members if m.status.ready and not m.node_lost)
    reasons = [m.status.reason for m in members if m.status.reason and not m.status.ready]
    phases = {m.status.phase for m in members}
    if problem:
        phase = "Pending"
    elif deleting:
        phase = "Stopping"
    elif not spec.running:
        phase = "Stopped" if phases <= {"Stopped"} else "Stopping"
    elif ready >= spec.replicas:
        phase = "Running"
    else:
        order = ("Failed", "Unknown", "Pending", "Building", "Starting", "Stopping", "Stopped")
        phase = next((p for p in order if p in phases), "Pending")
    return {
        "phase": phase,
        "replicas": len(members),
        "readyReplicas": ready,
        "message": problem or (reasons[0] if reasons and ready < spec.replicas else ""),
    }
