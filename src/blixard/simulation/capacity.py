"""No node runs more than it has: the guests on a host fit into what its node offers, those of VMs
and those of functions each into their own part.

A reservation counts until the end of its guest is reported, so this holds at every instant.
"""

from __future__ import annotations

from collections.abc import Callable

from blixard.cluster.store import Store
from blixard.functions.shares import memory_of
from blixard.ports.hypervisor import LaunchPlan

Fail = Callable[[str, str], None]
SeenBy = Callable[[int], tuple[Store, str] | None]  # host -> newest state, uid of its node


class Capacity:
    """Counts what runs on each host, and judges it whenever one more starts."""

    def __init__(self, fail: Fail, seen_by: SeenBy) -> None:
        self._fail = fail
        self._seen_by = seen_by
        self._running: dict[int, dict[str, LaunchPlan]] = {}

    def started(self, host: int, plan: LaunchPlan) -> None:
        """The CPUs of an instance run from now on."""
        running = self._running.setdefault(host, {})
        running[plan.instance_uid] = plan
        seen = self._seen_by(host)
        if plan.purpose == "function":
            self._function_started(host, seen)
            return
        running = {uid: one for uid, one in running.items() if one.purpose == "vm"}
        most = offered(*seen) if seen is not None else None
        if most is None:
            return
        vcpus = sum(one.vcpus for one in running.values())
        memory_mib = sum(one.memory_mib for one in running.values())
        if vcpus > most[0] or memory_mib > most[1]:
            names = ", ".join(sorted(one.name for one in running.values()))
            self._fail(
                "capacity",
                f"host {host} runs {vcpus} vCPUs, {memory_mib} MiB of {most[0]:g}, {most[1]:g} "
                f"with {plan.name} (run {plan.run}): {names}",
            )

    def _function_started(self, host: int, seen: tuple[Store, str] | None) -> None:
        node = seen[0].by_uid(seen[1]) if seen is not None else None
        running = [p for p in self._running[host].values() if p.purpose == "function"]
        memory_mib = sum(plan.memory_mib for plan in running)
        if node is not None and memory_mib > memory_of(node):
            text = f"host {host} runs {len(running)} functions with {memory_mib} MiB"
            self._fail("function memory", f"{text} of {memory_of(node)}")

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """They run no longer."""
        self._running.get(host, {}).pop(plan.instance_uid, None)


def offered(store: Store, node_uid: str) -> tuple[float, float] | None:
    """Return the vCPUs and MiB that a node offers with overcommit, None if it is not known."""
    node, config = store.by_uid(node_uid), store.get("ClusterConfig", "", "cluster")
    if node is None or config is None:
        return None
    capacity = node.spec.get("capacity", {})
    return (
        capacity.get("vcpus", 0) * float(config.spec.get("overcommitVcpus", 4.0)),
        capacity.get("memoryMib", 0) * float(config.spec.get("overcommitMemory", 1.0)),
    )
