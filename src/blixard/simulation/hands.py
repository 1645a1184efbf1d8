"""What the hands of all faults share: the world, and the ways back from a fault."""

from __future__ import annotations

from collections.abc import Callable

from blixard.simulation.planning import Fault
from blixard.simulation.world import Host, World

Undo = Callable[[], None]


def nothing() -> None:
    """The fault has ended by itself."""


class Hands:
    """The world as the faults see it.

    *start* starts the daemon of a host that is up; *broken* has a host replaced by a new node.
    """

    def __init__(
        self, world: World, start: Callable[[Host], None], broken: Callable[[Host], None]
    ) -> None:
        self.world = world
        self.start = start
        self.broken = broken
        self.healed = False

    def host(self, number: int) -> Host:
        """Return a host by its number."""
        return self.world.hosts[number - 1]

    def bring_back(self, host: Host) -> None:
        """Bring a host to life, whatever happened to it."""
        if not host.up:
            host.boot()
        host.thaw()
        host.resume_daemon()
        if host.daemon is None:
            self.start(host)

    def revive(self, host: Host) -> None:
        """Start a daemon that died, as a service manager does; not on a host without power."""
        if host.up and host.daemon is None:
            self.start(host)

    def after_ms(self, milliseconds: float, action: Callable[..., object], *args: object) -> None:
        """Do something later, unless all is healed by then."""
        when_ns = self.world.loop.now_ns + int(milliseconds * 1_000_000)
        self.world.loop.root.call_at_ns(when_ns, self._unless_healed, action, args)

    def _unless_healed(self, action: Callable[..., object], args: tuple[object, ...]) -> None:
        if not self.healed:
            action(*args)


Hand = Callable[[Hands, Fault], Undo]
