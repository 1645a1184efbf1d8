"""Nothing healthy is stopped: who ends a running instance needs a reason.

A reason is whatever the newest replicated state says, an ended lease or epoch, and a fault of the
guest itself. What changed a moment ago is none that counts for or against: nodes learn late.
"""

from __future__ import annotations

from collections.abc import Callable

from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.consensus.config import StateMachine
from blixard.node.node import Node
from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.environment import SimEnvironment

_SETTLED_NS = 10_000_000_000
_RENEWED_NS = 100_000_000  # a lease that was renewed just now: its guard may not have heard
_WANTED = (
    "desired", "node", "nodeEpoch", "run", "vcpus", "memoryMib", "recipe", "restartGeneration",
)  # fmt: skip

Fail = Callable[[str, str], None]


class Stops:
    """Knows the nodes that run on the hosts, and the newest state that any of them has applied."""

    def __init__(self, fail: Fail, now_ns: Callable[[], int]) -> None:
        self._fail = fail
        self._now_ns = now_ns
        self._nodes: dict[int, tuple[Node, SimEnvironment]] = {}
        self._renewed_ns: dict[int, int] = {}
        self._newest: ClusterMachine | None = None
        self._revisions: object = None
        self._since: dict[str, tuple[tuple[object, ...], int]] = {}  # uid -> what is wanted, when
        self.judged = 0  # ends of running instances

    def watch(self, host: int, node: Node, env: SimEnvironment) -> None:
        """Know the node that starts on a host, and each renewal of its lease."""
        lease = node.link.authority.lease
        granted = lease.granted
        self._nodes[host] = (node, env)

        def renewed(epoch: int, sent_ns: int) -> None:
            granted(epoch, sent_ns)
            self._renewed_ns[host] = self._now_ns()

        lease.granted = renewed  # type: ignore[method-assign]

    def seen_by(self, host: int) -> tuple[Store, str] | None:
        """Return the newest state and the uid of a host's node, None if there is none yet."""
        if host not in self._nodes or self._newest is None:
            return None
        return self._newest.store, self._nodes[host][0].identity.uid

    def applied(self, machine: StateMachine) -> None:
        """A machine is the first to apply an entry."""
        if not isinstance(machine, ClusterMachine):
            return
        self._newest = machine
        revisions = machine.store.kind_revisions(("Instance",))
        if revisions == self._revisions:
            return
        self._revisions = revisions
        old, self._since = self._since, {}
        for instance in machine.store.list("Instance"):
            uid, wanted = instance.metadata.uid, _wanted(instance)
            known = old.get(uid)
            since = known[1] if known is not None and known[0] == wanted else self._now_ns()
            self._since[uid] = (wanted, since)

    def stopped(self, host: int, plan: LaunchPlan, *, ailing: bool, by_guard: bool) -> None:
        """The guard, or else the daemon, ends a running instance."""
        self.judged += 1
        if ailing or not self._healthy(host, plan):
            return
        who = "guard" if by_guard else "daemon"
        self._fail("healthy", f"the {who} of host {host} ends {plan.name} (run {plan.run})")

    def _healthy(self, host: int, plan: LaunchPlan) -> bool:
        """Tell whether nothing speaks for an end: its place is settled, its node's lease valid."""
        if host not in self._nodes or self._newest is None:
            return False
        node, env = self._nodes[host]
        store, lease = self._newest.store, node.link.authority.lease
        quiet_ns = self._now_ns() - self._renewed_ns.get(host, self._now_ns())
        if not env.process.alive or env.process.paused or quiet_ns < _RENEWED_NS:
            return False
        instance = store.by_uid(plan.instance_uid)
        own = store.by_uid(node.identity.uid)
        if instance is None or own is None or own.status.get("state") != "Ready":
            return False
        since_ns = self._since.get(plan.instance_uid, ((), self._now_ns()))[1]
        spec, epoch = instance.spec, own.status.get("epoch")
        return (
            self._now_ns() - since_ns >= _SETTLED_NS
            and lease.valid(env.boottime_ns())
            and spec.get("node") == node.identity.uid
            and spec.get("desired", "Running") == "Running"
            and spec.get("run") == plan.run
            and lease.epoch == epoch == spec.get("nodeEpoch")
        )


def _wanted(instance: Resource) -> tuple[object, ...]:
    return tuple(instance.spec.get(name) for name in _WANTED)
