"""Ties a Raft node and its state machine to the oracles, without changing either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blixard.consensus.config import StateMachine
from blixard.consensus.node import RaftNode
from blixard.consensus.snapshots import SnapshotMeta
from blixard.consensus.wire import CHANNEL
from blixard.simulation.bounds import watch_bounds
from blixard.simulation.contention import History
from blixard.simulation.disk_image import DiskImage
from blixard.simulation.durable import DurableLog
from blixard.simulation.oracles import Oracles
from blixard.simulation.process import Process
from blixard.simulation.transport import SimTransport
from blixard.simulation.votes import GRANT, votes_in
from blixard.simulation.world import World

Change = tuple[str, str, str, bool]  # request id, key, text, whether it changed anything
Read = Callable[[bytes, Any], Change | None]


class RaftView:
    """The part of a Raft node that the oracles look at."""

    def __init__(self, raft: RaftNode) -> None:
        self._raft = raft

    @property
    def role(self) -> str:
        """Its role now."""
        return self._raft.role

    @property
    def term(self) -> int:
        """Its term now."""
        return self._raft.term

    @property
    def last_index(self) -> int:
        """The last entry of its log."""
        return self._raft.status().last_index


class Watch:
    """The oracles, the clients' history and the trace of one run."""

    def __init__(self, world: World, oracles: Oracles) -> None:
        self._world = world
        self.oracles = oracles
        self.history = History(oracles.fail, world.now_ns, happened=oracles.happened)
        self._disks = {
            host.number: DurableLog(host.image, on_conflict=self._conflict) for host in world.hosts
        }
        self._lost: dict[int, DurableLog] = {}
        self.on_raft: Callable[[int, RaftNode], None] = lambda _host, _raft: None
        oracles.disk_of = self._disk_of
        oracles.under_load = lambda: self.history.waiting > 0

    def _disk_of(self, raft_id: int) -> DurableLog:
        """Return the disk of a member; that of one who was replaced as it was when it was lost.

        What was durable on a quorum counts as durable when one of its disks is lost later.
        """
        host = self._world.host_of(raft_id)
        if host.raft_id == raft_id:
            return self._disks[host.number]
        if raft_id not in self._lost:
            self._lost[raft_id] = DurableLog(host.lost[raft_id])
        return self._lost[raft_id]

    def _conflict(self) -> None:
        self.oracles.happened("log cut by a conflict")

    def acknowledged(self, request_id: str) -> None:
        """A node is about to acknowledge a request."""
        self.oracles.acknowledged(self.history.index_of(request_id))

    def voted(self, host: int, term: int, candidate: int) -> None:
        """A host sends its vote."""
        self.oracles.voted(host, term, candidate)
        self.note(host, "vote", term, candidate)

    def image_of(self, host: int) -> DiskImage:
        """Return the disk of the host on which a member runs."""
        return self._world.host_of(host).image

    def spoke_after(self, failed: Process, host: int) -> None:
        """A host sends frames of consensus; the sync of a log has failed there."""
        daemon = self._world.host_of(host).daemon
        if daemon is not None and failed is daemon.process:
            self.oracles.fail(
                "failed sync", f"host {host} speaks on after a sync of its log failed"
            )

    def note(self, host: int, kind: str, first: int | str, second: int | str = 0) -> None:
        """Put an event into the trace."""
        self._world.trace.add(self._world.loop.now_ns, host, kind, first, second)


def watch_machine(machine: StateMachine, host: int, watch: Watch, read: Read) -> None:
    """Tell the oracles what *machine* applies; to be called before it applies anything.

    *read* tells what an entry and its result mean for a key of the clients.
    """
    apply, state_hash, oracles = machine.apply, machine.state_hash, watch.oracles
    history, note = watch.history, watch.note
    oracles.restarted(host)

    def observed(index: int, term: int, data: bytes) -> Any:
        result = apply(index, term, data)
        digest = state_hash()
        if oracles.applied(host, index, term, data, digest):
            oracles.stops.applied(machine)
            change = read(data, result)
            if change is not None:
                request_id, key, text, changed = change
                history.applied(request_id, index, key=key, text=text, changed=changed)
        oracles.effects.applied(index, data, result)
        oracles.contents.applied(host, index, machine)
        note(host, "apply", index, digest.hex())
        return result

    machine.apply = observed  # type: ignore[method-assign]


def watch_raft(raft: RaftNode, machine: StateMachine, host: int, watch: Watch) -> None:
    """Tell the oracles of every change of role and members, and of restored snapshots."""
    view, oracles = RaftView(raft), watch.oracles
    restore, restored, conf = machine.restore, True, None

    def restoring(data: bytes) -> None:
        nonlocal restored
        restore(data)
        restored = True
        oracles.happened("snapshot installed")

    def changed() -> None:
        watch.note(host, f"role:{raft.role}", raft.term)
        oracles.role_changed(host, view)

    def applied(index: int) -> None:
        nonlocal restored, conf
        if restored:
            restored = False
            oracles.restored(host, machine.state_hash(), index)
        membership = raft.membership
        if membership.conf != conf or not index % _MEMBERS_EVERY:
            conf = membership.conf
            voters = tuple(sorted({*conf[0], *conf[2]}))
            oracles.members_at(host, index, conf, voters)

    async def saving(meta: SnapshotMeta, payload: bytes) -> None:
        oracles.contents.saved(host, meta.index, machine, payload)
        await save(meta, payload)

    machine.restore = restoring  # type: ignore[method-assign]
    save = raft._store.save
    raft._store.save = saving  # type: ignore[method-assign]
    watch_bounds(raft, host, oracles)
    oracles.recovered(host, raft.last_index)
    raft.on_role_change(changed)
    raft.on_applied(applied)
    if raft.applied_index:
        applied(raft.applied_index)
    changed()
    watch.on_raft(host, raft)


_MEMBERS_EVERY = 16


def watch_votes(transport: SimTransport, host: int, watch: Watch) -> None:
    """Tell the oracles of every vote that leaves the host, and of words after a failed sync."""
    send, image = transport.send, watch.image_of(host)

    def observed(uid: str, channel: str, payload: bytes) -> bool:
        if channel != CHANNEL:
            return send(uid, channel, payload)
        if image.sync_failed_in is not None:
            watch.spoke_after(image.sync_failed_in, host)
        if GRANT in payload:
            for term, candidate in votes_in(payload):
                watch.voted(host, term, candidate)
        return send(uid, channel, payload)

    transport.send = observed  # type: ignore[method-assign]
