"""What nodes tell each other of the functions that they serve."""

from __future__ import annotations

import msgspec


class Figures(msgspec.Struct, frozen=True, array_like=True):
    """A function on one node, as others choose by it: ``room`` more instances could start."""

    uid: str
    generation: int
    built: bool
    idle: int
    busy: int
    starting: int
    room: int
    waiting: int
    calls: int
    cold: int
    message: str = ""
