"""What runs on the hosts: one factory decides between consensus alone and the whole node."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import Member, RaftConfig
from blixard.consensus.node import RaftNode
from blixard.consensus.recovery import has_state
from blixard.ports.environment import Environment
from blixard.simulation.observed import Change, Watch, watch_machine, watch_raft
from blixard.simulation.register import Command, RegisterMachine, decode_command
from blixard.simulation.repair import REPLACE, Replace, pending
from blixard.simulation.workload import ASK, Answer, Ask
from blixard.simulation.world import Host

CLUSTER_ID = "sim"
_RAFT = "raft"
_STEP_S = 2.0
_ANSWER_S = 1.2
_RETRY_S = 0.3


class App(Protocol):
    """One incarnation of what runs on a host."""

    async def run(self) -> None:
        """Start; the first start of a host makes its first state."""

    @property
    def raft(self) -> RaftNode | None:
        """The Raft node, once there is one."""

    def values(self) -> dict[str, str]:
        """Return the applied texts by key."""

    def formed(self, nodes: int) -> bool:
        """Tell whether all nodes take part."""

    def unsettled(self) -> list[str]:
        """Return what should run and does not, as far as this node knows."""


class Factory(Protocol):
    """Makes an application for a host whose daemon has just started."""

    def __call__(self, host: Host, hosts: list[Host], watch: Watch) -> App:
        """Return the application; it is not started yet."""


class RaftApp:
    """Consensus alone, with :class:`RegisterMachine`."""

    def __init__(self, host: Host, hosts: list[Host], watch: Watch, *, config: RaftConfig) -> None:
        assert host.daemon is not None
        self._env: Environment = host.daemon.env
        self._host = host
        self._hosts = hosts
        self._watch = watch
        self.machine = RegisterMachine()
        self._raft = self.make_raft(self._env, config)
        self._source = host.daemon.process.name

    def make_raft(self, env: Environment, config: RaftConfig) -> RaftNode:
        """Return the node; a test may plant a bug here."""
        return RaftNode(env, config, self.machine, directory=_RAFT, uid=self._host.uid)

    @property
    def raft(self) -> RaftNode:
        """The Raft node."""
        return self._raft

    def values(self) -> dict[str, str]:
        """Return the applied texts."""
        return self.machine.values

    def formed(self, nodes: int) -> bool:
        """Tell whether this node knows all voters."""
        return sum(not m.learner for m in self._raft.members.values()) == nodes

    def unsettled(self) -> list[str]:
        """There is nothing to run."""
        return []

    async def run(self) -> None:
        """Make the first state if there is none, start, serve; the first host invites the rest."""
        first = not has_state(self._env.disk, _RAFT)
        self._env.transport.on_request(REPLACE, self._replace)
        if first:
            await self._first_state()
        watch_machine(self.machine, self._host.raft_id, self._watch, change_of)
        await self._raft.start()
        watch_raft(self._raft, self.machine, self._host.raft_id, self._watch)
        self._env.transport.on_request(ASK, self._ask)
        if first and self._founder:
            await self._invite_all()

    @property
    def _founder(self) -> bool:
        return self._host.number == 1 and self._host.generation == 0

    def _member(self, host: Host) -> Member:
        return Member(raft_id=host.raft_id, uid=host.uid, address=host.address, learner=True)

    async def _first_state(self) -> None:
        make = RaftNode.bootstrap if self._founder else RaftNode.create_empty
        await make(
            self._env, directory=_RAFT, cluster_id=CLUSTER_ID, member=self._member(self._host)
        )

    async def _invite_all(self) -> None:
        for host in self._hosts[1:]:
            while not await self._invited(host):
                await asyncio.sleep(_RETRY_S)

    async def _invited(self, host: Host) -> bool:
        """One step towards a vote for *host*; True once it votes."""
        try:
            return await self._let_in(self._member(host))
        except BlixardError as error:
            self._env.log("info", "invitation_postponed", code=error.code)
        return False

    async def _let_in(self, member: Member) -> bool:
        known = self._raft.members.get(member.raft_id)
        if known is None:
            await self._raft.add_learner(member, timeout_s=_STEP_S)
        elif known.learner:
            await self._raft.promote(member.raft_id, timeout_s=_STEP_S)
        else:
            return True
        return False

    async def _replace(self, _uid: str, payload: bytes) -> bytes:
        """One step of the replacement of a node."""
        wanted = msgspec.msgpack.decode(payload, type=Replace)
        if not self._raft.is_leader:
            raise self._raft.not_leader()
        for _, raft_id in wanted.old:
            if raft_id in self._raft.members:
                await self._raft.remove(raft_id, timeout_s=_STEP_S)
        member = Member(wanted.new_raft_id, wanted.new_uid, wanted.address, learner=True)
        if not await self._let_in(member):
            raise pending(f"{wanted.new_uid} does not vote yet")
        return b""

    async def _ask(self, _uid: str, payload: bytes) -> bytes:
        ask = msgspec.msgpack.decode(payload, type=Ask)
        if ask.kind == "read":
            if not ask.stale:
                await self._raft.read_barrier(timeout_s=_ANSWER_S)
            text = self.machine.values.get(ask.key, "")
            answer = Answer(text, self._raft.applied_index, self._source)
        else:
            command = Command(ask.id, ask.kind, ask.key, ask.text, ask.expected)
            done = await self._raft.propose(msgspec.msgpack.encode(command), timeout_s=_ANSWER_S)
            self._watch.acknowledged(ask.id)
            answer = Answer(done)
        return msgspec.msgpack.encode(answer)


def change_of(data: bytes, result: object) -> Change:
    """Return what an entry means for the clients."""
    command = decode_command(data)
    text = "" if command.kind == "delete" else command.text
    return command.id, command.key, text, result is True
