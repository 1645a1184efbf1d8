"""The simulator: speed of the loop, seeds per second, and the same hash in another process.

    python bench/simulation.py [--seeds 500] [--twice 20] [--jobs 2]

Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import random
import subprocess
import sys
import time

SOURCE = str(pathlib.Path(__file__).resolve().parent.parent / "src")
sys.path.insert(0, SOURCE)

from blixard.app.sim import run_all
from blixard.simulation.loop import SimLoop
from blixard.simulation.run import Options

NODES, DURATION_S = 5, 60.0
BARS = {
    "loop_callbacks_per_s": (">=", 100_000),
    "violations": ("<=", 0),
    "minutes_for_500_seeds": ("<=", 8.0),
    "different_hashes": ("<=", 0),
}
AGAIN = (
    "import sys, json; sys.path.insert(0, sys.argv[1]);"
    "from blixard.simulation.run import Options, simulate;"
    "print(json.dumps([simulate(Options(seed=s, nodes=int(sys.argv[2]), "
    "duration_s=float(sys.argv[3]), node=True)).trace_hash "
    "for s in range(1, int(sys.argv[4]) + 1)]))"
)


def loop_speed() -> float:
    """Return callbacks per second with ten tasks that sleep."""
    loop = SimLoop(order=random.Random(1), mode="random")

    async def sleeper(number: int) -> None:
        for _ in range(10_000):
            await asyncio.sleep(0.001 * (number % 7 + 1))

    async def main() -> None:
        await asyncio.gather(*[sleeper(number) for number in range(10)])

    began = time.perf_counter()
    loop.run_until_complete(main())
    return loop.steps / (time.perf_counter() - began)


def hashes(hash_seed: int, seeds: int) -> list[str]:
    """Return the hashes of the first seeds from a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "RUST_BACKTRACE": "0"}
    arguments = [sys.executable, "-c", AGAIN, SOURCE, str(NODES), str(DURATION_S), str(seeds)]
    done = subprocess.run(arguments, env=environment, capture_output=True, check=True)
    return list(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--twice", type=int, default=20, help="seeds whose hashes are compared")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    speed = max(loop_speed() for _ in range(3))
    options = [
        Options(seed=seed, nodes=NODES, duration_s=DURATION_S, node=True)
        for seed in range(1, wanted.seeds + 1)
    ]
    began = time.perf_counter()
    failed, callbacks, core_s = [], 0, 0.0
    for done, report in enumerate(run_all(options, jobs=wanted.jobs), 1):
        callbacks += report.callbacks
        core_s += report.wall_s
        if not report.ok:
            failed.append(report.seed)
            print(
                f"seed {report.seed}: {report.violations[0][:300]}\n  {report.replay}", flush=True
            )
        elif done % 100 == 0:
            print(f"  {done} seeds", file=sys.stderr, flush=True)
    wall_s = time.perf_counter() - began
    different = sum(
        a != b for a, b in zip(*(hashes(salt, wanted.twice) for salt in (0, 4242)), strict=True)
    )
    figures = {
        "loop_callbacks_per_s": round(speed),
        "seeds": wanted.seeds,
        "violations": len(failed),
        "seeds_per_s": round(wanted.seeds / wall_s, 2),
        "minutes_for_500_seeds": round(wall_s / wanted.seeds * 500 / 60, 2),
        "real_time_factor_per_core": round(wanted.seeds * DURATION_S / core_s, 1),
        "callbacks_per_seed": callbacks // wanted.seeds,
        "seeds_run_twice": wanted.twice,
        "different_hashes": different,
    }
    ok = True
    for name, value in figures.items():
        sign, bar = BARS.get(name, ("", None))
        good = bar is None or (value >= bar if sign == ">=" else value <= bar)
        ok = ok and good
        shown = "" if bar is None else f"{sign} {bar}  {'ok' if good else 'MISSED'}"
        print(f"{name:28} {value!s:>12}  {shown}")
    bars = {name: f"{sign} {bar}" for name, (sign, bar) in BARS.items()}
    print(json.dumps({"bench": "simulation", "ok": ok, "figures": figures, "bars": bars}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
