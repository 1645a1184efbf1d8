"""Plants bugs in our own code, one at a time, and shows which oracle of the simulator objects.

`make mutants` runs all; exit code 1 if one survives. A control runs the same seeds without a bug.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / ".venv" / "mutants"
ENGINE = TARGET / "mutants" / "lib_raft.so"
PAGE = ROOT / "docs" / "developer-guide" / "mutants.md"
BEGIN, END = "<!-- table begins -->", "<!-- table ends -->"
HEAD = (
    "| planted bug | rule | what is wrong | looked for in | oracle | seeds | CPU s |",
    "|---|---|---|---|---|---|---|",
)
ONE_S = 7_200
NOTHING = {
    "rules": [], "what": "", "bias": "", "oracle": "", "seeds": 0, "text": "", "accidents": 0,
    "seconds": 0.0, "control": "",
}  # fmt: skip


def build_engine() -> None:
    """Build the Rust core with its planted bugs, beside the shipped one and never instead of it."""
    command = ["cargo", "build", "--quiet", "--locked", "--profile", "mutants",
               "--features", "mutants", "--target-dir", str(TARGET)]  # fmt: skip
    environment = {
        **os.environ,
        "RUST_BACKTRACE": "0",
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "PYO3_PYTHON": sys.executable,
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run(command, cwd=ROOT / "native", env=environment, check=True, timeout=1_800)


def use_engine() -> None:
    """Let this process have that core as ``blixard._raft``."""
    sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location("blixard._raft", ENGINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["blixard._raft"] = module
    spec.loader.exec_module(module)


def hunt_one(name: str, seeds: int) -> dict[str, Any]:
    """Look for one bug in this process; then run the seeds up to it without the bug."""
    use_engine()
    from tests.simulation.hunting import explored, hunt
    from tests.simulation.planted import MUTANTS

    mutant = next(m for m in MUTANTS if m.name == name)
    if mutant.explored is not None:
        found, control = explored(mutant), ""
    else:
        found = hunt(name, mutant.bias, mutant.plant, seeds=seeds, told=_tell(name))
        clean = hunt(name, mutant.bias, seeds=found.seeds, told=_tell(f"{name}, control"))
        control = clean.text
    return {
        "name": name, "rules": list(mutant.rules), "what": mutant.what, "bias": mutant.bias,
        "oracle": found.oracle, "text": found.text, "seeds": found.seeds,
        "accidents": found.accidents, "seconds": found.seconds, "control": control,
    }  # fmt: skip


def _tell(name: str) -> Callable[[int, object], None]:
    def told(seed: int, _said: object) -> None:
        if seed % 25 == 0:
            print(f"  {name}: {seed} seeds", file=sys.stderr, flush=True)

    return told


def in_process(name: str, seeds: int) -> dict[str, Any]:
    """Run one hunt in a process of its own and return what it found."""
    command = [sys.executable, __file__, "--hunt", name, "--seeds", str(seeds)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=ONE_S, check=False,
                          env={**os.environ, "RUST_BACKTRACE": "0"})  # fmt: skip
    if done.returncode:
        return {**NOTHING, "name": name, "control": "the hunt failed"}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def line(row: dict[str, Any]) -> str:
    """Return one row for the terminal."""
    verdict = row["oracle"] or "SURVIVED"
    trouble = f"  CONTROL: {row['control']}" if row["control"] else ""
    rules = " ".join(row["rules"])
    return (
        f"{row['name']:34} {rules:12} {verdict:20} {row['seeds']:5} seeds "
        f"{row['seconds']:8.2f} s{trouble}"
    )


def page_row(row: dict[str, Any]) -> str:
    """Return one row of the page."""
    oracle = row["oracle"] or ("**none**" if row["seeds"] else "not run")
    if row["control"]:
        oracle += "; a control objects"
    return (
        f"| `{row['name']}` | {' '.join(row['rules'])} | {row['what']} | {row['bias']} "
        f"| {oracle} | {row['seeds']} | {row['seconds']:.1f} |"
    )


def table_of(page: str) -> dict[str, str]:
    """Return the rows that a page holds, by the name of the bug."""
    table = page.split(BEGIN)[1].split(END, maxsplit=1)[0]
    return {row.split("`")[1]: row for row in table.splitlines() if row.startswith("| `")}


def write_page(row: dict[str, Any], order: list[dict[str, Any]]) -> None:
    """Put one row into the page at once, so that what was measured outlives an interruption.

    *order* has a row for each planted bug that says "not run"; rows of earlier runs stay.
    """
    page = PAGE.read_text()
    known = {**{r["name"]: page_row(r) for r in order}, **table_of(page)}
    known[row["name"]] = page_row(row)
    head, rest = page.split(BEGIN)
    table = "\n".join([*HEAD, *(known[r["name"]] for r in order)])
    PAGE.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}")


def empty_row(mutant: Any) -> dict[str, Any]:
    """Return the row of a bug that was not looked for."""
    return {
        **NOTHING, "name": mutant.name, "rules": list(mutant.rules), "what": mutant.what,
        "bias": mutant.bias,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]], began: float) -> dict[str, Any]:
    """Return the figures of a run."""
    survivors = [row["name"] for row in rows if not row["oracle"]]
    return {
        "bench": "mutants", "planted": len(rows), "caught": len(rows) - len(survivors),
        "survivors": survivors,
        "controls_with_violations": [row["name"] for row in rows if row["control"]],
        "seeds_max": max(row["seeds"] for row in rows),
        "cpu_s": round(sum(row["seconds"] for row in rows), 1),
        "wall_s": round(time.monotonic() - began, 1),
    }  # fmt: skip


def run_all(arguments: argparse.Namespace) -> int:
    """Hunt them all, show and note each as it ends, and the sum."""
    build_engine()
    sys.path.insert(0, str(ROOT))
    from tests.simulation.planted import MUTANTS

    names = [m.name for m in MUTANTS if not arguments.only or m.name in arguments.only]
    unknown = set(arguments.only) - set(names)
    if unknown:
        print(f"no planted bug is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    began, order, rows = time.monotonic(), [empty_row(m) for m in MUTANTS], []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        hunts = [pool.submit(in_process, name, arguments.seeds) for name in names]
        for hunt in as_completed(hunts):
            rows.append(hunt.result())
            print(f"[{len(rows)}/{len(names)}] {line(rows[-1])}", flush=True)
            if arguments.write:
                write_page(rows[-1], order)
    figures = summary(rows, began)
    survivors = figures["survivors"]
    print(f"\n{figures['caught']} of {len(rows)} caught by an oracle", end="")
    print(f"; survivors: {', '.join(survivors)}" if survivors else "")
    print(json.dumps(figures))
    return 1 if survivors or figures["controls_with_violations"] else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=2_000, help="give up after so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help="write the table of the page")
    parser.add_argument("--hunt", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hunt:
        print(json.dumps(hunt_one(arguments.hunt, arguments.seeds)))
        return 0
    return run_all(arguments)


if __name__ == "__main__":
    sys.exit(main())
