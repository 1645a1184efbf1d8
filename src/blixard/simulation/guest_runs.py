"""Which instance ran on which host, and from when to when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from blixard.ports.hypervisor import LaunchPlan

_KEPT = 100_000


class GuestRun(msgspec.Struct, eq=False):
    """The CPUs of one instance on one host; ``ended_ns`` is None while they run."""

    plan: LaunchPlan
    host: int
    began_ns: int
    ended_ns: int | None = None

    @property
    def name(self) -> str:
        """The namespace and the name of the instance."""
        return f"{self.plan.namespace}/{self.plan.name}"

    def text(self) -> str:
        """Return it in words."""
        who = f"{self.plan.name} (run {self.plan.run}, epoch {self.plan.node_epoch})"
        began = f"{self.began_ns / 1e9:.3f} s"
        if self.ended_ns is None:
            return f"{who} runs on node-{self.host} since {began}"
        return f"{who} ran on node-{self.host} from {began} to {self.ended_ns / 1e9:.3f} s"


class GuestRuns:
    """All runs of all guests; a host that stands still runs none."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._running: dict[tuple[str, int], GuestRun] = {}  # by instance uid and host
        self.newest: deque[GuestRun] = deque(maxlen=_KEPT)  # by their begin
        self.twice: deque[tuple[GuestRun, GuestRun]] = deque(maxlen=_KEPT)  # at once, of one name
        self.begun = 0

    def started(self, host: int, plan: LaunchPlan) -> list[GuestRun]:
        """Note a start; return what runs of the same instance on other hosts, by host."""
        self.begun += 1
        run = GuestRun(plan, host, self._now_ns())
        key = (plan.instance_uid, host)
        same = [r for k, r in self._running.items() if k != key and r.name == run.name]
        self.twice.extend((one, run) for one in same)
        self._running[key] = run
        self.newest.append(run)
        mine = [r for r in same if r.plan.instance_uid == plan.instance_uid]
        return sorted(mine, key=lambda r: r.host)

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """Note an end."""
        run = self._running.pop((plan.instance_uid, host), None)
        if run is not None:
            run.ended_ns = self._now_ns()

    def last(self, vm: str, namespace: str = "default") -> list[GuestRun]:
        """Return the newest run of each instance of a VM, and all that go on, by name."""
        runs = [r for r in self.newest if r.plan.namespace == namespace and vm_of(r.plan) == vm]
        last = {run.plan.name: run for run in runs}
        shown = [r for r in runs if r.ended_ns is None or last[r.plan.name] is r]
        return sorted(shown, key=lambda r: (r.plan.name, r.began_ns, r.host))


def vm_of(plan: LaunchPlan) -> str:
    """Return the name of the VM that an instance is one of."""
    return plan.name.rpartition("-")[0]
