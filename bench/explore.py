"""Leases and fencing over all interleavings of a small model: states, transitions, result.

    python bench/explore.py [--small]

Prints a table and one JSON line; exit code 1 if an order of events breaks a promise.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "src"))

from blixard.simulation.explore.search import FULL, SMALL, explore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    scopes = SMALL if parser.parse_args().small else FULL
    results = []
    for scope in scopes:
        result = explore(scope)
        results.append(result)
        said = result.wrong or ("holds" if result.complete else "holds up to the bound")
        print(
            f"{result.scope:46} {result.states:>9,} states {result.transitions:>10,} transitions "
            f"{result.wall_s:7.1f} s  {said}",
            flush=True,
        )
        for number, label in enumerate(result.way, 1):
            print(f"  {number:>3}  {label}")
    figures = {
        "states": sum(r.states for r in results),
        "transitions": sum(r.transitions for r in results),
        "violations": sum(bool(r.wrong) for r in results),
        "up_to_a_bound": sum(not r.complete for r in results),
        "seconds": round(sum(r.wall_s for r in results), 1),
    }
    ok = not figures["violations"]
    bars = {"violations": "<= 0"}
    print(json.dumps({"bench": "explore", "ok": ok, "figures": figures, "bars": bars}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
