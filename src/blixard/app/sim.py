"""``blixard sim``: run the cluster inside the deterministic simulator."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import click
import msgspec

from blixard.app.sim_explore import explore_command
from blixard.app.sim_replay import replay_command, report_command, shrink_command
from blixard.app.sim_scenarios import scenarios_command
from blixard.app.sim_seeds import (
    clear_progress,
    in_order,
    seeds_of,
    show_progress,
    show_violations,
)
from blixard.app.sim_whatif import document, play, shown
from blixard.base.errors import EXIT_FAILED
from blixard.base.units import parse_duration_s
from blixard.cli.tree import BlixardCommand
from blixard.simulation.report import Options, Report
from blixard.simulation.run import simulate

_WATCHED_MAX_S = 24 * 3600


@click.group(name="sim")
def sim() -> None:
    """Run the cluster inside a deterministic simulator.

    Real nodes run in virtual time on simulated disks, networks and hypervisors, all of it drawn
    from one seed. The same seed gives the same run, event by event.
    """


for command in (
    explore_command, replay_command, report_command, scenarios_command, shrink_command,
):  # fmt: skip
    sim.add_command(command)


@sim.command(cls=BlixardCommand)
@click.option("--seed", type=click.IntRange(min=0), help="Run this seed.")
@click.option("--seeds", help="Run all seeds from A to B.", metavar="A-B")
@click.option("--nodes", type=click.Choice(["3", "5"]), default="5", show_default=True)
@click.option("--duration", default="60s", show_default=True, help="Virtual time of each run.")
@click.option("--clients", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option(
    "--only",
    type=click.Choice(["node", "raft"]),
    default="node",
    show_default=True,
    help="The whole node, or consensus alone.",
)
@click.option(
    "--from-snapshot",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Ask what happens to the cluster exported to FILE, with --kill.",
)
@click.option("--kill", default="", metavar="NODE,...", help="The nodes that die.")
@click.option(
    "--for",
    "watched",
    default="5m",
    show_default=True,
    help="How long to watch after the nodes died.",
)
@click.option("--format", "-o", "form", type=click.Choice(["text", "json"]), default="text")
def run(
    *,
    from_snapshot: str | None,
    kill: str,
    watched: str,
    seed: int | None,
    seeds: str | None,
    nodes: str,
    duration: str,
    clients: int,
    jobs: int,
    only: str,
    form: str,
) -> None:
    """Run one seed or many; exit code 1 if a promise was broken.

    With --from-snapshot: load an exported cluster instead, let the nodes of --kill die, and say
    what becomes of every instance.
    """
    if from_snapshot is not None or kill:
        _what_if(from_snapshot, kill, seed=seed, seeds=seeds, watched=watched, form=form)
        return
    seconds = parse_duration_s(duration)
    options = [
        Options(seed=number, nodes=int(nodes), duration_s=seconds, clients=clients,
                node=only == "node")
        for number in seeds_of(seed, seeds)
    ]  # fmt: skip
    failed = 0
    reports: list[Report] = []
    for done, report in enumerate(run_all(options, jobs=jobs), 1):
        failed += not report.ok
        show_progress(done, len(options), failed, "seeds")
        if form == "json":
            reports.append(report)
        else:
            _show(report)
    if form == "json":
        print(json.dumps(_document(reports)))
    elif len(options) > 1:
        print(f"{len(options)} seeds, {failed} failed")
    if failed:
        sys.exit(EXIT_FAILED)


run.examples = (  # type: ignore[attr-defined]
    "blixard sim run --seed 7",
    "blixard sim run --seeds 1-500 --jobs 2 --format json",
    "blixard sim run --from-snapshot cluster.json --kill node-a,node-b --for 5m",
)


def _what_if(
    file: str | None, kill: str, *, seed: int | None, seeds: str | None, watched: str, form: str
) -> None:
    if file is None:
        raise click.UsageError("--kill needs --from-snapshot FILE")
    if seeds is not None:
        raise click.UsageError("--from-snapshot takes one --seed")
    for_s = parse_duration_s(watched)
    if not 0 < for_s <= _WATCHED_MAX_S:
        raise click.UsageError(f"--for: between 0 and {_WATCHED_MAX_S // 3600} hours")
    answer = play(file, kill=kill, seed=seed if seed is not None else 1, for_s=for_s)
    print(document(answer) if form == "json" else shown(answer))


def run_all(options: list[Options], *, jobs: int) -> Iterator[Report]:
    """Yield the reports in the order of *options*; several processes if *jobs* > 1."""
    return in_order(simulate, options, jobs=jobs)


def _document(reports: list[Report]) -> dict[str, object]:
    ok = all(report.ok for report in reports)
    return {"ok": ok, "seeds": [msgspec.to_builtins(report) for report in reports]}


def _show(report: Report) -> None:
    clear_progress()
    faults = " ".join(f"{kind}:{count}" for kind, count in report.faults.items()) or "none"
    print(
        f"seed {report.seed:<6} {'ok    ' if report.ok else 'FAILED'} {report.trace_hash[:16]}  "
        f"writes {report.writes}  reads {report.reads}  unknown {report.unknown}  "
        f"faults {faults}  {report.wall_s:.2f} s"
    )
    if not report.ok:
        show_violations(report)
