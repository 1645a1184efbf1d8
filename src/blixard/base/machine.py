"""State machines as tables that the code runs, the documentation draws and the tests enumerate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

S = TypeVar("S", bound=str)
E = TypeVar("E", bound=str)


class Machine(Generic[S, E]):
    """A table ``{state: {event: next state}}`` with an initial state."""

    def __init__(self, name: str, initial: S, table: Mapping[S, Mapping[E, S]]) -> None:
        self.name = name
        self.initial = initial
        self.table = table
        self._targets: dict[str, frozenset[str]] = {
            state: frozenset(row.values()) for state, row in table.items()
        }
        known = set(table)
        for row in table.values():
            assert set(row.values()) <= known, f"{name}: unknown target state"

    def allows(self, state: S, event: E) -> bool:
        """Tell whether *event* is a transition of *state*."""
        return event in self.table[state]

    def next(self, state: S, event: E) -> S:
        """Return the state after *event*; an event that the state does not know leaves it."""
        return self.table[state].get(event, state)

    def leads(self, state: str, target: str) -> bool:
        """Tell whether some event takes *state* to *target*, or both are one."""
        return state == target or target in self._targets.get(state, ())

    def connects(self, state: str, path: Sequence[str]) -> bool:
        """Tell whether *path* (states passed, the newest last) is a walk that *state* is on.

        The beginning of the path may lie before *state*: it was told already, and is told again
        because no answer came.
        """
        if not path or not all(self.leads(a, b) for a, b in itertools.pairwise(path)):
            return False
        return path[0] in self.table and (state in path or self.leads(state, path[0]))

    def to_mermaid(self) -> str:
        """Return the table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"  [*] --> {self.initial}"]
        for state, row in self.table.items():
            lines += [f"  {state} --> {target}: {event}" for event, target in row.items()]
        return "\n".join(lines)
