"""How long whole processes of the command line take: help, and a list from a running cluster."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

from cluster import clusters, report

BARS_MS = {"help_ms": 80.0, "vm_list_ms": 150.0, "vm_list_tls_ms": 150.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in BARS_MS}
    with clusters() as (ours, _):
        node = ours.nodes[0]
        ca_file = str(node.data / "pki" / "ca.crt")
        key_file = ours.place / "bench.key"
        key_file.touch(mode=0o600)
        key_file.write_text(ours.key)
        over_tls = ["--address", node.url, "--key-file", str(key_file)]
        commands = {
            "help_ms": ["--help"],
            "vm_list_ms": ["--address", str(node.socket), "vm", "list"],
            "vm_list_tls_ms": [*over_tls, "vm", "list"],
        }
        env = {**node.env, "BLIXARD_CA_FILE": ca_file}
        for _ in range(given.rounds):
            for name, words in commands.items():
                times[name].append(_timed([node.program, *words], env))
    figures: dict[str, Any] = {}
    print(f"{'command':>16} {'median':>8} {'max':>8} {'bar':>6}")
    for name, found in times.items():
        figures[name] = round(statistics.median(found), 1)
        print(f"{name:>16} {figures[name]:>8.1f} {max(found):>8.1f} {BARS_MS[name]:>6.0f}")
    ok = all(figures[name] < bar for name, bar in BARS_MS.items())
    bars = {name: f"< {bar}" for name, bar in BARS_MS.items()}
    return report("command_line", figures, bars, ok=ok)


def _timed(command: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    elapsed_ms = (time.perf_counter() - started) * 1000
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
    return elapsed_ms


if __name__ == "__main__":
    sys.exit(main())
