"""Guests that boot slowly, crash and hang, and kills that do not arrive."""

from __future__ import annotations

import random

from blixard.simulation.guest_world import BOOT_MEAN_S, GuestWorld
from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.planning import Fault

_CRASHED = 139


def _guests(hands: Hands, fault: Fault) -> GuestWorld | None:
    host = hands.host(fault.hosts[0])
    return host.guests if host.up and not host.frozen else None


def _one(guests: GuestWorld, fault: Fault) -> str | None:
    running = sorted(plan.instance_uid for plan in guests.running())
    return random.Random(fault.salt).choice(running) if running else None


def slow_boot(hands: Hands, fault: Fault) -> Undo:
    """Guests of one host take far longer to boot."""
    guests = _guests(hands, fault)
    if guests is None:
        return nothing
    guests.boot_mean_s = BOOT_MEAN_S * (2 + 20 * fault.strength)
    guests.ailing = True

    def undo() -> None:
        guests.boot_mean_s = BOOT_MEAN_S

    return undo


def guest_crash(hands: Hands, fault: Fault) -> Undo:
    """One hypervisor process dies."""
    guests = _guests(hands, fault)
    uid = _one(guests, fault) if guests is not None else None
    if guests is not None and uid is not None:
        guests.end(uid, code=_CRASHED)
    return nothing


def guest_hang(hands: Hands, fault: Fault) -> Undo:
    """One guest does not answer for a while."""
    guests = _guests(hands, fault)
    uid = _one(guests, fault) if guests is not None else None
    if guests is None or uid is None:
        return nothing
    guests.hung.append(uid)
    guests.ailing = True

    def undo() -> None:
        if uid in guests.hung:
            guests.hung.remove(uid)

    return undo


def kill_lost(hands: Hands, fault: Fault) -> Undo:
    """Kills of the daemon on one host have no effect; the guard's have."""
    guests = _guests(hands, fault)
    if guests is None:
        return nothing
    guests.deaf = True

    def undo() -> None:
        guests.deaf = False

    return undo


HANDS: dict[str, Hand] = {
    "slow_boot": slow_boot, "guest_crash": guest_crash, "guest_hang": guest_hang,
    "kill_lost": kill_lost,
}  # fmt: skip
