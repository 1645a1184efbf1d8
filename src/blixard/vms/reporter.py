"""What the cluster is told of one instance: its phase, and the way through the table to it."""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import HypervisorInstance
from blixard.vms.spec import LIFECYCLE, Event, InstanceStatus, Phase
from blixard.vms.tools import Subject, Tools

PATH_MAX = 8  # phases between two reports; more are told as Unknown and the last


class Reporter:
    """The status of a worker's instance.

    ``phases_ms``: what the parts of the last start took. ``arrived``: what brought the memory of
    this run, and ms.
    """

    def __init__(self, subject: Subject, tools: Tools) -> None:
        self._subject = subject
        self._tools = tools
        self.phases_ms: dict[str, int] = {}
        # A fresh worker knows nothing: there may be a process from before the daemon's restart.
        self.forget()

    def forget(self) -> None:
        """Know nothing, neither of the instance nor of what was said of an earlier run."""
        self._status = InstanceStatus(phase="Unknown")
        self._path: list[Phase] = ["Unknown"]
        self._guarded: tuple[Literal["", "keep", "fence"], int] = ("", 0)
        self.arrived: tuple[str, int] | None = None

    @property
    def phase(self) -> Phase:
        """Where the table led to."""
        return self._status.phase

    def note_guard(self, process: HypervisorInstance | None) -> None:
        """Take the guard's own word for what it does with a process of this run."""
        last = self._subject.last
        if process is None or process.state == "exited" or last is None:
            return
        if process.plan.run == last.spec.run:
            self._guarded = (process.guard, process.guard_seq)

    def go(self, event: Event | Literal[""]) -> None:
        """Take a transition of the table; none for an empty event.

        Raises:
            BlixardError: TRANSITION_REFUSED, if the table has no such transition.
        """
        if not event:
            return
        if not LIFECYCLE.allows(self.phase, event):
            raise BlixardError("TRANSITION_REFUSED", f"{self.phase} knows no {event!r}")
        phase = LIFECYCLE.next(self.phase, event)
        self._status = msgspec.structs.replace(self._status, phase=phase)
        self._path.append(phase)
        if len(self._path) > PATH_MAX:
            self._path = ["Unknown", phase]

    def fail(self) -> None:
        """Call it Failed, unless a process is being ended: that goes on being tried."""
        if LIFECYCLE.allows(self.phase, "fail"):
            self.go("fail")
        elif LIFECYCLE.allows(self.phase, "exited") and self.phase != "Stopping":
            self.go("exited")

    def say(
        self,
        *,
        ready: bool = False,
        reason: str = "",
        pid: int = 0,
        started: bool = False,
        console: list[str] | None = None,
    ) -> None:
        """Report the phase that the table led to, if anything of it is new."""
        assignment = self._subject.assignment
        if assignment is None or assignment.incoming:
            return
        now_ms = self._tools.env.wall_time_ms()
        old, phase, arrived = self._status, self.phase, self.arrived
        started_at = now_ms if started else (0 if phase in ("Building", "Stopped") else None)
        trying = phase in ("Failed", "Building", "Starting") and not ready  # the last failure stays
        new = InstanceStatus(
            phase=phase,
            ready=ready,
            reason=reason or (old.reason if trying else ""),
            restarts=self._subject.history.restarts,
            started_at_ms=old.started_at_ms if started_at is None else started_at,
            ready_at_ms=(old.ready_at_ms or now_ms) if ready else 0,
            pid=pid,
            run=assignment.spec.run,
            console=console if console is not None else (old.console if trying else []),
            phases_ms=dict(self.phases_ms),
            guard=self._guarded[0],
            guard_seq=self._guarded[1],
            arrived_by=arrived[0] if arrived is not None else msgspec.UNSET,
            arrival_ms=arrived[1] if arrived is not None else msgspec.UNSET,
        )
        if new != old or self._path:
            path, self._path = tuple(self._path) or (phase,), []
            self._status = new
            self._tools.report(assignment, new, path)

    def say_again(self) -> None:
        """Send the status anew (the leader's copy was reset by a new run or epoch)."""
        assignment = self._subject.assignment
        known = self.phase != "Unknown"
        if known and assignment is not None and self._status.run == assignment.spec.run:
            self._tools.report(assignment, self._status, ("Unknown", self.phase))
