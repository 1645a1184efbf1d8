"""Durable writes of a 256-byte value over HTTP/JSON and TLS, three nodes: ours beside etcd.

The same generator (wrk) loads both, in turns, within one run: first the leader of each system, then
a follower of each, which has to forward. The same bars hold for both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import load
from cluster import Cluster, EtcdCluster, clusters, report

BAR_P50_MS = 10.0
BAR_RATE_SHARE = 0.3
BAR_P99_FACTOR = 4.0
SIZE = 256
KEYS = 1000


def measure(ours: Cluster, peer: EtcdCluster, rounds: int, seconds: float, target: str) -> Any:
    """Load both in turns; print each round and return the rows by system and clients."""
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    scripts = {
        "blixard": load.script("blixard", size=SIZE, keys=KEYS, api_key=ours.key),
        "etcd": load.script("etcd", size=SIZE, keys=KEYS),
    }
    urls = {"blixard": _pick(ours, target), "etcd": _pick(peer, target)}
    print(f"{'system':>8} {'clients':>8} {'writes/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
    for _ in range(rounds):
        for clients in (1, 64):
            for system in ("blixard", "etcd"):
                row = load.run(urls[system], scripts[system], clients=clients, seconds=seconds)
                rows.setdefault((system, clients), []).append(row)
                print(
                    f"{system:>8} {clients:>8} {row['rate']:>9.0f} {row['p50_ms']:>8.2f} "
                    f"{row['p99_ms']:>8.2f} {row['errors']:>7.0f}",
                    flush=True,
                )
    return rows


def _pick(system: Cluster | EtcdCluster, target: str) -> str:
    leader = system.leader()
    if target == "leader":
        return leader.url
    return next(node.url for node in system.nodes if node is not leader)


def judge(rows: Any, prefix: str) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Return figures, bars and whether all bars are met."""
    figures: dict[str, Any] = {}
    for (system, clients), found in rows.items():
        for name in ("rate", "p50_ms", "p99_ms"):
            middle = statistics.median(row[name] for row in found)
            figures[f"{system}_{clients}_{name}"] = round(middle, 2)
        figures[f"{system}_{clients}_errors"] = sum(row["errors"] for row in found)
    figures["share_64"] = round(figures["blixard_64_rate"] / figures["etcd_64_rate"], 3)
    figures["p99_factor_64"] = round(figures["blixard_64_p99_ms"] / figures["etcd_64_p99_ms"], 2)
    bars = {
        "blixard_1_p50_ms": f"< {BAR_P50_MS}",
        "share_64": f">= {BAR_RATE_SHARE}",
        "p99_factor_64": f"<= {BAR_P99_FACTOR}",
        "blixard_64_errors": 0,
    }
    ok = (
        figures["blixard_1_p50_ms"] < BAR_P50_MS
        and figures["share_64"] >= BAR_RATE_SHARE
        and figures["p99_factor_64"] <= BAR_P99_FACTOR
        and not any(figures[f"{s}_{c}_errors"] for s, c in rows)
    )
    return _named(figures, prefix), _named(bars, prefix), ok


def _named(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    bars: dict[str, Any] = {}
    good = True
    with clusters(etcd=True) as (ours, peer):
        assert peer is not None
        for target, prefix in (("leader", ""), ("follower", "forwarded_")):
            print(f"to the {target}:")
            rows = measure(ours, peer, given.rounds, given.seconds, target)
            found, wanted, ok = judge(rows, prefix)
            figures, bars, good = figures | found, bars | wanted, good and ok
    for name, bar in bars.items():
        print(f"{name}: {figures.get(name, 0)} (bar {bar})")
    return report("writes", figures, bars, ok=good)


if __name__ == "__main__":
    sys.exit(main())
