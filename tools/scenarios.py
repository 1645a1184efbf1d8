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

`complaint/N` are what users of such systems complain about: 1 recovery by files edited by hand, 2 a
change of nodes that loses the quorum, 3 a restart of all that elects nobody, 4 full disks, 5 a
leader whose disk hangs, 6 slow disks and endless elections, 7 clocks that are set, 8 a leader that
wakes up and acts, 9 margins that a pause beats, 10 healthy guests stopped with the control plane,
11 guests restarted after a leader change, 12 snapshots that the leader cannot load, 13 growth
without a bound, 14 a removed node that disturbs, 15 silent divergence, 16 errors that hide their
cause, 17 calls that hang, 18 locks without fencing tokens. `SIM-N` are simulations that the
product was asked for: VM operations at random, under chaos, and for a month; the command line;
calls of functions; storage that fails. `STO-N` are what was asked of storage itself: 9 its quorum
protects what is stored, 37 nothing is left behind and copies are kept, 40 it agrees with the VMs
across partitions.

| name | covers | what happens | who was hit |
|---|---|---|---|
"""


def page() -> str:
    """Return the page."""
    rows = [f"| `{s.name}` | {', '.join(s.rows)} | {s.summary} | {s.incident} |" for s in SCENARIOS]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
