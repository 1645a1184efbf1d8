"""Nodes that die, daemons that die or stop: replicas elsewhere, and never two of one instance.

Phases after a node's death: detect and fence (the node is Lost in its next epoch), place, start,
ready. A daemon alone is killed, or stopped for 20 s, with its guests left alive; observers in every
node's namespace ask the instance's address all the time and note which boot of it answers.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from typing import Any

from cluster import Cluster, Node, clusters, report
from guests import (
    Observers,
    apply,
    hypervisors,
    instance,
    instances,
    is_ready,
    prebuild,
    state_of,
    vm,
    wait,
)

BAR_REPLICA_S = 15.0
BAR_MEMORY_MB = 120.0
START_S, MOVE_S, PAUSE_S = 240.0, 120.0, 20.0


def node_named(cluster: Cluster, name: str) -> Node:
    """Return the node of that name."""
    return next(node for node in cluster.nodes if node.name == name)


def asked(cluster: Cluster, *, other_than: Node) -> Node:
    """Return a living node to ask."""
    return next(n for n in cluster.nodes if n is not other_than and n.alive)


def bring_back(victim: Node, ask: Node) -> None:
    """Start a dead node again and wait until it is Ready."""
    if not victim.alive:
        victim.start()
    wait(lambda: state_of(ask, victim.name) == "Ready", 60, f"{victim.name} is back")


def node_death(cluster: Cluster) -> dict[str, float]:
    """Kill the node of web-1, daemon and guests; return seconds since then of each phase."""
    ask = cluster.nodes[0]
    before = instance(ask, "web-1")
    victim = node_named(cluster, before["spec"]["nodeName"])
    ask = asked(cluster, other_than=victim)
    killed = time.monotonic()
    victim.kill()
    victim.kill_guard()
    lost = wait(lambda: state_of(ask, victim.name) == "Lost", MOVE_S, "the node is lost")

    def moved() -> bool:
        return bool(instance(ask, "web-1")["spec"]["nodeName"] not in ("", victim.name))

    def started() -> bool:
        return instance(ask, "web-1")["status"]["phase"] in ("Starting", "Running")

    placed = wait(moved, MOVE_S, "web-1 is placed elsewhere")
    launched = wait(started, MOVE_S, "web-1 starts")
    ready = wait(lambda: is_ready(instance(ask, "web-1")), MOVE_S, "web-1 is ready")
    bring_back(victim, ask)
    times = {"detect+fence": lost, "place": placed, "start": launched, "ready": ready}
    return {name: round(at - killed, 2) for name, at in times.items()}


def daemon_fault(cluster: Cluster, *, stop: bool) -> tuple[int, int, int]:
    """Kill or stop the daemon of web-1; return overlaps, most processes seen, stopped healthy."""
    ask = cluster.nodes[0]
    before = instance(ask, "web-1")
    victim = node_named(cluster, before["spec"]["nodeName"])
    ask = asked(cluster, other_than=victim)
    elsewhere = healthy_elsewhere(ask, victim.name)
    observers = Observers(cluster, before["spec"]["ip"])
    most = 0
    try:
        time.sleep(1.0)
        victim.pause() if stop else victim.kill()
        end = time.monotonic() + PAUSE_S
        while time.monotonic() < end:
            most = max(most, hypervisors(cluster, "web-1"))
            time.sleep(0.1)
        victim.resume() if stop else victim.start()
        bring_back(victim, ask)
        wait(lambda: is_ready(instance(ask, "web-1")), MOVE_S, "web-1 is ready again")
        time.sleep(2.0)
    finally:
        observers.close()
    after = healthy_elsewhere(ask, victim.name)
    stopped = sum(1 for uid, run in elsewhere.items() if after.get(uid) != run)
    return len(observers.overlaps()), most, stopped


def healthy_elsewhere(ask: Node, victim: str) -> dict[str, tuple[int, int]]:
    """Return run and restarts of every ready instance on other nodes."""
    return {
        item["metadata"]["uid"]: (item["spec"]["run"], item["status"].get("restarts", 0))
        for item in instances(ask)
        if is_ready(item) and item["spec"]["nodeName"] != victim
    }


def memory_mb(cluster: Cluster) -> float:
    """Return the largest resident memory of the daemons."""
    sizes = []
    for node in cluster.nodes:
        with open(f"/proc/{node.pid}/status") as file:
            line = next(line for line in file if line.startswith("VmRSS"))
        sizes.append(int(line.split()[1]) / 1024)
    return max(sizes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=10)
    parser.add_argument("--faults", type=int, default=20, help="rounds of each daemon fault")
    given = parser.parse_args()
    deaths: list[dict[str, float]] = []
    faults: dict[str, list[tuple[int, int, int]]] = {"killed": [], "stopped": []}
    prebuild()
    with clusters() as (cluster, _):
        apply(cluster.nodes[0], vm("web", replicas=1), vm("other", replicas=4))
        wait(lambda: all_ready(cluster.nodes[0], 5), START_S, "five guests are ready")
        memory = memory_mb(cluster)
        print(f"daemon with 5 VMs in the cluster: {memory:.0f} MB", flush=True)
        for number in range(given.deaths):
            deaths.append(node_death(cluster))
            print(f"node death {number + 1} of {given.deaths}: {phases(deaths[-1])}", flush=True)
            settle(cluster)
        for word, rows in faults.items():
            for number in range(given.faults):
                rows.append(daemon_fault(cluster, stop=word == "stopped"))
                overlaps, most, stopped = rows[-1]
                print(
                    f"daemon {word} {number + 1} of {given.faults}: {overlaps} overlaps, at most "
                    f"{most} processes, {stopped} healthy elsewhere stopped",
                    flush=True,
                )
                settle(cluster)
    return conclude(deaths, faults, memory)


def phases(times: dict[str, float]) -> str:
    """Return what each phase took, and when it was over."""
    took, before = [], 0.0
    for name, at in times.items():
        took.append(f"{name} {at - before:.2f} s")
        before = at
    return f"{', '.join(took)}; in all {before:.2f} s"


def all_ready(node: Node, count: int) -> bool:
    """Tell whether that many instances, and all there are, are ready."""
    found = instances(node)
    return len(found) == count and all(map(is_ready, found))


def settle(cluster: Cluster) -> None:
    """Wait until five instances are ready again and a leader is known."""
    with contextlib.suppress(RuntimeError):
        wait(lambda: all_ready(cluster.nodes[0], 5), START_S, "all guests are ready again")
    cluster.leader()


def conclude(
    deaths: list[dict[str, float]],
    faults: dict[str, list[tuple[int, int, int]]],
    memory: float,
) -> int:
    """Print the table and the closing line."""
    figures: dict[str, Any] = {"daemon_memory_mb": round(memory, 1)}
    for phase in deaths[0] if deaths else ():
        figures[f"node_death_{phase}_median_s"] = statistics.median(d[phase] for d in deaths)
    figures["node_death_ready_max_s"] = max((d["ready"] for d in deaths), default=0.0)
    for word, rows in faults.items():
        figures[f"daemon_{word}_rounds"] = len(rows)
        figures[f"daemon_{word}_two_copies"] = sum(row[0] for row in rows)
        figures[f"daemon_{word}_most_processes"] = max((row[1] for row in rows), default=0)
        figures[f"daemon_{word}_healthy_stopped"] = sum(row[2] for row in rows)
    bars = {
        "node_death_ready_median_s": f"< {BAR_REPLICA_S}",
        "daemon_memory_mb": f"< {BAR_MEMORY_MB}",
        **{f"daemon_{w}_two_copies": "0" for w in faults},
        **{f"daemon_{w}_healthy_stopped": "0" for w in faults},
    }
    zero = [k for k, bar in bars.items() if bar == "0"]
    ok = (
        figures.get("node_death_ready_median_s", 0) < BAR_REPLICA_S
        and figures["daemon_memory_mb"] < BAR_MEMORY_MB
        and all(figures[key] == 0 for key in zero)
    )
    for name, value in figures.items():
        print(f"{name:>40} {value!s:>10}  {bars.get(name, '')}")
    return report("nodes", figures, bars, ok=ok)


if __name__ == "__main__":
    sys.exit(main())
