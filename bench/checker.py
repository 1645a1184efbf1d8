"""The linearizability checker: recorded verdicts, brute force, planted faults, speed.

    python bench/checker.py [--histories DIRECTORY] [--operations 3]

The directory holds ``verdicts.json`` and ``jepsen/*.log``; by default ``shared/data/porcupine``
beside the repository or above it. The peer is brute force: every order tried. Prints a table and
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import msgspec

from blixard.simulation.histories import (
    good_history,
    judge_by_force,
    random_history,
    small_histories,
)
from blixard.simulation.linearizability import check
from blixard.simulation.models import parse_jepsen

RECORDED = "shared/data/porcupine"
BARS: dict[str, tuple[str, float]] = {
    "recorded_right": (">=", 50),
    "recorded_s": ("<=", 10.0),
    "small_disagree": ("<=", 0),
    "random_disagree": ("<=", 0),
    "good_refused": ("<=", 0),
    "mutants_missed": ("<=", 0),
    "concurrent_missed": ("<=", 0),
}


def recorded(directory: pathlib.Path | None) -> dict[str, float]:
    """Judge the recorded histories; nothing where they are absent."""
    places = [directory] if directory else [parent / RECORDED for parent in ROOT.parents]
    found = [place for place in places if (place / "verdicts.json").exists()]
    if not found:
        print("recorded histories: absent, skipped")
        return {}
    known = json.loads((found[0] / "verdicts.json").read_text())
    began, right, slowest = time.perf_counter(), 0, (0.0, "")
    for name, good in known.items():
        history = parse_jepsen((found[0] / "jepsen" / name).read_text())
        start = time.perf_counter()
        verdict = check(history)
        slowest = max(slowest, (time.perf_counter() - start, name))
        right += (verdict.good, verdict.bad) == (good, not good)
    print(f"slowest recorded history: {slowest[1]} in {slowest[0]:.2f} s")
    total = round(time.perf_counter() - began, 2)
    return {"recorded": len(known), "recorded_right": right, "recorded_s": total}


def against_force(operations: int) -> dict[str, float]:
    """Judge all small histories, and many random ones, by both; compare verdicts and times."""
    figures: dict[str, float] = {}
    draw = random.Random(1)
    small = (h for n in range(1, operations + 1) for h in small_histories(n))
    many = (random_history(draw, 4 + n % 4) for n in range(20_000))
    for name, histories in (("small", small), ("random", many)):
        count = disagree = bad = 0
        ours = force = 0.0
        for history in histories:
            start = time.perf_counter()
            verdict = check(history)
            middle = time.perf_counter()
            by_force = judge_by_force(history)
            force += time.perf_counter() - middle
            ours += middle - start
            count += 1
            bad += not by_force
            disagree += (verdict.good, verdict.bad) != (by_force, not by_force)
        figures |= {
            f"{name}_histories": count, f"{name}_bad": bad, f"{name}_disagree": disagree,
            f"{name}_s": round(ours, 2), f"{name}_brute_force_s": round(force, 2),
        }  # fmt: skip
    draw, missed = random.Random(2), 0
    for size in (8, 12, 16):
        history = good_history(draw, size, clients=size, unknown=0.2)
        wrong = [*history[:-1], msgspec.structs.replace(
            history[-1], kind="read", ended=10**6, result=-5)]  # fmt: skip
        start = time.perf_counter()
        missed += not check(wrong).bad
        middle = time.perf_counter()
        judge_by_force(wrong) if size < 12 else None
        after = time.perf_counter()
        figures[f"concurrent_{size}_ms"] = round((middle - start) * 1000, 2)
        if size < 12:
            figures[f"concurrent_{size}_brute_force_ms"] = round((after - middle) * 1000, 2)
    return figures | {"concurrent_missed": missed}


def planted() -> dict[str, float]:
    """Long histories right by construction, then each with one read changed."""
    draw = random.Random(3)
    refused = missed = operations = 0
    spent = 0.0
    for _ in range(20):
        history = good_history(draw, 300, clients=5, unknown=0.005)
        start = time.perf_counter()
        refused += not check(history).good
        spent += time.perf_counter() - start
        operations += len(history)
        reads = [n for n, o in enumerate(history) if o.kind == "read" and o.ended is not None]
        for place in draw.sample(reads, 3):
            wrong = list(history)
            wrong[place] = msgspec.structs.replace(wrong[place], result=-9)
            missed += not check(wrong).bad
    return {
        "good_refused": refused, "mutants_missed": missed,
        "operations_per_s": round(operations / spent),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=pathlib.Path)
    parser.add_argument("--operations", type=int, default=3)
    given = parser.parse_args()
    figures = recorded(given.histories) | against_force(given.operations) | planted()
    ok = True
    for name, value in figures.items():
        sign, bar = BARS.get(name, ("", 0.0))
        good = not sign or (value >= bar if sign == ">=" else value <= bar)
        ok = ok and good
        print(f"{name:32} {value!s:>12}  {f'{sign} {bar:g}' if sign else '':8} "
              f"{'' if good else 'MISSED'}")  # fmt: skip
    bars = {name: f"{sign} {bar:g}" for name, (sign, bar) in BARS.items()}
    print(json.dumps({"bench": "checker", "ok": ok, "figures": figures, "bars": bars}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
