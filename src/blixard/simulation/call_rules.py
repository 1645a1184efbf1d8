"""What must hold of calls of functions, seen from inside the guests.

A guest serves one call at a time, none after a call that ran out of time, and only for the daemon
that started it; a call that was sent once begins once; no more calls of a function run at a time
than its limit says.
"""

from __future__ import annotations

from collections.abc import Callable

from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.guest_runs import vm_of

Fail = Callable[[str, str], None]


class CallRules:
    """Watches the guests of all hosts.

    ``sent`` counts how often a client sent a request id, ``limits`` the calls of a function, by its
    name, that may run at a time; ``incarnation`` tells which daemon runs on a host.
    """

    def __init__(self, fail: Fail, happened: Callable[[str], None]) -> None:
        self._fail = fail
        self._happened = happened
        self.incarnation: Callable[[int], int] = lambda _host: 0
        self.sent: dict[str, int] = {}
        self.limits: dict[str, int] = {}
        self.most: dict[str, int] = {}  # calls of a function that ran at a time
        self._started_by: dict[str, int] = {}  # instance uid -> incarnation of the daemon
        self._serving: dict[str, str] = {}  # instance uid -> request id
        self._worn: set[str] = set()  # instances whose handler ran out of time
        self._begun: dict[str, int] = {}
        self._running: dict[str, set[tuple[str, str]]] = {}  # by function: instance, request id

    def started(self, host: int, plan: LaunchPlan) -> None:
        """An instance of a function runs, for the first time or after a pause of its host."""
        self._started_by.setdefault(plan.instance_uid, self.incarnation(host))

    def began(self, host: int, plan: LaunchPlan, request_id: str) -> None:
        """A handler begins."""
        uid, function = plan.instance_uid, vm_of(plan)
        self._happened("call began")
        other = self._serving.get(uid)
        if other is not None:
            self._fail("one call", f"{plan.name} is given {request_id} while it serves {other}")
        if uid in self._worn:
            self._fail("worn instance", f"{plan.name} is given {request_id} after a timeout")
        if self._started_by.get(uid) != self.incarnation(host):
            self._fail("leftover", f"{plan.name} was started by another daemon of host {host}")
        self._serving[uid] = request_id
        self._begun[request_id] = times = self._begun.get(request_id, 0) + 1
        if times > self.sent.get(request_id, times):
            self._fail("at most once", f"{request_id} begins for the {times}. time")
        running = self._running.setdefault(function, set())
        running.add((uid, request_id))
        self.most[function] = max(self.most.get(function, 0), len(running))
        if len(running) > self.limits.get(function, len(running)):
            text = f"{len(running)} calls of {function} run, at most {self.limits[function]}"
            self._fail("limit", text)

    def ended(self, _host: int, plan: LaunchPlan, request_id: str, status: str) -> None:
        """It is over."""
        uid = plan.instance_uid
        if self._serving.get(uid) == request_id:
            del self._serving[uid]
        if status == "timeout":
            self._worn.add(uid)
        self._running.get(vm_of(plan), set()).discard((uid, request_id))

    def begun(self, request_id: str) -> int:
        """Return how often a call began."""
        return self._begun.get(request_id, 0)
