"""Ties a Raft node and its state machine to the oracles, without changing either."""

from __future__ import annotations

import random
from typing import Any

from blixard.consensus.config import StateMachine
from blixard.consensus.node import RaftNode
from blixard.consensus.wire import CHANNEL
from blixard.simulation.disk import DiskImage
from blixard.simulation.oracles import Oracles
from blixard.simulation.transport import SimTransport
from blixard.simulation.votes import votes_in
from blixard.simulation.world import World

NO_IMAGE = DiskImage(random.Random(0))


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
    """The oracles and the trace of one run."""

    def __init__(self, world: World, oracles: Oracles) -> None:
        self._world = world
        self.oracles = oracles
        self._voters: tuple[int, ...] = ()
        self._voters_before: tuple[int, ...] = ()

    def acknowledged(self, token: bytes, raft: RaftNode) -> None:
        """A write is about to be acknowledged: by the voters of now, or those of just before."""
        voters = tuple(sorted(m.raft_id for m in raft.members.values() if not m.learner))
        if voters != self._voters:
            self._voters, self._voters_before = voters, self._voters
        self.oracles.acknowledged(
            token, [self._images(group) for group in (voters, self._voters_before) if group]
        )

    def _images(self, voters: tuple[int, ...]) -> list[DiskImage]:
        """Return the disks of those who vote; who was replaced holds nothing."""
        hosts = [self._world.host_of(raft_id) for raft_id in voters]
        return [
            host.image if host.raft_id == raft_id else NO_IMAGE
            for host, raft_id in zip(hosts, voters, strict=True)
        ]

    def voted(self, host: int, term: int, candidate: int) -> None:
        """A host sends its vote."""
        image = self._world.host_of(host).image
        self.oracles.voted(host, term, candidate, image)
        self.note(host, "vote", term, candidate)

    def note(self, host: int, kind: str, first: int | str, second: int | str = 0) -> None:
        """Put an event into the trace."""
        self._world.trace.add(self._world.loop.now_ns, host, kind, first, second)


def watch_machine(machine: StateMachine, host: int, watch: Watch) -> None:
    """Tell the oracles what *machine* applies; to be called before it applies anything."""
    apply, state_hash, oracles = machine.apply, machine.state_hash, watch.oracles
    oracles.restarted(host)

    def observed(index: int, term: int, data: bytes) -> Any:
        result = apply(index, term, data)
        digest = state_hash()
        oracles.applied(host, index, term, data, digest)
        oracles.effects.applied(index, data, result)
        watch.note(host, "apply", index, digest.hex())
        return result

    machine.apply = observed  # type: ignore[method-assign]


def watch_raft(raft: RaftNode, host: int, watch: Watch) -> None:
    """Tell the oracles of every change of role."""
    view = RaftView(raft)

    def changed() -> None:
        watch.note(host, f"role:{raft.role}", raft.term)
        watch.oracles.role_changed(host, view)

    raft.on_role_change(changed)
    changed()


def watch_votes(transport: SimTransport, host: int, watch: Watch) -> None:
    """Tell the oracles of every vote that leaves the host."""
    send = transport.send

    def observed(uid: str, channel: str, payload: bytes) -> bool:
        if channel == CHANNEL:
            for term, candidate in votes_in(payload):
                watch.voted(host, term, candidate)
        return send(uid, channel, payload)

    transport.send = observed  # type: ignore[method-assign]
