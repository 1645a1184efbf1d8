"""``blixard sim scenarios``: the named situations, listed and run."""

from __future__ import annotations

import json
import sys

import click
import msgspec

from blixard.app.sim_seeds import (
    clear_progress,
    in_order,
    seeds_of,
    show_progress,
    show_violations,
)
from blixard.base.errors import EXIT_FAILED, BlixardError
from blixard.cli import tables
from blixard.cli.tree import BlixardCommand
from blixard.simulation.report import Report
from blixard.simulation.scenarios.stage import Scenario
from blixard.simulation.scenarios.table import BY_NAME, SCENARIOS, run_scenario


@click.command(name="scenarios", cls=BlixardCommand)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--seed", type=click.IntRange(min=0), help="Run them with this seed.")
@click.option("--seeds", help="Run them with all seeds from A to B.", metavar="A-B")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--format", "-o", "form", type=click.Choice(["text", "json"]), default="text")
def scenarios_command(
    *, names: tuple[str, ...], seed: int | None, seeds: str | None, jobs: int, form: str
) -> None:
    """List the named scenarios, or run some; exit code 1 if a promise was broken.

    Without a name and a seed they are listed. A NAME is a scenario, or the area before its "/";
    with seeds only, all of them run.
    """
    wanted = _named(names)
    if not names and seed is None and seeds is None:
        print(json.dumps({"scenarios": [_described(s) for s in wanted]}) if form == "json"
              else _listed(wanted))  # fmt: skip
        return
    numbers = range(1, 2) if seed is None and seeds is None else seeds_of(seed, seeds)
    reports = _run([(s.name, number) for s in wanted for number in numbers], jobs, form)
    failed = sum(not report.ok for reports_of in reports.values() for report in reports_of)
    if form == "json":
        print(json.dumps({"ok": not failed, "scenarios": _results(reports)}))
    else:
        print(f"{sum(map(len, reports.values()))} runs of {len(wanted)} scenarios, {failed} failed")
    if failed:
        sys.exit(EXIT_FAILED)


scenarios_command.examples = (
    "blixard sim scenarios",
    "blixard sim scenarios restarts/before-save --seeds 1-20",
    "blixard sim scenarios disks snapshots --seeds 1-5 --jobs 2 --format json",
)


def _named(names: tuple[str, ...]) -> list[Scenario]:
    """Return the scenarios of these names and areas, in the order of the table."""
    areas = {name.partition("/")[0] for name in BY_NAME}
    for name in names:
        if name not in BY_NAME and name not in areas:
            raise BlixardError(
                "NOT_FOUND", f"there is no scenario {name!r}", hint="blixard sim scenarios"
            )
    chosen = set(names)
    return [s for s in SCENARIOS
            if not chosen or s.name in chosen or s.name.partition("/")[0] in chosen]  # fmt: skip


def _listed(scenarios: list[Scenario]) -> str:
    rows = [[s.name, s.summary, s.incident] for s in scenarios]
    return tables.render(("SCENARIO", "WHAT HAPPENS", "INCIDENT"), rows, cells=None).rstrip()


def _described(scenario: Scenario) -> dict[str, object]:
    return {
        "name": scenario.name,
        "summary": scenario.summary,
        "incident": scenario.incident,
        "rows": scenario.rows,
        "nodes": scenario.nodes,
    }


def _play(work: tuple[str, int]) -> Report:
    return run_scenario(*work)


def _run(works: list[tuple[str, int]], jobs: int, form: str) -> dict[str, list[Report]]:
    """Run all; a line of each scenario is printed when its last seed is done."""
    reports: dict[str, list[Report]] = {name: [] for name, _ in works}
    width = max(len(name) for name in reports)
    failed = 0
    for done, ((name, _), report) in enumerate(
        zip(works, in_order(_play, works, jobs=jobs), strict=True), 1
    ):
        reports[name].append(report)
        failed += not report.ok
        show_progress(done, len(works), failed, "runs")
        last = done == len(works) or works[done][0] != name
        if last and form != "json":
            clear_progress()
            _show(name.ljust(width), reports[name])
    return reports


def _show(name: str, reports: list[Report]) -> None:
    bad = [report for report in reports if not report.ok]
    seeds = f"{len(reports)} seeds" if len(reports) > 1 else f"seed {reports[0].seed}"
    said = f"FAILED ({len(bad)})" if bad else "ok"
    wall_s = sum(report.wall_s for report in reports)
    print(f"{name}  {said:<10} {seeds:<10} {wall_s:7.2f} s  {_happened(reports)}")
    for report in bad:
        show_violations(report)


def _happened(reports: list[Report]) -> str:
    """Return what happened over all runs, and how often."""
    counts: dict[str, int] = {}
    for report in reports:
        for what, count in report.faults.items():
            counts[what] = counts.get(what, 0) + count
    return ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))


def _results(reports: dict[str, list[Report]]) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "ok": all(r.ok for r in runs),
            "runs": [msgspec.to_builtins(r) for r in runs],
        }
        for name, runs in reports.items()
    ]
