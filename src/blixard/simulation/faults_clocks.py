"""Wall clocks that somebody sets."""

from __future__ import annotations

from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.planning import Fault


def wall_step(hands: Hands, fault: Fault) -> Undo:
    """Somebody sets one host's wall clock, by five minutes at most."""
    host = hands.host(fault.hosts[0])
    if host.up:
        host.machine.clock.step_wall(int((fault.strength - 0.5) * 600_000))
    return nothing


HANDS: dict[str, Hand] = {"wall_step": wall_step}
