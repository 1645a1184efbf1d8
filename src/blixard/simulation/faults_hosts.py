"""Power losses, dead, stopped and frozen daemons and machines."""

from __future__ import annotations

from blixard.simulation.hands import Hand, Hands, Undo
from blixard.simulation.planning import Fault


def crash(hands: Hands, fault: Fault) -> Undo:
    """Power loss of one host."""
    host = hands.host(fault.hosts[0])
    host.crash()
    return lambda: hands.bring_back(host)


def kill(hands: Hands, fault: Fault) -> Undo:
    """SIGKILL of one daemon."""
    host = hands.host(fault.hosts[0])
    host.kill_daemon()
    return lambda: hands.bring_back(host)


def pause(hands: Hands, fault: Fault) -> Undo:
    """SIGSTOP of one daemon."""
    host = hands.host(fault.hosts[0])
    host.pause_daemon()
    return host.resume_daemon


def freeze(hands: Hands, fault: Fault) -> Undo:
    """One host stands still."""
    host = hands.host(fault.hosts[0])
    host.freeze()
    return host.thaw


def suspend(hands: Hands, fault: Fault) -> Undo:
    """One host sleeps: its monotonic clock, and so all its daemon's time-outs, stand still."""
    host = hands.host(fault.hosts[0])
    host.suspend()
    return host.thaw


def blackout(hands: Hands, _fault: Fault) -> Undo:
    """Power loss of all hosts."""
    for host in hands.world.hosts:
        host.crash()

    def undo() -> None:
        for host in hands.world.hosts:
            hands.bring_back(host)

    return undo


HANDS: dict[str, Hand] = {
    "crash": crash, "kill": kill, "pause": pause, "freeze": freeze, "blackout": blackout,
    "suspend": suspend,
}  # fmt: skip
