"""``blixard sim replay | shrink | report``: look closely at one run."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import click

from blixard.base.errors import EXIT_FAILED, BlixardError
from blixard.base.units import parse_duration_s
from blixard.cli.tree import BlixardCommand
from blixard.simulation.recording import Recording, record
from blixard.simulation.report import Options, Report
from blixard.simulation.shrink import TRIES_MAX, Case, Shrinker
from blixard.simulation.timeline import page

_CHOICE = (
    click.option("--seed", type=click.IntRange(min=0), help="The run of this seed."),
    click.option("--plan", "file", type=click.Path(dir_okay=False),
                 help="The run in this file, as `sim shrink` writes it."),
    click.option("--nodes", type=click.Choice(["3", "5"]), default="5", show_default=True),
    click.option("--duration", default="60s", show_default=True, help="Virtual time of the run."),
    click.option("--clients", type=click.IntRange(1, 100), default=5, show_default=True),
    click.option("--only", type=click.Choice(["node", "raft"]), default="node", show_default=True),
)  # fmt: skip


def _chosen(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_CHOICE):
        function = option(function)
    return function


@click.command(name="replay", cls=BlixardCommand)
@_chosen
@click.option("--trace", is_flag=True, help="Show the events.")
@click.option("--event", default="", help="Show only events whose name contains this.")
@click.option("--host", type=click.IntRange(min=1), help="Show only events of this host.")
@click.option("--since", default="0s", show_default=True, help="Show only events from here on.")
def replay_command(*, trace: bool, event: str, host: int | None, since: str, **chosen: Any) -> None:
    """Run a seed or a plan again; exit code 1 if a promise was broken."""
    recording = _record(**chosen)
    if trace or event or host or since != "0s":
        begin_ns = int(parse_duration_s(since) * 1e9)
        for at_ns, number, kind, first, second in recording.events:
            if at_ns >= begin_ns and event in kind and host in (None, number):
                shown = " ".join(str(part) for part in (first, second) if part)
                print(f"{at_ns / 1e9:12.6f}  host {number:<4} {kind:<24} {shown}".rstrip())
    _end(recording.report)


replay_command.examples = (
    "blixard sim replay --seed 7 --event role",
    "blixard sim replay --plan small.json --trace --host 2 --since 12s",
)


@click.command(name="report", cls=BlixardCommand)
@_chosen
@click.option("--out", default="report.html", show_default=True, help="The file to write.")
def report_command(*, out: str, **chosen: Any) -> None:
    """Write one HTML page that shows a run: hosts, messages, faults, leaders, guests."""
    recording = _record(**chosen)
    pathlib.Path(out).write_text(page(recording), encoding="utf-8")
    print(f"written: {out}")
    _end(recording.report)


report_command.examples = ("blixard sim report --seed 7 --out seed-7.html",)


@click.command(name="shrink", cls=BlixardCommand)
@_chosen
@click.option("--tries", type=click.IntRange(1, 10_000), default=TRIES_MAX, show_default=True)
@click.option("--out", default="small.json", show_default=True, help="The plan file to write.")
def shrink_command(*, tries: int, out: str, **chosen: Any) -> None:
    """Cut a failing run down: fewer and shorter faults, fewer clients, less time."""
    recording = _record(**chosen)
    report = recording.report
    if report.ok:
        raise BlixardError("INVALID", "this run keeps every promise: there is nothing to shrink")
    case = Case(
        options=recording.options, plan=recording.plan, violation=report.violations[0].rstrip()
    )
    print(f"  {case.violation}", file=sys.stderr)
    shrinker = Shrinker(case, say=lambda line: print(line, file=sys.stderr), tries_max=tries)
    small = shrinker.shrink()
    pathlib.Path(out).write_bytes(small.to_json())
    print(
        f"{len(case.plan.faults)} faults -> {len(small.plan.faults)}, "
        f"{small.options.clients} clients, {small.options.duration_s:g} s, "
        f"{shrinker.tries} tries"
    )
    for fault in small.plan.faults:
        hosts = ", ".join(str(number) for number in fault.hosts) or "all"
        print(f"  {fault.at_ms / 1000:9.3f} s  {fault.kind} of {hosts} for {fault.lasts_ms} ms")
    print(f"  {small.violation.splitlines()[0]}")
    print(f"replay: blixard sim replay --plan {out}")


shrink_command.examples = ("blixard sim shrink --seed 7 --out small.json",)


def _record(
    *, seed: int | None, file: str | None, nodes: str, duration: str, clients: int, only: str
) -> Recording:
    if (seed is None) == (file is None):
        raise click.UsageError("give either --seed N or --plan FILE")
    if file is not None:
        try:
            case = Case.from_json(pathlib.Path(file).read_bytes())
        except OSError as error:
            raise BlixardError("INVALID", f"{file}: {error.strerror}") from error
        return record(case.options, case.plan)
    assert seed is not None
    options = Options(
        seed=seed, nodes=int(nodes), duration_s=parse_duration_s(duration), clients=clients,
        node=only == "node",
    )  # fmt: skip
    return record(options)


def _end(report: Report) -> None:
    print(
        f"seed {report.seed}: {'ok' if report.ok else 'FAILED'}  trace {report.trace_hash}  "
        f"{report.events} events, {report.messages} messages, {report.wall_s:.2f} s"
    )
    for violation in report.violations:
        print(f"  {violation.rstrip()}")
    if not report.ok:
        sys.exit(EXIT_FAILED)
