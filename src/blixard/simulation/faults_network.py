"""Cut, slow and noisy ways between hosts."""

from __future__ import annotations

import random
from collections import deque

from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.network import Frame, LinkFaults
from blixard.simulation.planning import Fault

_REPLAYED = 200

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


def bridge(hands: Hands, fault: Fault) -> Undo:
    """Two halves do not see each other; one host sees both."""
    middle = fault.hosts[0]
    rest = [host.uid for host in hands.world.hosts if host.number != middle]
    random.Random(fault.salt).shuffle(rest)
    half = len(rest) // 2
    return cut(hands, both_ways(rest[:half], rest[half:]))


def swizzle(hands: Hands, fault: Fault) -> Undo:
    """Some hosts are cut off one by one, and come back one by one in another order."""
    step_ms = fault.lasts_ms / (2 * len(fault.hosts))
    undos: list[Undo] = []
    back = list(range(len(fault.hosts)))
    random.Random(fault.salt).shuffle(back)

    def isolate(number: int) -> None:
        alone = hands.host(number).uid
        others = [host.uid for host in hands.world.hosts if host.uid != alone]
        undos.append(cut(hands, both_ways([alone], others)))

    for place, number in enumerate(fault.hosts):
        hands.after_ms(place * step_ms, isolate, number)
    for place, which in enumerate(back[:-1]):
        hands.after_ms(fault.lasts_ms / 2 + (place + 1) * step_ms, _undo_one, undos, which)
    return lambda: _undo_all(undos)


def _undo_one(undos: list[Undo], which: int) -> None:
    if which < len(undos):
        undos[which]()
        undos[which] = nothing


def _undo_all(undos: list[Undo]) -> None:
    for place in range(len(undos)):
        _undo_one(undos, place)


def flap(hands: Hands, fault: Fault) -> Undo:
    """The way between two hosts is cut and open in turn."""
    one, other = (hands.host(number).uid for number in fault.hosts[:2])
    period_ms = 20 + 980 * fault.strength
    undos: list[Undo] = []
    for turn in range(int(fault.lasts_ms / period_ms / 2)):
        at_ms = 2 * turn * period_ms
        hands.after_ms(at_ms, lambda: undos.append(cut(hands, both_ways([one], [other]))))
        hands.after_ms(at_ms + period_ms, _undo_all, undos)
    return lambda: _undo_all(undos)


def lag(hands: Hands, fault: Fault) -> Undo:
    """One host is far away."""
    uid = hands.host(fault.hosts[0]).uid
    hands.world.network.lag(uid, 5 + 400 * fault.strength**2)
    return lambda: hands.world.network.lag(uid, 0)


def reset(hands: Hands, fault: Fault) -> Undo:
    """The connection between two hosts breaks, again and again."""
    one, other = (hands.host(number).uid for number in fault.hosts[:2])
    for turn in range(1 + int(10 * fault.strength)):
        hands.after_ms(turn * fault.lasts_ms / 11, hands.world.network.reset, one, other)
    return nothing


def replay(hands: Hands, fault: Fault) -> Undo:
    """Messages arrive a second time, long after the first."""
    network, generator = hands.world.network, random.Random(fault.salt)
    recorded: deque[Frame] = deque(maxlen=_REPLAYED)
    network.recorded = recorded

    def again() -> None:
        for frame in sorted(recorded, key=lambda _frame: generator.random()):
            hands.after_ms(generator.random() * fault.lasts_ms / 2, network.replay, frame)
        if network.recorded is recorded:
            network.recorded = None

    hands.after_ms(fault.lasts_ms / 2, again)
    return nothing


HANDS: dict[str, Hand] = {
    "partition": partition, "one_way": one_way, "clog": clog, "noise": noise, "bridge": bridge,
    "swizzle": swizzle, "flap": flap, "lag": lag, "reset": reset, "replay": replay,
}  # fmt: skip
