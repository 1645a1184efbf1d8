"""A hypervisor process of a simulated host, and who is told of its life."""

from __future__ import annotations

import msgspec

from blixard.ports.hypervisor import (
    HypervisorInstance,
    Invocation,
    LaunchPlan,
    ProcessState,
)
from blixard.simulation.calls import GuestFunction
from blixard.simulation.guest_disks import GuestDisk
from blixard.simulation.guest_state import GuestState
from blixard.simulation.loop import SimHandle

SHUT_DOWN, KILLED, CRASHED = 0, -9, 1  # exit codes


class SimInstance(msgspec.Struct):
    """One hypervisor process."""

    plan: LaunchPlan
    pid: int
    state: ProcessState = "paused"
    deadline_ns: int | None = None
    boots_at_ns: int = 0
    killed_by_guard: bool = False
    exit_code: int | None = None
    timer: SimHandle | None = None
    guard_seq: int = 0
    guard_epoch: int = 0
    ran: bool = False
    birth: int = 0
    ran_ns: int = 0  # until it was stopped last
    since_ns: int = 0  # when its CPUs were last let run
    arrived: GuestState | None = None  # what another host sent, until it runs
    uses_disks: bool = False
    used: list[GuestDisk] = []
    function: GuestFunction | None = None

    def shown(self) -> HypervisorInstance:
        """Return what the port shows."""
        return HypervisorInstance(
            instance_uid=self.plan.instance_uid,
            plan=self.plan,
            state=self.state,
            pid=self.pid,
            exit_code=self.exit_code,
            killed_by_guard=self.killed_by_guard,
            guard="keep" if self.deadline_ns is None else "fence",
            guard_seq=self.guard_seq,
            guard_epoch=self.guard_epoch,
            ran=self.ran,
        )


class Observer:
    """Told when an instance really runs and when it ends; the oracle of double runs is one."""

    def started(self, host: int, plan: LaunchPlan) -> None:
        """The CPUs of an instance run from now on."""

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """They run no longer."""

    def paused(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """The CPUs were stopped with this state."""

    def arrived(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """The CPUs go on here from a state that another host sent."""

    def stopped(self, host: int, plan: LaunchPlan, *, ailing: bool, by_guard: bool) -> None:
        """The guard or the daemon ends one that runs; *ailing*: its host's guests were unwell."""

    def call_began(self, host: int, plan: LaunchPlan, call: Invocation) -> None:
        """A function's handler begins in a guest."""

    def call_ended(self, host: int, plan: LaunchPlan, request_id: str, status: str) -> None:
        """It is over, or its guest is."""
