"""What goes wrong in a run: a plan drawn from the seed, and the hand that carries it out.

Each seed uses only some kinds of faults, with its own intensity; a budget keeps a majority able to
come back. At the end of the safety phase everything is healed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from blixard.simulation.network import LinkFaults
from blixard.simulation.world import Host, World

KINDS = (
    "crash", "kill", "pause", "freeze", "partition", "one_way", "clog", "noise", "stall",
    "wall_step", "blackout",
)  # fmt: skip
_MAX_FAULTS = 40


class Fault(msgspec.Struct, frozen=True):
    """One disturbance: when it begins, how long it lasts, whom it hits and how hard."""

    at_ms: int
    kind: str
    lasts_ms: int
    hosts: tuple[int, ...] = ()
    strength: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """All faults of a run, by time, and the end of the safety phase."""

    faults: tuple[Fault, ...]
    heal_at_ms: int


def draw_plan(generator: random.Random, *, nodes: int, begin_ms: int, heal_at_ms: int) -> Plan:
    """Draw which kinds occur, how often, and each fault."""
    kinds = [kind for kind in KINDS if generator.random() < 0.5] or ["crash"]
    mean_gap_ms = generator.choice((1_000, 2_500, 6_000))
    faults: list[Fault] = []
    at_ms = float(begin_ms)
    while len(faults) < _MAX_FAULTS:
        at_ms += generator.expovariate(1 / mean_gap_ms)
        if at_ms >= heal_at_ms - 500:
            break
        faults.append(_draw_fault(generator, generator.choice(kinds), int(at_ms), nodes))
    return Plan(tuple(_within_budget(faults, nodes)), heal_at_ms)


def _draw_fault(generator: random.Random, kind: str, at_ms: int, nodes: int) -> Fault:
    lasts_ms = int(generator.choice((200, 1_000, 3_000, 8_000)) * (0.5 + generator.random()))
    numbers = list(range(1, nodes + 1))
    hosts: tuple[int, ...] = (generator.choice(numbers),)
    if kind in ("partition", "one_way"):
        generator.shuffle(numbers)
        hosts = tuple(numbers[: generator.randint(1, nodes - 1)])
    elif kind == "clog":
        hosts = tuple(generator.sample(numbers, 2))
    elif kind in ("noise", "blackout"):
        hosts = ()
    return Fault(at_ms, kind, lasts_ms, hosts, round(generator.random(), 3))


def _within_budget(faults: list[Fault], nodes: int) -> list[Fault]:
    """Leave out crashes and stops that would take more than a minority at one time."""
    most = (nodes - 1) // 2
    kept: list[Fault] = []
    for fault in faults:
        if fault.kind in ("crash", "kill", "freeze", "pause"):
            down = {
                host
                for other in kept
                if other.kind in ("crash", "kill", "freeze", "pause")
                and other.at_ms + other.lasts_ms > fault.at_ms
                for host in other.hosts
            }
            if len(down | set(fault.hosts)) > most:
                continue
        kept.append(fault)
    return kept


class Injector:
    """Carries the plan out in the world."""

    def __init__(self, world: World, plan: Plan, start: Callable[[Host], None]) -> None:
        self._world = world
        self._plan = plan
        self._start = start
        self._cuts: list[tuple[str, str]] = []
        self._healed = False
        self.fired: dict[str, int] = {}

    def schedule(self) -> None:
        """Put everything on the clock of the world."""
        root = self._world.loop.root
        for fault in self._plan.faults:
            root.call_at_ns(fault.at_ms * 1_000_000, self._begin, fault)
        root.call_at_ns(self._plan.heal_at_ms * 1_000_000, self.heal)

    def _begin(self, fault: Fault) -> None:
        world = self._world
        world.note(fault.hosts[0] if fault.hosts else 0, f"fault:{fault.kind}", fault.lasts_ms)
        self.fired[fault.kind] = self.fired.get(fault.kind, 0) + 1
        undo = _BEGIN[fault.kind](self, fault)
        end_ns = world.loop.now_ns + fault.lasts_ms * 1_000_000
        world.loop.root.call_at_ns(end_ns, self._end, undo)

    def _end(self, undo: Callable[[], None]) -> None:
        if not self._healed:
            undo()

    def heal(self) -> None:
        """End every fault: all hosts up, all ways open, all processes running."""
        self._healed = True
        self._world.note(0, "heal")
        self._world.network.heal()
        for host in self._world.hosts:
            self._back(host)
            host.image.stalled_until_ns = 0
            host.image.full = False

    def _back(self, host: Host) -> None:
        """Bring a host to life, whatever happened to it."""
        if not host.up:
            host.boot()
        host.thaw()
        host.resume_daemon()
        if host.daemon is None:
            self._start(host)

    def _host(self, number: int) -> Host:
        return self._world.hosts[number - 1]

    # one method per kind; each returns how to end it

    def crash(self, fault: Fault) -> Callable[[], None]:
        """Power loss of one host."""
        host = self._host(fault.hosts[0])
        host.crash()
        return lambda: self._back(host)

    def kill(self, fault: Fault) -> Callable[[], None]:
        """SIGKILL of one daemon."""
        host = self._host(fault.hosts[0])
        host.kill_daemon()
        return lambda: self._back(host)

    def pause(self, fault: Fault) -> Callable[[], None]:
        """SIGSTOP of one daemon."""
        host = self._host(fault.hosts[0])
        host.pause_daemon()
        return host.resume_daemon

    def freeze(self, fault: Fault) -> Callable[[], None]:
        """One host stands still."""
        host = self._host(fault.hosts[0])
        host.freeze()
        return host.thaw

    def blackout(self, fault: Fault) -> Callable[[], None]:
        """Power loss of all hosts."""
        assert not fault.hosts
        for host in self._world.hosts:
            host.crash()

        def undo() -> None:
            for host in self._world.hosts:
                self._back(host)

        return undo

    def partition(self, fault: Fault) -> Callable[[], None]:
        """Cut some hosts from the rest, both ways."""
        inside, outside = self._sides(fault)
        pairs = [(a, b) for a in inside for b in outside]
        return self._cut(pairs + [(b, a) for a, b in pairs])

    def one_way(self, fault: Fault) -> Callable[[], None]:
        """What some hosts send does not arrive."""
        inside, outside = self._sides(fault)
        return self._cut([(a, b) for a in inside for b in outside])

    def _sides(self, fault: Fault) -> tuple[list[str], list[str]]:
        inside = [self._host(number).uid for number in fault.hosts]
        outside = [host.uid for host in self._world.hosts if host.uid not in inside]
        return inside, outside

    def _cut(self, pairs: list[tuple[str, str]]) -> Callable[[], None]:
        network = self._world.network
        for source, target in pairs:
            network.block(source, target)

        def undo() -> None:
            for source, target in pairs:
                network.unblock(source, target)

        return undo

    def clog(self, fault: Fault) -> Callable[[], None]:
        """One direction holds everything back, then delivers it at once."""
        source, target = (self._host(number).uid for number in fault.hosts)
        until_ns = self._world.loop.now_ns + fault.lasts_ms * 1_000_000
        self._world.network.clog(source, target, until_ns)
        return lambda: None

    def noise(self, fault: Fault) -> Callable[[], None]:
        """Loss, duplicates, reordering and latency everywhere."""
        network = self._world.network
        noise = LinkFaults(
            latency_mean_ms=0.5 + 20 * fault.strength**2,
            loss=0.3 * fault.strength,
            duplicate=0.3 * (1 - fault.strength),
            reorder=0.4 * fault.strength,
            reorder_ms=20 + 500 * fault.strength,
        )
        network.faults = noise

        def undo() -> None:
            if network.faults is noise:
                network.faults = LinkFaults()

        return undo

    def stall(self, fault: Fault) -> Callable[[], None]:
        """Syncs of one disk hang."""
        image = self._host(fault.hosts[0]).image
        image.stalled_until_ns = self._world.loop.now_ns + fault.lasts_ms * 1_000_000
        return lambda: None

    def full(self, fault: Fault) -> Callable[[], None]:
        """One disk has no room."""
        image = self._host(fault.hosts[0]).image
        image.full = True

        def undo() -> None:
            image.full = False

        return undo

    def wall_step(self, fault: Fault) -> Callable[[], None]:
        """Somebody sets one host's wall clock."""
        host = self._host(fault.hosts[0])
        if host.up:
            host.machine.clock.step_wall(int((fault.strength - 0.5) * 600_000))
        return lambda: None


_BEGIN: dict[str, Callable[[Injector, Fault], Callable[[], None]]] = {
    kind: getattr(Injector, kind) for kind in (*KINDS, "full")
}
