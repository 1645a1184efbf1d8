"""Cut, slow and noisy ways between hosts."""

from __future__ import annotations

from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.network import LinkFaults
from blixard.simulation.planning import Fault

Pairs = list[tuple[str, str]]


def _sides(hands: Hands, fault: Fault) -> tuple[list[str], list[str]]:
    inside = [hands.host(number).uid for number in fault.hosts]
    outside = [host.uid for host in hands.world.hosts if host.uid not in inside]
    return inside, outside


def both_ways(inside: list[str], outside: list[str]) -> Pairs:
    """Return all directions between two sides."""
    pairs = [(a, b) for a in inside for b in outside]
    return pairs + [(b, a) for a, b in pairs]


def cut(hands: Hands, pairs: Pairs) -> Undo:
    """Cut some directions until undone."""
    network = hands.world.network
    for source, target in pairs:
        network.block(source, target)

    def undo() -> None:
        for source, target in pairs:
            network.unblock(source, target)

    return undo


def partition(hands: Hands, fault: Fault) -> Undo:
    """Cut some hosts from the rest, both ways."""
    return cut(hands, both_ways(*_sides(hands, fault)))


def one_way(hands: Hands, fault: Fault) -> Undo:
    """What some hosts send does not arrive."""
    inside, outside = _sides(hands, fault)
    return cut(hands, [(a, b) for a in inside for b in outside])


def clog(hands: Hands, fault: Fault) -> Undo:
    """One direction holds everything back, then delivers it at once."""
    source, target = (hands.host(number).uid for number in fault.hosts[:2])
    until_ns = hands.world.loop.now_ns + fault.lasts_ms * 1_000_000
    hands.world.network.clog(source, target, until_ns)
    return nothing


def noise(hands: Hands, fault: Fault) -> Undo:
    """Loss, duplicates, reordering and latency everywhere."""
    network = hands.world.network
    drawn = LinkFaults(
        latency_mean_ms=0.5 + 20 * fault.strength**2,
        loss=0.3 * fault.strength,
        duplicate=0.3 * (1 - fault.strength),
        reorder=0.4 * fault.strength,
        reorder_ms=20 + 500 * fault.strength,
    )
    network.faults = drawn

    def undo() -> None:
        if network.faults is drawn:
            network.faults = LinkFaults()

    return undo


HANDS: dict[str, Hand] = {
    "partition": partition, "one_way": one_way, "clog": clog, "noise": noise,
}  # fmt: skip
