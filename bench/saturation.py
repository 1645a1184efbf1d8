"""Both cores saturated by booting guests for ten minutes: nothing healthy is stopped for it.

Guests are restarted without end beside one healthy set; the node states, the leader and the healthy
instances are looked at all the time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from cluster import clusters, report
from guests import apply, instances, is_ready, prebuild, vm, wait


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    lost = changed = stopped = boots = 0
    prebuild()
    with clusters() as (cluster, _):
        first = cluster.nodes[0]
        apply(first, vm("steady", replicas=3))
        wait(lambda: all(map(is_ready, instances(first))) and instances(first), 240, "steady runs")
        steady = {i["metadata"]["uid"]: i["spec"]["run"] for i in instances(first)}
        leader, term = first.status()["leaderName"], first.status()["term"]
        end = time.monotonic() + given.minutes * 60
        load = 0.0
        while time.monotonic() < end:
            boots += 1
            apply(first, vm("busy", replicas=6, restartGeneration=boots))
            for _ in range(10):
                time.sleep(1.0)
                status = first.status()
                lost += sum(1 for n in status["nodes"] if n["status"]["state"] != "Ready")
                changed += (status["leaderName"], status["term"]) != (leader, term)
                leader, term = status["leaderName"], status["term"]
            now = {i["metadata"]["uid"]: i for i in instances(first)}
            for uid, run in steady.items():
                gone = uid not in now or now[uid]["spec"]["run"] != run
                stopped += gone or now[uid]["status"].get("restarts", 0) > 0
            load = os.getloadavg()[0]
            print(
                f"load {load:.1f}: {lost} times not Ready, {changed} leader changes, "
                f"{stopped} healthy stopped",
                flush=True,
            )
    figures = {
        "minutes": given.minutes,
        "nodes_not_ready": lost,
        "leader_changes": changed,
        "healthy_stopped": stopped,
        "load_at_end": round(load, 1),
    }
    bars = {"leader_changes": "0", "healthy_stopped": "0"}
    return report("saturation", figures, bars, ok=not (changed or stopped))


if __name__ == "__main__":
    sys.exit(main())
