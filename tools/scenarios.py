"""Writes the page of the developer guide that lists the scenarios."""

from __future__ import annotations

import pathlib

from blixard.simulation.scenarios.table import SCENARIOS

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs/developer-guide/scenarios.md"
HEAD = """\
# Scenarios

A scenario puts real nodes into one situation that has hurt somebody, with all oracles watching.
Each draws its details from a seed, and fails when what it is about never happened. The table is
made from the one in `simulation/scenarios/` by `python tools/scenarios.py`.

`fault/N` are the kinds of faults that every replicated system has to survive: 1 crashes around a
save and an apply, 2 around a snapshot, 3 around compaction, 4 unsynced writes lost, 5 damaged
bytes, 6 power loss of many, 7 lost and swapped disks, 8 errors and full disks, 9 pauses, 10
partitions, 11 old and late messages, 12 changing members, 13 restart of all, 14 clocks, 15 slow
nodes, 16 clients that repeat, 17 unlike versions and settings, 18 tiny bounds.

| name | covers | what happens | who was hit |
|---|---|---|---|
"""


def page() -> str:
    """Return the page."""
    rows = [f"| `{s.name}` | {', '.join(s.rows)} | {s.summary} | {s.incident} |" for s in SCENARIOS]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
