"""``blixard sim explore``: leases and fencing over all orders of events of a small model."""

from __future__ import annotations

import sys

import click

from blixard.base.errors import EXIT_FAILED
from blixard.cli.tree import BlixardCommand
from blixard.simulation.explore.search import FULL, SMALL, Result, explore


@click.command(name="explore", cls=BlixardCommand)
@click.option("--small", is_flag=True, help="Only what takes seconds.")
def explore_command(*, small: bool) -> None:
    """Try every order of events of two nodes, a leader and a guard; exit code 1 if one is wrong.

    The model runs the decisions of the real node: who may start, who is lost, when a guard kills.
    """
    results = []
    for scope in SMALL if small else FULL:
        result = explore(scope, progress=_progress)
        results.append(result)
        _show(result)
    states, transitions = sum(r.states for r in results), sum(r.transitions for r in results)
    wrong = sum(bool(r.wrong) for r in results)
    print(f"{states:,} states, {transitions:,} transitions, {wrong} broken promises")
    if wrong:
        sys.exit(EXIT_FAILED)


explore_command.examples = ("blixard sim explore --small",)


def _progress(states: int, waiting: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {states:,} states, {waiting:,} wait", end="", file=sys.stderr, flush=True)


def _show(result: Result) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    said = result.wrong or ("holds" if result.complete else "holds up to the bound on states")
    print(f"{result.scope}: {result.states:,} states, {result.wall_s:.1f} s: {said}")
    for number, label in enumerate(result.way, 1):
        print(f"  {number:>3}  {label}")
