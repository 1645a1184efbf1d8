"""Both cores saturated by booting guests for ten minutes: nothing healthy is stopped for it.

Guests are restarted without end beside one healthy set; the node states, the leader and the healthy
instances are looked at all the time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from cluster import clusters, report
from guests import apply, instances, is_ready, prebuild, vm, wait


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    lost = stopped = boots = 0
    changes: list[dict[str, Any]] = []
    prebuild()
    with clusters() as (cluster, _):
        first = cluster.nodes[0]
        apply(first, vm("steady", replicas=3))
        wait(lambda: all(map(is_ready, instances(first))) and instances(first), 240, "steady runs")
        steady = {i["metadata"]["uid"]: i["spec"]["run"] for i in instances(first)}
        leader, term = first.status()["leaderName"], first.status()["term"]
        began = time.monotonic()
        end = began + given.minutes * 60
        load = 0.0
        while time.monotonic() < end:
            boots += 1
            apply(first, vm("busy", replicas=6, restartGeneration=boots))
            for _ in range(10):
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
            load = os.getloadavg()[0]
            print(
                f"{time.monotonic() - began:.0f} s, load {load:.1f}: {lost} times not Ready, "
                f"{len(changes)} leader changes, {stopped} healthy stopped",
                flush=True,
            )
    figures = {
        "minutes": given.minutes,
        "nodes_not_ready": lost,
        "leader_changes": len(changes),
        "leader_changes_at": changes,
        "healthy_stopped": stopped,
        "load_at_end": round(load, 1),
    }
    bars = {"leader_changes": "0", "healthy_stopped": "0"}
    return report("saturation", figures, bars, ok=not (changes or stopped))


if __name__ == "__main__":
    sys.exit(main())
