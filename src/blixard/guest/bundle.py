"""The agent as one file: the modules of this package one after another."""

from __future__ import annotations

import pathlib
import re

MODULES = (
    "protocol", "text", "loop", "spawn", "services", "session", "runtime", "memory", "runner",
    "functions", "machine", "agent",
)  # fmt: skip
_FUTURE = "from __future__ import annotations\n"
_OWN_IMPORT = re.compile(r"^from blixard\.guest\.\w+ import (?:\([^)]*\)|[^\n]*)\n", re.MULTILINE)


def agent_source() -> str:
    """Return the program that is the first process of a guest."""
    folder = pathlib.Path(__file__).parent
    parts = [(folder / f"{name}.py").read_text() for name in MODULES]
    bodies = [_OWN_IMPORT.sub("", part.replace(_FUTURE, "")) for part in parts]
    return _FUTURE + "\n\n".join(bodies)
