"""Ties a Raft node and its state machine to the oracles, without changing either."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from blixard.consensus.config import StateMachine
from blixard.consensus.node import RaftNode
from blixard.consensus.wire import CHANNEL
from blixard.simulation.contention import History
from blixard.simulation.disk import DiskImage
from blixard.simulation.durable import DurableLog
from blixard.simulation.oracles import Oracles
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
        self.history = History(oracles.fail, world.now_ns)
        self._disks = {host.number: DurableLog(host.image) for host in world.hosts}
        self._nothing = DurableLog(DiskImage(random.Random(0)))
        self.on_raft: Callable[[int, RaftNode], None] = lambda _host, _raft: None
        oracles.disk_of = self._disk_of

    def _disk_of(self, raft_id: int) -> DurableLog:
        """Return the disk of a member; who was replaced holds nothing."""
        host = self._world.host_of(raft_id)
        return self._disks[host.number] if host.raft_id == raft_id else self._nothing

    def acknowledged(self, request_id: str) -> None:
        """A node is about to acknowledge a request."""
        self.oracles.acknowledged(self.history.index_of(request_id))

    def voted(self, host: int, term: int, candidate: int) -> None:
        """A host sends its vote."""
        self.oracles.voted(host, term, candidate)
        self.note(host, "vote", term, candidate)

    def spoke(self, host: int) -> None:
        """A host sends frames of consensus."""
        machine = self._world.host_of(host)
        failed, daemon = machine.image.sync_failed_in, machine.daemon
        if failed is not None and daemon is not None and failed is daemon.process:
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
            change = read(data, result)
            if change is not None:
                request_id, key, text, changed = change
                history.applied(request_id, index, key=key, text=text, changed=changed)
        oracles.effects.applied(index, data, result)
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

    machine.restore = restoring  # type: ignore[method-assign]
    watch_bounds(raft, host, oracles)
    oracles.recovered(host, raft.last_index)
    raft.on_role_change(changed)
    raft.on_applied(applied)
    if raft.applied_index:
        applied(raft.applied_index)
    changed()
    watch.on_raft(host, raft)


_MEMBERS_EVERY = 16
_ENTRY_BYTES = 32  # less than a command of a client counts against the bound


def watch_bounds(raft: RaftNode, host: int, oracles: Oracles) -> None:
    """Tell the oracles how much waits, and how long the log is, whenever something is proposed."""
    config, propose = raft._config, raft.propose

    async def observed(data: bytes, *, timeout_s: float) -> Any:
        uncommitted = (raft.last_index - raft.commit_index) * _ENTRY_BYTES
        # A new leader does not count what it found in its log: as much again may stand there.
        most = 2 * config.max_uncommitted_bytes + _SLACK_BYTES
        waiting = len(raft._proposals.pending)
        # Both kept snapshots are of the past: the log holds what came since the older one.
        kept = 3 * config.snapshot_entries + config.trailing_entries + _SLACK_ENTRIES
        oracles.bounded(host, "uncommitted bytes", uncommitted, most)
        oracles.bounded(host, "waiting proposals", waiting, config.max_pending_proposals + 1)
        log_bytes = kept * (2 * oracles.mean_entry_bytes + 128) + 2 * config.segment_bytes
        oracles.bounded(host, "bytes of log", raft._log.size, log_bytes)
        return await propose(data, timeout_s=timeout_s)

    raft.propose = observed  # type: ignore[method-assign]


_SLACK_BYTES = 512
_SLACK_ENTRIES = 200  # what may be written while a snapshot is


def watch_votes(transport: SimTransport, host: int, watch: Watch) -> None:
    """Tell the oracles of every vote that leaves the host, and of words after a failed sync."""
    send = transport.send

    def observed(uid: str, channel: str, payload: bytes) -> bool:
        if channel != CHANNEL:
            return send(uid, channel, payload)
        watch.spoke(host)
        if GRANT in payload:
            for term, candidate in votes_in(payload):
                watch.voted(host, term, candidate)
        return send(uid, channel, payload)

    transport.send = observed  # type: ignore[method-assign]
