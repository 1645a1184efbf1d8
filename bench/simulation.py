"""The simulator: how fast, how many seeds without a violation, and the same hash each time.

    python bench/simulation.py [--only loop,speed,seeds,twice,hundred,partitions] [--seeds 1000]
    python bench/simulation.py --long 2        # hours: as many seeds as all cores do
                               --first 105001  # to go on where another run ended

Prints a table and one JSON line; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

SOURCE = str(pathlib.Path(__file__).resolve().parent.parent / "src")
sys.path.insert(0, SOURCE)

import msgspec

from blixard.simulation.loop import SimLoop
from blixard.simulation.planning import Fault, Plan
from blixard.simulation.report import Options, Report
from blixard.simulation.run import simulate
from blixard.simulation.scenarios.scale import hundred_nodes

PARTS = ("loop", "speed", "seeds", "twice", "hundred", "partitions")
NODES, DURATION_S = 5, 60.0
SPEED_SEEDS = 20
_CUT_MS, _HEAL_MS, _CUT_RUN_S = 14_000, 29_000, 45.0
BARS = {
    "loop_callbacks_per_s": (">=", 100_000),
    "real_time_factor_3_nodes_10_clients": (">=", 65.0),
    "requests_per_client_and_virtual_s": (">=", 5.0),
    "speed_violations": ("<=", 0),
    "violations": ("<=", 0),
    "minutes_on_2_cores": ("<=", 10.0),
    "different_hashes": ("<=", 0),
    "hundred_violations": ("<=", 0),
    "hundred_converged_s": ("<=", 30.0),
    "partition_runs": (">=", 96),
    "partition_violations": ("<=", 0),
    "long_seeds": (">=", 10_000),
    "long_violations": ("<=", 0),
}
AGAIN = (
    "import sys, json; sys.path.insert(0, sys.argv[1]);"
    "from blixard.simulation.report import Options;"
    "from blixard.simulation.run import simulate;"
    "print(*(simulate(Options(seed=s, nodes=int(sys.argv[2]), duration_s=float(sys.argv[3]), "
    "node=True)).trace_hash for s in range(int(sys.argv[4]), int(sys.argv[5]))), sep='\\n')"
)

Figures = dict[str, Any]


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def objection(report: Report, what: str) -> None:
    say(f"{what}: {report.violations[0][:300]}\n    {report.replay}")


# one row each


def loop_speed(_wanted: argparse.Namespace) -> Figures:
    """Callbacks per second of CPU time with ten tasks that sleep, the best of three."""
    speeds = []
    for _ in range(3):
        loop = SimLoop(order=random.Random(1), mode="random")
        began = time.process_time()
        loop.run_until_complete(_sleepers())
        speeds.append(loop.steps / (time.process_time() - began))
    return {"loop_callbacks_per_s": round(max(speeds))}


async def _sleepers() -> None:
    async def sleeper(number: int) -> None:
        for _ in range(10_000):
            await asyncio.sleep(0.001 * (number % 7 + 1))

    await asyncio.gather(*[sleeper(number) for number in range(10)])


def speed(_wanted: argparse.Namespace) -> Figures:
    """Virtual seconds per second of one core: three nodes, ten clients, everything on.

    All virtual seconds count, as all CPU time does: also those after the nominal duration, in
    which the nodes settle and lose power.
    """
    options = [
        Options(seed=seed, nodes=3, clients=10, duration_s=DURATION_S, node=True)
        for seed in range(1, SPEED_SEEDS + 1)
    ]
    simulate(options[0])
    began = time.process_time()
    reports = [simulate(option) for option in options]
    core_s = time.process_time() - began
    failed = [report for report in reports if not report.ok]
    for report in failed:
        objection(report, f"speed, seed {report.seed}")
    callbacks = sum(report.callbacks for report in reports)
    virtual_s = sum(report.virtual_s for report in reports)
    return {
        "real_time_factor_3_nodes_10_clients": round(virtual_s / core_s, 1),
        "of_the_nominal_duration_alone": round(len(reports) * DURATION_S / core_s, 1),
        "callbacks_per_core_s": round(callbacks / core_s),
        "requests_per_client_and_virtual_s": round(
            sum(report.client_rate for report in reports) / len(reports), 2
        ),
        "speed_violations": len(failed),
    }


def seeds(wanted: argparse.Namespace) -> Figures:
    """Every seed from 1 on, with all faults, on all cores."""
    began = time.perf_counter()
    done, failed, core_s = _run_seeds(range(1, wanted.seeds + 1), wanted.jobs, f"of {wanted.seeds}")
    return {
        "seeds": done,
        "violations": failed,
        "minutes_on_2_cores": round((time.perf_counter() - began) / 60, 2),
        "core_s_per_seed": round(core_s / done, 2),
    }


def long_run(wanted: argparse.Namespace) -> Figures:
    """Seeds beyond those of the other rows, until the time is over."""
    end = time.monotonic() + wanted.long * 3600
    numbers = itertools.takewhile(lambda _: time.monotonic() < end, itertools.count(wanted.first))
    done, failed, core_s = _run_seeds(numbers, wanted.jobs, f"in {wanted.long} h")
    return {
        "long_hours": wanted.long,
        "long_seeds": done,
        "long_violations": failed,
        "core_s_per_seed": round(core_s / max(1, done), 2),
    }


def _one(seed: int) -> tuple[Report, float]:
    """Run a seed; a warning, as of a coroutine that nobody awaited, is a violation too."""
    began = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = simulate(Options(seed=seed, nodes=NODES, duration_s=DURATION_S, node=True))
    core_s = time.process_time() - began
    if caught:
        texts = tuple(f"warning: {warning.message}" for warning in caught)
        report = msgspec.structs.replace(report, ok=False, violations=report.violations + texts)
    return report, core_s


def _run_seeds(numbers: Iterable[int], jobs: int, goal: str) -> tuple[int, int, float]:
    """Return how many ran, how many broke a promise, and the CPU seconds they took."""
    done, failed, core_s = 0, 0, 0.0
    for report, seconds in _each(_one, numbers, jobs):
        done += 1
        core_s += seconds
        if not report.ok:
            failed += 1
            objection(report, f"seed {report.seed}")
        if done % 50 == 0:
            say(f"{done} seeds {goal}, {failed} failed")
    return done, failed, core_s


def _each(
    work: Callable[[Any], Any], items: Iterable[Any], jobs: int, *, ahead: int = 2
) -> Iterator[Any]:
    """Yield the results in order; takes no more of *items* than are about to run."""
    waiting: list[Any] = []
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for item in items:
            waiting.append(pool.apply_async(work, (item,)))
            if len(waiting) > ahead * jobs:
                yield waiting.pop(0).get()
        for result in waiting:
            yield result.get()


def twice(wanted: argparse.Namespace) -> Figures:
    """The same seeds in other processes, with other hashes of strings."""
    different, step = 0, 10
    for first in range(1, wanted.twice + 1, step):
        after = min(first + step, wanted.twice + 1)
        running = [_hashes(salt, first, after) for salt in (0, 4242)]
        outputs = [process.communicate(timeout=3600)[0].split() for process in running]
        assert all(len(output) == after - first for output in outputs)
        different += sum(a != b for a, b in zip(*outputs, strict=True))
        say(f"{after - 1} of {wanted.twice} seeds twice, {different} different")
    return {"seeds_run_twice": wanted.twice, "different_hashes": different}


def _hashes(hash_seed: int, first: int, after: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "RUST_BACKTRACE": "0"}
    numbers = [str(number) for number in (NODES, DURATION_S, first, after)]
    return subprocess.Popen(
        [sys.executable, "-c", AGAIN, SOURCE, *numbers],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def hundred(_wanted: argparse.Namespace) -> Figures:
    """A hundred nodes, a thousand VMs, a rack of ten that dies."""
    began = time.perf_counter()
    found = hundred_nodes(seed=1, progress=say)
    for text in found.violations[:3]:
        say(f"hundred: {text[:300]}")
    return {
        "hundred_violations": len(found.violations),
        "hundred_joined_s": found.joined_s,
        "hundred_vms_ready_s": found.ready_s,
        "hundred_moved_s": found.moved_s,
        "hundred_converged_s": found.converged_s,
        "hundred_wall_s": round(time.perf_counter() - began, 1),
    }


def partitions(wanted: argparse.Namespace) -> Figures:
    """Every subset of five nodes: cut off both ways, and each way alone."""
    subsets = [
        subset for size in range(NODES + 1)
        for subset in itertools.combinations(range(1, NODES + 1), size)
    ]  # fmt: skip
    runs = [(kind, subset) for subset in subsets for kind in ("both", "out only", "in only")]
    failed = 0
    for done, (run, report) in enumerate(_each(_cut, runs, wanted.jobs), 1):
        if not report.ok:
            failed += 1
            objection(report, f"partition {run}")
        if done % 12 == 0:
            say(f"{done} of {len(runs)} partitions, {failed} failed")
    return {"partition_runs": len(runs), "partition_violations": failed}


def _cut(run: tuple[str, tuple[int, ...]]) -> tuple[tuple[str, tuple[int, ...]], Report]:
    """Only what *run* names may pass between the subset and the rest, for half a minute."""
    kind, subset = run
    rest = tuple(number for number in range(1, NODES + 1) if number not in subset)
    fault = {
        "both": Fault(_CUT_MS, "partition", _HEAL_MS - _CUT_MS, subset),
        "out only": Fault(_CUT_MS, "one_way", _HEAL_MS - _CUT_MS, rest),
        "in only": Fault(_CUT_MS, "one_way", _HEAL_MS - _CUT_MS, subset),
    }[kind]
    seed = sum(1 << number for number in subset) + 100 * len(kind)
    options = Options(seed=seed, nodes=NODES, duration_s=_CUT_RUN_S, node=True)
    return run, simulate(options, plan=Plan((fault,), _HEAL_MS))


ROWS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "loop": loop_speed, "speed": speed, "seeds": seeds, "twice": twice, "hundred": hundred,
    "partitions": partitions,
}  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--twice", type=int, default=200, help="seeds whose hashes are compared")
    parser.add_argument("--long", type=float, default=0.0, help="hours of seeds, and nothing else")
    parser.add_argument("--first", type=int, default=100_001, help="first seed of the long run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    wanted.parts = wanted.only.split(",")
    unknown = [part for part in wanted.parts if part not in ROWS]
    if unknown:
        parser.error(f"--only: there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return wanted


def main() -> None:
    wanted = _arguments()
    figures: Figures = {}
    if wanted.long:
        figures = long_run(wanted)
    else:
        for part in wanted.parts:
            say(part)
            figures |= ROWS[part](wanted)
    missed = []
    bars = {name: bar for name, bar in BARS.items() if name in figures}
    for name, value in figures.items():
        sign, bar = bars.get(name, ("", None))
        good = bar is None or (value >= bar if sign == ">=" else value <= bar)
        missed += [] if good else [name]
        shown = "" if bar is None else f"{sign} {bar}  {'ok' if good else 'MISSED'}"
        print(f"{name:36} {value!s:>12}  {shown}")
    texts = {name: f"{sign} {bar}" for name, (sign, bar) in bars.items()}
    print(json.dumps({"bench": "simulation", "ok": not missed, "figures": figures, "bars": texts}))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
