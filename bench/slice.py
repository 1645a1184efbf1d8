"""The whole slice: every bench that needs no long preparation, one after the other."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# Name of the script without ``.py``, and its arguments; each ends with one JSON line.
ROWS: dict[str, tuple[str, ...]] = {
    "writes": (),
    "consensus": (),
    "failover": (),
    "command_line": (),
    "nodes": ("--deaths", "10", "--faults", "20"),
    "saturation": ("--minutes", "10"),
    "simulation": ("--only", "loop,seeds,twice", "--seeds", "500", "--twice", "20"),
}
HERE = Path(__file__).parent


def run(name: str) -> dict[str, Any]:
    """Run one bench, pass its lines on as they come, and return its closing line."""
    script = HERE / f"{name}.py"
    if not script.exists():
        return {"bench": name, "ok": False, "missing": True, "figures": {}, "bars": {}}
    last = ""
    with subprocess.Popen(
        [sys.executable, "-u", str(script), *ROWS[name]], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
            last = line.strip() or last
    try:
        found: dict[str, Any] = json.loads(last)
    except json.JSONDecodeError:
        return {"bench": name, "ok": False, "figures": {}, "bars": {}, "error": last[-300:]}
    return {**found, "ok": bool(found.get("ok")) and process.returncode == 0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=ROWS, help="only this row (repeatable)")
    given = parser.parse_args()
    results = []
    for name in given.only or ROWS:
        print(f"{name}:", flush=True)
        results.append(run(name))
    print(f"{'bench':>14} {'figure':>24} {'measured':>12}  bar")
    for result in results:
        word = "missing" if result.get("missing") else "ok" if result["ok"] else "FAILED"
        print(f"{result['bench']:>14} {word:>24}")
        for name, value in result["figures"].items():
            print(f"{'':>14} {name:>24} {value!s:>12}  {result['bars'].get(name, '')}")
    figures = {result["bench"]: result["figures"] for result in results}
    bars = {result["bench"]: result["bars"] for result in results}
    ok = all(result["ok"] for result in results)
    print(json.dumps({"bench": "slice", "ok": ok, "figures": figures, "bars": bars}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
