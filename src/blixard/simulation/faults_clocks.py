"""Wall clocks that somebody sets, or that stand still."""

from __future__ import annotations

from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.planning import Fault

YEAR_MS = 365 * 86_400_000


def wall_step(hands: Hands, fault: Fault) -> Undo:
    """Somebody sets one host's wall clock, by five minutes at most."""
    host = hands.host(fault.hosts[0])
    if host.up:
        host.machine.clock.step_wall(int((fault.strength - 0.5) * 600_000))
    return nothing


def wall_jump(hands: Hands, fault: Fault) -> Undo:
    """One host's wall clock is years off, until somebody notices."""
    host = hands.host(fault.hosts[0])
    if not host.up:
        return nothing
    clock, milliseconds = host.machine.clock, int((fault.strength - 0.5) * 3 * YEAR_MS)
    clock.put_wall_off(milliseconds)
    return lambda: clock.put_wall_off(0)


def wall_freeze(hands: Hands, fault: Fault) -> Undo:
    """One host's wall clock stands still."""
    host = hands.host(fault.hosts[0])
    if not host.up:
        return nothing
    clock = host.machine.clock
    clock.freeze_wall(hands.world.loop.now_ns)
    return clock.heal


HANDS: dict[str, Hand] = {
    "wall_step": wall_step, "wall_jump": wall_jump, "wall_freeze": wall_freeze,
}  # fmt: skip
