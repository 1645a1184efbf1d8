"""Disks that hang, fill up, fail, rot, write to the wrong place, or are lost."""

from __future__ import annotations

import random

from blixard.simulation.damage import Trouble
from blixard.simulation.hands import Hand, Hands, Undo, nothing
from blixard.simulation.planning import Fault

_LITTLE_ROOM_BYTES = 64 << 10


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


def _trouble(hands: Hands, fault: Fault, trouble: Trouble) -> Undo:
    image = hands.host(fault.hosts[0]).image
    image.trouble = trouble

    def undo() -> None:
        if image.trouble is trouble:
            image.trouble = None

    return undo


def little_room(hands: Hands, fault: Fault) -> Undo:
    """One disk has room for a few writes, the last of them cut short."""
    room = int(_LITTLE_ROOM_BYTES * fault.strength)
    return _trouble(hands, fault, Trouble(room_bytes=room))


def read_error(hands: Hands, fault: Fault) -> Undo:
    """Reads of one disk fail; its daemon is restarted, to have something to read."""
    undo = _trouble(hands, fault, Trouble(read_error=0.05 + 0.5 * fault.strength))
    host = hands.host(fault.hosts[0])
    host.kill_daemon()
    hands.after_ms(fault.lasts_ms / 2, hands.revive, host)
    return undo


def write_error(hands: Hands, fault: Fault) -> Undo:
    """Writes to one disk fail."""
    return _trouble(hands, fault, Trouble(write_error=0.01 + 0.3 * fault.strength))


def sync_error(hands: Hands, fault: Fault) -> Undo:
    """Syncs of one disk fail, and what they should have written is dropped."""
    return _trouble(hands, fault, Trouble(sync_error=0.01 + 0.3 * fault.strength))


def short(hands: Hands, fault: Fault) -> Undo:
    """Reads and writes move fewer bytes than asked for; a daemon is restarted, to read much."""
    undo = _trouble(hands, fault, Trouble(short=0.1 + 0.8 * fault.strength))
    host = hands.host(fault.hosts[0])
    host.kill_daemon()
    hands.after_ms(min(fault.lasts_ms / 2, 1_000), hands.revive, host)
    return undo


def misdirect(hands: Hands, fault: Fault) -> Undo:
    """One write goes to another place of its file than it was asked."""
    return _trouble(hands, fault, Trouble(misdirect=True))


def rot(hands: Hands, fault: Fault) -> Undo:
    """One bit of a file turns over; never in what the last sync wrote, where it is a torn write."""
    image = hands.host(fault.hosts[0]).image
    generator = random.Random(fault.salt)
    solid = [node for _, node in image.files() if min(node.solid, len(node.durable)) > 0]
    if not solid:
        return nothing
    node = generator.choice(solid)
    offset = generator.randrange(min(node.solid, len(node.durable)))
    bit = 1 << generator.randrange(8)
    node.durable[offset] ^= bit
    if offset < len(node.current):
        node.current[offset] ^= bit
    image.hurt = True
    return nothing


def lost_disk(hands: Hands, fault: Fault) -> Undo:
    """A host dies with its disk; it comes back with an empty one, and joins as a new node."""
    host = hands.host(fault.hosts[0])
    host.crash()
    hands.broken(host)
    return lambda: hands.bring_back(host)


HANDS: dict[str, Hand] = {
    "stall": stall, "full": full, "little_room": little_room, "read_error": read_error,
    "write_error": write_error, "sync_error": sync_error, "misdirect": misdirect, "rot": rot,
    "lost_disk": lost_disk, "short": short,
}  # fmt: skip
