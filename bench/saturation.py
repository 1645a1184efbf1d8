"""Both cores saturated by booting guests for ten minutes: nothing healthy is stopped for it.

A guest that has booted is restarted at once, beside one healthy set; how busy the cores are, the
node states, the leader and the healthy instances are looked at all the time.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from cluster import Node, clusters, report
from guests import apply, instances, is_ready, prebuild, vm, wait

BUSY = 8
LOOKS = 5  # one a second, then ready guests are restarted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    lost = stopped = 0
    changes: list[dict[str, Any]] = []
    prebuild()
    with clusters() as (cluster, _):
        first = cluster.nodes[0]
        apply(first, vm("steady", replicas=3))
        wait(lambda: all(map(is_ready, instances(first))) and instances(first), 240, "steady runs")
        steady = {i["metadata"]["uid"]: i["spec"]["run"] for i in instances(first)}
        leader, term = first.status()["leaderName"], first.status()["term"]
        boots = Boots(first)
        began, worked = time.monotonic(), core_seconds()
        end = began + given.minutes * 60
        while time.monotonic() < end:
            boots.again()
            for _ in range(LOOKS):
                time.sleep(1.0)
                status = first.status()
                lost += sum(1 for n in status["nodes"] if n["status"]["state"] != "Ready")
                if (status["leaderName"], status["term"]) == (leader, term):
                    continue
                leader, term = status["leaderName"], status["term"]
                at_s = round(time.monotonic() - began, 1)
                changes.append({"at_s": at_s, "leader": leader, "term": term})
                print(f"leader change after {at_s} s: {leader}, term {term}", flush=True)
            now = {i["metadata"]["uid"]: i for i in instances(first)}
            for uid, run in steady.items():
                gone = uid not in now or now[uid]["spec"]["run"] != run
                stopped += gone or now[uid]["status"].get("restarts", 0) > 0
            busy = [a - b for a, b in zip(core_seconds(), worked, strict=True)]
            percent = round(100 * busy[0] / sum(busy), 1)
            print(
                f"{time.monotonic() - began:.0f} s, {boots.count} boots, cores {percent} % busy: "
                f"{lost} times not Ready, {len(changes)} leader changes, {stopped} healthy stopped",
                flush=True,
            )
    figures = {
        "minutes": given.minutes,
        "nodes_not_ready": lost,
        "leader_changes": len(changes),
        "leader_changes_at": changes,
        "healthy_stopped": stopped,
        "guests_booted": boots.count,
        "cores_busy_percent": percent,
    }
    bars = {"leader_changes": "0", "healthy_stopped": "0", "cores_busy_percent": ">= 90"}
    return report("saturation", figures, bars, ok=not (changes or stopped or percent < 90))


class Boots:
    """VMs of one replica each: whoever is ready boots again."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._generations = itertools.count(1)
        self.count = BUSY
        apply(node, *(vm(f"busy-{number}") for number in range(BUSY)))

    def again(self) -> None:
        ready = [i["spec"]["vm"] for i in instances(self._node) if is_ready(i)]
        names = [name for name in ready if name.startswith("busy-")]
        generation = next(self._generations)
        if names:
            apply(self._node, *(vm(name, restartGeneration=generation) for name in names))
        self.count += len(names)


def core_seconds() -> tuple[int, int]:
    """Return how long the cores have worked and idled since the machine booted, in ticks."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, idle


if __name__ == "__main__":
    sys.exit(main())
