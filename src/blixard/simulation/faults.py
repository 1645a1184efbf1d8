"""Carries a plan of faults out: one hand per kind, and the healing of everything at the end."""

from __future__ import annotations

from collections.abc import Callable

from blixard.simulation import (
    faults_clocks,
    faults_disks,
    faults_guests,
    faults_hosts,
    faults_network,
)
from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.planning import Fault, Plan
from blixard.simulation.world import Host, World

HANDS: dict[str, Hand] = {
    **faults_hosts.HANDS,
    **faults_network.HANDS,
    **faults_disks.HANDS,
    **faults_clocks.HANDS,
    **faults_guests.HANDS,
}


class Injector:
    """Puts the faults of a plan on the clock of the world."""

    def __init__(
        self,
        world: World,
        plan: Plan,
        *,
        start: Callable[[Host], None],
        broken: Callable[[Host], None],
    ) -> None:
        self._world = world
        self._plan = plan
        self._hands = Hands(world, start, broken)
        self.fired: dict[str, int] = {}
        self._until_ns = 0

    def schedule(self) -> None:
        """Put everything on the clock of the world."""
        root = self._world.loop.root
        for fault in self._plan.faults:
            root.call_at_ns(fault.at_ms * 1_000_000, self.begin, fault)
        root.call_at_ns(self._plan.heal_at_ms * 1_000_000, self.heal)

    def begin(self, fault: Fault) -> Undo:
        """Begin a fault now; it ends after its time, or by what is returned."""
        world = self._world
        if self._hands.healed:
            return nothing
        world.note(fault.hosts[0] if fault.hosts else 0, f"fault:{fault.kind}", fault.lasts_ms)
        self.fired[fault.kind] = self.fired.get(fault.kind, 0) + 1
        undo = HANDS[fault.kind](self._hands, fault)
        end_ns = world.loop.now_ns + fault.lasts_ms * 1_000_000
        self._until_ns = max(self._until_ns, end_ns)
        world.loop.root.call_at_ns(end_ns, self._end, undo)
        return undo

    def under_fault(self) -> bool:
        """Tell whether a fault goes on."""
        return not self._hands.healed and self._world.loop.now_ns < self._until_ns

    def _end(self, undo: Undo) -> None:
        if not self._hands.healed:
            undo()

    def bring_back(self, host: Host) -> None:
        """Bring a host to life, whatever happened to it."""
        self._hands.bring_back(host)

    def heal(self) -> None:
        """End every fault: all hosts up, all ways open, all processes running."""
        self._hands.healed = True
        self._world.note(0, "heal")
        self._world.network.heal()
        for host in self._world.hosts:
            host.image.heal()
            host.guests.heal()
            host.machine.clock.heal()
            self._hands.bring_back(host)
