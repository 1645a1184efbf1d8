"""State machines as tables that the code runs, the documentation draws and the tests enumerate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

S = TypeVar("S", bound=str)
E = TypeVar("E", bound=str)


class Machine(Generic[S, E]):
    """A table ``{state: {event: next state}}`` with an initial state."""

    def __init__(self, name: str, initial: S, table: Mapping[S, Mapping[E, S]]) -> None:
        self.name = name
        self.initial = initial
        self.table = table
        known = set(table)
        for row in table.values():
            assert set(row.values()) <= known, f"{name}: unknown target state"

    def allows(self, state: S, event: E) -> bool:
        """Tell whether *event* is a transition of *state*."""
        return event in self.table[state]

    def next(self, state: S, event: E) -> S:
        """Return the state after *event*; an event that the state does not know leaves it."""
        return self.table[state].get(event, state)

    def to_mermaid(self) -> str:
        """Return the table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"  [*] --> {self.initial}"]
        for state, row in self.table.items():
            lines += [f"  {state} --> {target}: {event}" for event, target in row.items()]
        return "\n".join(lines)
