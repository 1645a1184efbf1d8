"""What a node may believe of itself: its lease, and whether its duties were read under it. Pure.

After any lapse of the lease a node acts on nothing before its duties were asked for anew. The lapse
is noted in the same step that takes the next grant: between two steps the daemon may be paused, and
other tasks of it run.
"""

from __future__ import annotations

from typing import Literal

from blixard.cluster.leases import LeaseConfig, NodeLease
from blixard.ports.hypervisor import HypervisorInstance

Heard = Literal["renewed", "refused", "new epoch"]


class NodeAuthority:
    """Lease and freshness of the duties; times are nanoseconds of CLOCK_BOOTTIME."""

    def __init__(self, config: LeaseConfig) -> None:
        self.lease = NodeLease(config)
        self.view_epoch = -1
        self.fresh = False
        self.outdated = False  # a view asked for before now must not be believed

    def granted(self, now_ns: int) -> bool:
        """Tell whether the lease is valid and the duties were read under its epoch."""
        valid = self.lease.valid(now_ns)
        if not valid:
            self.fresh = False
        return valid and self.fresh and self.view_epoch == self.lease.epoch

    def may_resume(self, *, allowed: bool, epoch: int, now_ns: int) -> bool:
        """Tell whether a start that was asked for in *epoch* and *allowed* may go on now."""
        return allowed and self.granted(now_ns) and self.lease.epoch == epoch

    def heartbeat_answered(
        self, *, granted: bool, epoch: int, asked_epoch: int, sent_ns: int, now_ns: int
    ) -> Heard:
        """Take the answer to a heartbeat that was sent at *sent_ns* under *asked_epoch*."""
        if epoch > asked_epoch:
            return "new epoch"
        if not granted or epoch != asked_epoch:
            return "refused"
        if not self.lease.valid(now_ns):
            self.fresh, self.outdated = False, True
        self.lease.granted(epoch, sent_ns)
        return "renewed"

    def leave_epoch(self) -> None:
        """The cluster ended this epoch: nothing may be believed or run under it."""
        self.lease.revoke()
        self.fresh = False

    def enter_epoch(self, epoch: int) -> None:
        """Nothing of the old epoch runs any more."""
        self.lease.epoch = epoch
        self.fresh, self.outdated = False, True

    def view_asked(self) -> None:
        """A view is asked for now."""
        self.outdated = False

    def view_read(self, epoch: int, now_ns: int) -> bool:
        """Take the view; one that was asked for before a lapse may miss a fencing."""
        self.view_epoch = epoch
        current = epoch == self.lease.epoch and not self.outdated
        self.fresh = self.lease.valid(now_ns) and current
        return self.fresh


def ends_with_epoch(process: HypervisorInstance, epoch: int) -> bool:
    """Tell whether a process must be gone before its node may live in *epoch*.

    What it was armed under counts, which may be later than its start; a start under way ends. What
    ran and stands still, for a migration, goes on only after a question in the new epoch.
    """
    if process.state == "paused" and not process.ran:
        return process.plan.node_epoch < epoch
    alive = process.state != "exited"
    return alive and process.guard == "fence" and process.guard_epoch < epoch
