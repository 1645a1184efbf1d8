"""How ``onPartition`` changes while an instance runs; pure.

What must hold: an instance counts as *fenced*, and may be started elsewhere after its node's lease
ended, only while no process of it can outlive that lease.

- keep to fence: ``guard`` and a higher ``guard_seq`` are committed; the node has its guard arm the
  process and reports that number; only then is ``fenced`` committed.
- fence to keep: ``fenced`` is taken back in the very commit that tells the node to disarm. A node
  that was declared lost before that commit has killed the instance, and one that is declared lost
  after it has an instance that nobody starts elsewhere, killed or not.

Every process of a run that starts after a confirmation starts under that number or a higher one:
the node that confirmed it knew it, and one that restarted reads its duties anew first.
"""

from __future__ import annotations

import msgspec

from blixard.ports.hypervisor import GuardMode
from blixard.vms.spec import InstanceSpec, InstanceStatus


def mode_of(spec: InstanceSpec) -> GuardMode:
    """Return what the guard is to do with the instance."""
    if spec.guard:
        return spec.guard
    return "fence" if spec.fenced else "keep"


def placed(spec: InstanceSpec, *, fence: bool) -> InstanceSpec:
    """Return the spec of a new placement: whatever starts under it is armed before it runs."""
    mode: GuardMode = "fence" if fence else "keep"
    seq = spec.guard_seq + (mode != mode_of(spec))
    return msgspec.structs.replace(spec, fenced=fence, guard=mode, guard_seq=seq)


def switched(spec: InstanceSpec, status: InstanceStatus, *, fence: bool) -> InstanceSpec:
    """Return the spec of a placed instance one step nearer to what is wanted."""
    mode: GuardMode = "fence" if fence else "keep"
    if mode_of(spec) != mode:
        return msgspec.structs.replace(spec, fenced=False, guard=mode, guard_seq=spec.guard_seq + 1)
    if fence and not spec.fenced and is_confirmed(spec, status):
        return msgspec.structs.replace(spec, fenced=True)
    return spec


def is_confirmed(spec: InstanceSpec, status: InstanceStatus) -> bool:
    """Tell whether the node said that its guard is armed as the spec wants."""
    told = (status.run, status.guard_seq, status.guard)
    return told == (spec.run, spec.guard_seq, "fence")
