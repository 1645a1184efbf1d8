"""Guests that moved while they ran go on as they were: memory, CPU state, connections.

What the CPUs were stopped with on one host is compared, in full, with what they go on with on
another; and nothing of an older run goes on once a newer one has begun.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.guest_state import GuestState

Fail = Callable[[str, str], None]


class Arrival(msgspec.Struct, frozen=True):
    """One guest that went on elsewhere: hosts, and its plan there."""

    plan: LaunchPlan
    source: int
    host: int
    at_ns: int


class Arrivals:
    """The newest pause of each instance, and all arrivals of a run of the simulation."""

    def __init__(self, fail: Fail, now_ns: Callable[[], int]) -> None:
        self._fail = fail
        self._now_ns = now_ns
        self._paused: dict[str, tuple[int, LaunchPlan, GuestState]] = {}
        self._newest: dict[str, LaunchPlan] = {}
        self.seen: list[Arrival] = []

    def started(self, host: int, plan: LaunchPlan) -> None:
        """The CPUs of a run are let go, for the first time or again."""
        newest = self._newest.get(plan.instance_uid)
        if newest is None or newest.run <= plan.run:
            self._newest[plan.instance_uid] = plan
            return
        self._fail(
            "double run",
            f"{plan.instance_uid} goes on with run {plan.run} on host {host} after run "
            f"{newest.run} has started on {newest.node}",
        )

    def paused(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """The CPUs were stopped."""
        self._paused[plan.instance_uid] = (host, plan, state)

    def arrived(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """They go on elsewhere."""
        name = f"{plan.name} (run {plan.run}) on host {host}"
        known = self._paused.get(plan.instance_uid)
        if known is None:
            self._fail("moved guest", f"{name} goes on with a state that nobody stopped with")
            return
        source, before, stopped = known
        if before.run + 1 != plan.run:
            self._fail("moved guest", f"{name} goes on with the state of run {before.run}")
        for what in ("pages", "cpu", "connections"):
            if getattr(state, what) != getattr(stopped, what):
                self._fail("moved guest", f"{name} has other {what} than it had on host {source}")
        own = f"{plan.address} {plan.mac}"
        if any(connection[0] != own for connection in state.connections):
            self._fail("moved guest", f"{name} has connections of another address than {own}")
        self.seen.append(Arrival(plan, source, host, self._now_ns()))

    def of(self, name: str) -> list[Arrival]:
        """Return the arrivals of an instance by its name, the oldest first."""
        return [arrival for arrival in self.seen if arrival.plan.name == name]
