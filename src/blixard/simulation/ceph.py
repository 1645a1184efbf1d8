"""A small Ceph on the simulated hosts: a monitor on some of them, an OSD on each.

It keeps to what matters above it. Monitors need a majority of them; an OSD serves while it reaches
that majority, is marked down after a grace and out later; a write is acknowledged once all acting
copies have it, and waits below ``min_size``; what lacks a copy is recovered at a rate of bytes. A
volume is a few objects, each with a version per copy, so that lost and diverging copies can be
seen. Clients are refused once their key is deleted or they are shut out. Exclusive locks are not
relied upon: two clients with valid keys may both write.

Nothing runs, and nothing is drawn, before a pool is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from blixard.ports.volumes import PoolHealth, PoolPlan
from blixard.simulation.stored import Stored

if TYPE_CHECKING:
    from blixard.simulation.world import Host, World

SECOND = 1_000_000_000
OBJECTS = 4  # of a volume, each written as a whole
OBJECT_BYTES = 64 << 20
RECOVERY_BYTES_S = 128 << 20  # that one OSD takes
OSD_BYTES = 1 << 40
MONITORS_MAX = 5
_DOWN_AFTER_NS = 6 * SECOND
_OUT_AFTER_NS = 30 * SECOND
_TICK_NS = SECOND
_WIRE_NS = 1_000_000

Copy = tuple[int, int]  # version, what was written


class Piece(msgspec.Struct, eq=False):
    """One object of a volume: its newest version, and what lies on which disk."""

    uid: str
    number: int
    version: int = 0
    copies: dict[int, Copy] = {}  # by the number of the OSD's host


class Image(msgspec.Struct, eq=False):
    """One volume: who attached it, and who has it open or had."""

    pool: str
    uid: str
    size_bytes: int
    pieces: list[Piece]
    holders: dict[str, int] = {}  # epochs by node uid: two while a guest moves
    opened: dict[int, str] = {}  # clients by number: the uid of their node
    shut_out: set[int] = set()


class Osd(msgspec.Struct, eq=False):
    """What the monitors hold of an OSD."""

    number: int
    up: bool = True
    inside: bool = True
    missed_since_ns: int | None = None


class Write(msgspec.Struct, eq=False):
    """A write on its way. ``arrived``: an OSD has it in its queue."""

    host: Host
    user: str
    client: int
    image: Image
    number: int
    value: int
    alive: Callable[[], bool]
    done: Callable[[bool], None]
    arrived: bool = False


class SimCeph:
    """All monitors and OSDs of a world, and what lies on their disks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.stored = Stored(world)
        self.pools: dict[str, PoolPlan] = {}
        self.images: dict[str, Image] = {}
        self.keys: dict[str, tuple[str, int]] = {}  # user: node uid, epoch
        self.fenced: dict[str, int] = {}  # node uid: epochs below this one are shut out
        self.osds: list[Osd] = []
        self.own_network = False  # cuts between hosts do not cut it
        self.stopped: set[int] = set()  # host numbers: monitor and OSD do not run there
        self.held_until_ns: dict[int, int] = {}  # host number: what it sends arrives only then
        self._waiting: list[Write] = []
        self._ticking = False

    # who is there

    def begin(self) -> None:
        """The first pool is made: from now on time passes here."""
        self.osds = self.osds or [Osd(host.number) for host in self._world.hosts]
        if not self._ticking:
            self._ticking = True
            self._later(_TICK_NS, self._tick)

    def _later(self, delay_ns: int, callback: Callable[..., object], *args: object) -> None:
        loop = self._world.loop
        loop.root.call_at_ns(loop.now_ns + delay_ns, callback, *args)

    def monitors(self) -> list[Host]:
        """Return the hosts that have a monitor: an odd number of them."""
        hosts = self._world.hosts
        return hosts[: min(MONITORS_MAX, len(hosts) - (len(hosts) + 1) % 2)]

    def quorum(self) -> list[Host]:
        """Return the monitors that are a majority and see each other; none if no majority does."""
        monitors = self.monitors()
        running = [host for host in monitors if host.number not in self.stopped]
        for first in running:
            group = [other for other in running if self.connected(first, other)]
            if 2 * len(group) > len(monitors):
                return group
        return []

    def connected(self, one: Host, other: Host) -> bool:
        """Tell whether both run, and see each other."""
        if not (one.up and other.up) or one.frozen or other.frozen:
            return False
        blocked = self._world.network.is_blocked
        cut = blocked(one.uid, other.uid) or blocked(other.uid, one.uid)
        return one is other or self.own_network or not cut

    def reaches(self, host: Host) -> bool:
        """Tell whether a host reaches a majority of the monitors."""
        return any(self.connected(host, monitor) for monitor in self.quorum())

    def _serves(self, number: int) -> bool:
        """Tell whether an OSD runs and reaches a majority of the monitors."""
        return number not in self.stopped and self.reaches(self._host(number))

    def _host(self, number: int) -> Host:
        return self._world.hosts[number - 1]

    # where things lie

    def targets(self, piece: Piece, replicas: int) -> list[Osd]:
        """Return the OSDs on which a piece should lie."""
        inside = [osd for osd in self.osds if osd.inside]
        return sorted(inside, key=lambda osd: _rank(piece, osd))[:replicas]

    def acting(self, piece: Piece) -> list[Osd]:
        """Return the OSDs that take its writes; none while it is not served."""
        replicas = self._replicas(piece)
        up = [osd for osd in self.targets(piece, replicas) if osd.up]
        serving = all(self._serves(osd.number) for osd in up)
        enough = len(up) >= max(1, replicas - replicas // 2)
        return up if serving and enough and self.newest(piece) is not None else []

    def newest(self, piece: Piece) -> Copy | None:
        """Return the newest version, if a disk that can be read now has it."""
        if not piece.version:
            return (0, 0)
        for number, copy in sorted(piece.copies.items()):
            fresh = copy[0] == piece.version and self.osds[number - 1].up
            if fresh and self._serves(number):
                return copy
        return None

    def _replicas(self, piece: Piece) -> int:
        return self.pools[self.images[piece.uid].pool].replicas

    def lacking(self, piece: Piece) -> int:
        """Return how many copies of a piece are missing or old."""
        fresh = [n for n, (version, _) in piece.copies.items() if version == piece.version]
        up = [number for number in fresh if self.osds[number - 1].up]
        return max(0, self._replicas(piece) - len(up)) if piece.version else 0

    def lacking_any(self) -> bool:
        """Tell whether an object lacks copies."""
        return any(map(self.lacking, self._pieces()))

    def misplaced(self, piece: Piece) -> bool:
        """Tell whether a copy lies elsewhere than it should."""
        wanted = {osd.number for osd in self.targets(piece, self._replicas(piece))}
        return bool(piece.version) and set(piece.copies) != wanted

    def unserved(self) -> list[str]:
        """Return what nobody can write to."""
        if not self.quorum():
            return ["no majority of the monitors agrees"]
        stuck = [piece for piece in self._pieces() if not self.acting(piece)]
        return [f"object {piece.number} of {piece.uid} is not served" for piece in stuck]

    def unbalanced(self) -> list[str]:
        """Return what is not as it is in a cluster at rest."""
        texts = [f"the OSD of host {o.number} is not up and in" for o in self.osds
                 if not (o.up and o.inside)]  # fmt: skip
        for piece in self._pieces():
            if self.lacking(piece):
                texts.append(f"object {piece.number} of {piece.uid} lacks copies: {piece.copies}")
            elif self.misplaced(piece):
                texts.append(f"object {piece.number} of {piece.uid} is misplaced")
        return texts

    def _pieces(self, pool: str = "") -> list[Piece]:
        images = [image for _, image in sorted(self.images.items())]
        return [p for image in images if not pool or image.pool == pool for p in image.pieces]

    def health(self, name: str) -> PoolHealth:
        """Return how a pool is."""
        pieces, quorum = self._pieces(name), len(self.quorum())
        up, inside = sum(o.up for o in self.osds), sum(o.inside for o in self.osds)
        lacking = sum(map(self.lacking, pieces))
        stuck = [piece for piece in pieces if not self.acting(piece)]
        used = sum(len(piece.copies) for piece in pieces) * OBJECT_BYTES
        well = not lacking and up == inside == len(self.osds)
        return PoolHealth(
            state="unavailable" if stuck else "healthy" if well else "degraded",
            quorum=(quorum, len(self.monitors())),
            osds=(len(self.osds), up, inside),
            degraded_objects=lacking,
            misplaced_objects=sum(map(self.misplaced, pieces)),
            used_bytes=used,
            available_bytes=inside * OSD_BYTES - used,
            reason="" if well else f"{up} of {len(self.osds)} OSDs are up, {lacking} copies lack",
        )

    # time

    def _tick(self) -> None:
        if not self.pools:
            self._ticking = False
            return
        if self.quorum():
            for osd in self.osds:
                self._look(osd)
            self._recover()
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            self._deliver(write)
        self._later(_TICK_NS, self._tick)

    def _look(self, osd: Osd) -> None:
        """Mark an OSD down and later out, or up and in again."""
        now_ns = self._world.loop.now_ns
        if self._serves(osd.number):
            if not osd.up or not osd.inside:
                self._world.note(osd.number, "osd in")
            osd.up = osd.inside = True
            osd.missed_since_ns = None
            return
        osd.missed_since_ns = osd.missed_since_ns or now_ns
        missed_ns = now_ns - osd.missed_since_ns
        if osd.up and missed_ns >= _DOWN_AFTER_NS:
            osd.up = False
            self.stored.happened("OSD down")
            self._world.note(osd.number, "osd down")
        if osd.inside and missed_ns >= _OUT_AFTER_NS:
            osd.inside = False
            self.stored.happened("OSD out")
            self._world.note(osd.number, "osd out")

    def _recover(self) -> None:
        """Copy what lacks on an OSD, as much as it takes in one tick; drop what is in excess."""
        room = {osd.number: RECOVERY_BYTES_S // OBJECT_BYTES for osd in self.osds}
        for piece in self._pieces():
            newest = self.newest(piece)
            if newest is None or not piece.version:
                continue
            wanted = self.targets(piece, self._replicas(piece))
            for osd in wanted:
                old = piece.copies.get(osd.number, (0, 0))[0] < piece.version
                here = osd.up and self._serves(osd.number)
                if old and here and room[osd.number]:
                    room[osd.number] -= 1
                    piece.copies[osd.number] = newest
                    self.stored.happened("object recovered")
            numbers = {osd.number for osd in wanted}
            if all(piece.copies.get(n, (0, 0))[0] == piece.version for n in numbers):
                piece.copies = {n: copy for n, copy in piece.copies.items() if n in numbers}

    def lose_disk(self, host: Host) -> None:
        """The disk of a host's OSD is exchanged for an empty one."""
        for piece in self._pieces():
            piece.copies.pop(host.number, None)
        self.stored.happened("OSD disk lost")

    def damage(self, host: Host) -> None:
        """Every other object on a disk fails its checksum: that copy counts as none."""
        for piece in self._pieces()[::2]:
            piece.copies.pop(host.number, None)
        self.stored.happened("objects damaged")

    # clients

    def open(self, image: Image, node_uid: str) -> int:
        """Return the number of a new client of a volume."""
        client = self.stored.client()
        image.opened[client] = node_uid
        return client

    def shut_out(self, image: Image, node_uid: str) -> None:
        """Refuse all that clients on a node sent, and send, to a volume."""
        image.shut_out |= {client for client, uid in image.opened.items() if uid == node_uid}

    def read(self, host: Host, image: Image, number: int) -> int | None:
        """Return what was written last to an object; None: it has to wait."""
        piece = image.pieces[number]
        if image.uid not in self.images or not self.acting(piece):
            return None
        copy = self.newest(piece)
        assert copy is not None
        primary = self._host(self.acting(piece)[0].number)
        return copy[1] if self.connected(host, primary) else None

    def submit(self, write: Write) -> None:
        """Send a write; ``done`` is told whether it was taken, if ever."""
        loop, until_ns = self._world.loop, self.held_until_ns.get(write.host.number, 0)
        if until_ns > loop.now_ns:
            self.stored.happened("write held back")
            self._later(until_ns - loop.now_ns, self._arrive, write)
        else:
            self._later(_WIRE_NS, self._deliver, write)

    def _arrive(self, write: Write) -> None:
        """It was in the network long enough, whatever became of its sender."""
        write.arrived = True
        self._deliver(write, first=True)

    def _deliver(self, write: Write, *, first: bool = False) -> None:
        """Let an OSD take a write, refuse it, or keep it waiting."""
        if write.image.uid not in self.images:
            return
        piece = write.image.pieces[write.number]
        acting = self.acting(piece)
        seen = bool(acting) and self.connected(write.host, self._host(acting[0].number))
        # A broken connection ends what was sent over it, if its end can be noticed.
        broken = not write.arrived or (seen and write.host.up and not first)
        if broken and not write.alive():
            return
        write.arrived = write.arrived or seen
        if not acting or not write.arrived:
            self._waiting.append(write)
            self.stored.happened("write waits")
            return
        if not self._may_write(write):
            self.stored.happened("write refused")
            write.done(False)
            return
        piece.version += 1
        for osd in acting:
            piece.copies[osd.number] = (piece.version, write.value)
        self.stored.accepted(write.image.uid, write.client, write.user)
        write.done(True)

    def _may_write(self, write: Write) -> bool:
        node_uid, epoch = self.keys.get(write.user, ("", 0))
        known = bool(node_uid) and epoch >= self.fenced.get(node_uid, 0)
        return known and write.client not in write.image.shut_out


def _rank(piece: Piece, osd: Osd) -> bytes:
    text = f"{piece.uid}/{piece.number}/{osd.number}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
