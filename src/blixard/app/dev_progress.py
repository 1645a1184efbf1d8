"""Progress lines with the time since the beginning, on standard error; and tables of times."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from blixard.cli import tables


class Progress:
    """Says what happens, and keeps the times that were measured."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._bold = sys.stderr.isatty()
        self.times: list[tuple[str, float]] = []

    def __call__(self, text: str) -> None:
        """Say one line."""
        self._write(f"[{self.seconds():6.1f} s]   {text}")

    def head(self, text: str) -> None:
        """Say what begins now."""
        line = f"[{self.seconds():6.1f} s] {text}"
        self._write(f"\x1b[1m{line}\x1b[0m" if self._bold else line)

    def seconds(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._began_s

    def keep(self, what: str, seconds: float) -> None:
        """Keep a measured time and say it."""
        self.times.append((what, seconds))
        self(f"{what}: {shown(seconds)}")

    @contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Keep the time that the block takes, if it ends well."""
        began = time.monotonic()
        yield
        self.keep(what, time.monotonic() - began)

    def _write(self, line: str) -> None:
        sys.stdout.flush()
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def times_table(times: list[tuple[str, float]]) -> str:
    """Return the table of the measured times."""
    rows = [[what, shown(seconds)] for what, seconds in times]
    return tables.render(("WHAT", "TIME"), rows, cells=None, heading=True)


def shown(seconds: float) -> str:
    """Return a time as people read it."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"
