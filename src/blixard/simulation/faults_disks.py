"""Disks that hang and fill up."""

from __future__ import annotations

from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.planning import Fault


def stall(hands: Hands, fault: Fault) -> Undo:
    """Syncs of one disk hang."""
    image = hands.host(fault.hosts[0]).image
    image.stalled_until_ns = hands.world.loop.now_ns + fault.lasts_ms * 1_000_000
    return nothing


def full(hands: Hands, fault: Fault) -> Undo:
    """One disk has no room."""
    image = hands.host(fault.hosts[0]).image
    image.full = True

    def undo() -> None:
        image.full = False

    return undo


HANDS: dict[str, Hand] = {"stall": stall, "full": full}
