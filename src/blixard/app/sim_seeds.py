"""What the commands that run many seeds share: which ones, in how many processes, how far."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import click

from blixard.simulation.report import Report

T = TypeVar("T")
R = TypeVar("R")
_SEEDS = re.compile(r"(\d+)-(\d+)")
_MAX_SEEDS = 1_000_000
_SHOWN = 3


def seeds_of(seed: int | None, seeds: str | None) -> range:
    """Return the seeds that ``--seed`` or ``--seeds`` names. Raises click.UsageError."""
    if (seed is None) == (seeds is None):
        raise click.UsageError("give either --seed N or --seeds A-B")
    if seed is not None:
        return range(seed, seed + 1)
    match = _SEEDS.fullmatch(seeds or "")
    first, last = (int(match[1]), int(match[2])) if match else (1, 0)
    if not first <= last < first + _MAX_SEEDS:
        raise click.UsageError(f"--seeds: {seeds!r} is no range A-B with A <= B")
    return range(first, last + 1)


def in_order(work: Callable[[T], R], items: Sequence[T], *, jobs: int) -> Iterator[R]:
    """Yield the results in the order of *items*; several processes if *jobs* > 1."""
    if jobs == 1 or len(items) == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(work, items, chunksize=1)


def show_progress(done: int, total: int, failed: int, what: str) -> None:
    """Keep one line on a terminal up to date while many runs are made."""
    if total > 1 and sys.stderr.isatty():
        end = "" if done < total else "\r\x1b[K"
        line = f"\r\x1b[K  {done} of {total} {what}, {failed} failed{end}"
        print(line, end="", file=sys.stderr, flush=True)


def clear_progress() -> None:
    """Take the line of progress away, for a line that stays."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def show_violations(report: Report) -> None:
    """Print the first broken promises of a run, and what repeats it."""
    for violation in report.violations[:_SHOWN]:
        print(f"  {violation.rstrip()}")
    print(f"  replay: {report.replay}")
