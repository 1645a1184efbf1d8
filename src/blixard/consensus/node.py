"""The Raft node as its users see it: first state, start and stop, requests, what it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from blixard._raft import RawRaft
from blixard.base.errors import BlixardError
from blixard.consensus import recovery
from blixard.consensus.changes import Changes
from blixard.consensus.compaction import Compactor
from blixard.consensus.comparison import COMPARE_METHOD, Comparison
from blixard.consensus.config import (
    Member,
    PeerStatus,
    RaftConfig,
    RaftStatus,
    StateMachine,
)
from blixard.consensus.log import Log
from blixard.consensus.membership import Membership
from blixard.consensus.passes import Passes
from blixard.consensus.peers import Peers
from blixard.consensus.reads import Waiter
from blixard.consensus.room import Room
from blixard.consensus.saving import Saver
from blixard.consensus.snapshots import SnapshotStore
from blixard.consensus.transfer import SnapshotReceiver, SnapshotSender
from blixard.consensus.wire import CHANNEL, SNAPSHOT_METHOD, Hello
from blixard.ports.environment import Environment

__all__ = [
    "Member",
    "PeerStatus",
    "RaftConfig",
    "RaftNode",
    "RaftStatus",
    "StateMachine",
]


class RaftNode(Passes):
    """One member of the group; all methods belong to the event loop's thread."""

    def __init__(
        self,
        env: Environment,
        config: RaftConfig,
        machine: StateMachine,
        *,
        directory: str = "raft",
        uid: str = "",
    ) -> None:
        """Make a node that is not started; with *uid*, it refuses the state of another node."""
        super().__init__(env, config, machine, Room(env, directory, config))
        self._uid = uid
        self._directory = directory
        self._tasks: list[asyncio.Task[None]] = []

    # first state

    @staticmethod
    async def bootstrap(
        env: Environment, *, directory: str = "raft", cluster_id: str, member: Member
    ) -> None:
        """Write the first durable state of a new cluster with one voter.

        Raises:
            BlixardError: WRONG_CLUSTER if the directory holds a node already.
        """
        voter = msgspec.structs.replace(member, learner=False)
        identity = recovery.Identity(cluster_id, voter)
        first = recovery.genesis(identity)
        await recovery.write_first_state(env, directory, identity, first=first)

    @staticmethod
    async def create_empty(
        env: Environment, *, directory: str = "raft", cluster_id: str, member: Member
    ) -> None:
        """Write the state of a joiner: nothing yet, the leader will send it.

        Raises:
            BlixardError: WRONG_CLUSTER if the directory holds a node already.
        """
        identity = recovery.Identity(cluster_id, member)
        await recovery.write_first_state(env, directory, identity, first=None)

    # life

    async def start(self) -> None:
        """Recover from disk, then run.

        Raises:
            BlixardError: LOG_CORRUPT naming file and offset; NOT_FOUND without a first state;
                WRONG_CLUSTER for the state of another node; DISK_FAILED, DISK_FULL.
        """
        found = await recovery.recover(self._env, self._directory, self._config, self._uid)
        self._adopt(found)
        self._room.start()
        transport = self._env.transport
        transport.on_message(CHANNEL, self._peers.on_message)
        transport.on_request(SNAPSHOT_METHOD, self._on_chunk)
        transport.on_request(COMPARE_METHOD, self._comparison.answer)
        self._running, self._loop = True, asyncio.get_running_loop()
        self._ticker.start()
        for name, task in (
            ("raft-save", self._saver.run()),
            ("raft-compare", self._comparison.run()),
        ):
            self._tasks.append(self._env.spawn(task, name=name))
        if self._membership.voters() == [self._own.raft_id]:
            self._core.campaign()
        self.wake()

    def _adopt(self, found: recovery.Start) -> None:
        """Take over what recovery found."""
        self._core: RawRaft = found.core
        self._log: Log = found.log
        self._store: SnapshotStore = found.snapshots
        self._own = found.identity.member
        hello = Hello(found.identity.cluster_id, self._own.raft_id, self._own.address)
        self._cluster_id = hello.cluster_id
        self._peers = Peers(self._env, hello, self._config, self._membership_now, self.wake)
        self._changes = Changes(self._core, self._config, self._proposals, self)
        self._comparison = Comparison(
            self._env,
            hello,
            self._config,
            directory=self._directory,
            states=self._states,
            node=self,
        )
        if self._comparison.quarantine is not None:
            self._core.never_lead()
        self._saver = Saver(
            self._env,
            self._log,
            self._core,
            config=self._config,
            room=self._room,
            saved=self._on_saved,
        )
        self._sender = SnapshotSender(
            self._env,
            self._store,
            hello,
            self._config,
            report=self._report_snapshot,
            renew=self._renew_snapshot,
        )
        self._receiver = SnapshotReceiver(
            self._env,
            self._store,
            room=self._room,
            may_speak=self._peers.may_speak,
            install=self._install,
        )
        self._compactor = Compactor(
            self._env,
            self._config,
            core=self._core,
            log=self._log,
            store=self._store,
            room=self._room,
            machine=self._machine,
        )
        self._load(found.meta, found.payload)
        self._env.log(
            "info",
            "raft_recovered",
            snapshot=found.meta.index,
            records_cut=found.cut_bytes,
            log_bytes=self._log.size,
        )
        self._look()

    def _membership_now(self) -> Membership:
        return self._membership

    async def stop(self) -> None:
        """Stop the tasks and answer all who wait; what is on disk stays as it is."""
        if not self._running:
            return
        self._running = False
        self._ticker.stop()
        if self._compactor.task is not None:
            self._tasks.append(self._compactor.task)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._proposals.lost_leadership(self.not_leader())
        self._reads.fail(BlixardError("NO_QUORUM", "the node stops"), leader_only=False)
        self._log.close()
        self.role, self.is_leader = "stopped", False

    # what it knows

    @property
    def members(self) -> dict[int, Member]:
        """The members by raft id, in order."""
        return {member.raft_id: member for member in self._membership.listed()}

    @property
    def suspended(self) -> bool:
        """Whether the node slept so long that a quorum must confirm it first."""
        return self._waking.suspended

    def status(self) -> RaftStatus:
        """Return all that is worth showing."""
        return RaftStatus(
            uid=self._own.uid,
            raft_id=self._own.raft_id,
            role=self.role,
            term=self.term,
            leader_uid=self.leader_uid,
            is_leader=self.is_leader,
            suspended=self._waking.suspended,
            commit_index=self.commit_index,
            applied_index=self.applied_index,
            last_index=self._last_index,
            snapshot_index=self._compactor.index,
            log_bytes=self._log.size,
            log_segments=len(self._log.segments),
            last_sync_ms=self._saver.last_sync_s * 1000,
            disk_full=self._room.full,
            pending_proposals=len(self._proposals.pending),
            refused_messages=self._core.state()[7],
            state_hash=self._machine.state_hash().hex(),
            members=self._membership.listed(),
            peers=self._peer_status(),
            health=self._comparison.health(),
            quarantine=self._comparison.quarantine.text() if self._comparison.quarantine else "",
        )

    def _peer_status(self) -> tuple[PeerStatus, ...]:
        known = self._membership.members
        rows = []
        for raft_id, matched, _, state, active, learner in self._core.peers():
            member = known.get(raft_id, Member(raft_id, "", ""))
            rows.append(
                PeerStatus(raft_id, member.uid, member.address, learner, matched, state, active)
            )
        return tuple(rows)

    @property
    def in_quarantine(self) -> bool:
        """Whether the state here differs from that of a majority: it must not be served."""
        return self._comparison.quarantine is not None

    @property
    def unfit(self) -> set[int]:
        """The raft ids of other members that should not lead."""
        return self._comparison.unfit()

    @property
    def disk_full(self) -> bool:
        """Whether the data directory has no room."""
        return self._room.full

    @property
    def last_index(self) -> int:
        """The last entry of the log."""
        return self._last_index

    def on_role_change(self, callback: Callable[[], None]) -> None:
        """Call *callback* when role, term, leader or ``is_leader`` changed."""
        self._role_callbacks.append(callback)

    def on_applied(self, callback: Callable[[int], None]) -> None:
        """Call *callback* with the applied index after each batch."""
        self._applied_callbacks.append(callback)

    # requests

    async def propose(self, data: bytes, *, timeout_s: float) -> Any:
        """Replicate *data* and return what the state machine answered.

        Raises:
            BlixardError: NOT_LEADER (details: leader), OUTCOME_UNKNOWN, NO_QUORUM, OVERLOADED,
                DISK_FULL, TOO_LARGE.
        """
        if self.role != "leader":
            raise self.not_leader()
        if self._room.full:
            raise BlixardError("DISK_FULL", "the leader's data directory has no room")
        if not 0 < len(data) <= self._config.max_entry_bytes:
            raise BlixardError(
                "TOO_LARGE", f"{len(data)} bytes, at most {self._config.max_entry_bytes}"
            )
        future: asyncio.Future[Any] = self._loop.create_future()
        self._proposals.add(data, future, self._loop.time() + timeout_s)
        self.wake()
        return await future

    async def read_barrier(self, *, timeout_s: float) -> int:
        """Return once everything acknowledged before the call is applied here.

        Raises:
            BlixardError: NO_QUORUM after *timeout_s*; OVERLOADED.
        """
        return await self._read(timeout_s, leader_only=False)

    async def quorum_round(self, *, timeout_s: float) -> int:
        """Like :meth:`read_barrier`, on the leader only.

        Raises:
            BlixardError: NOT_LEADER, NO_QUORUM, OVERLOADED.
        """
        if self.role != "leader":
            raise self.not_leader()
        return await self._read(timeout_s, leader_only=True)

    async def _read(self, timeout_s: float, *, leader_only: bool) -> int:
        if not self._running:
            raise BlixardError("NO_QUORUM", "the node does not run")
        if self._comparison.quarantine is not None:
            raise BlixardError("QUARANTINED", self._comparison.quarantine.text())
        future: asyncio.Future[int] = self._loop.create_future()
        self._reads.add(Waiter(future, self._loop.time() + timeout_s, leader_only))
        self.wake()
        return await future

    async def add_learner(self, member: Member, *, timeout_s: float) -> None:
        """Add a member that receives the log and does not vote."""
        await self._changes.add_learner(member, timeout_s=timeout_s)

    async def promote(self, raft_id: int, *, timeout_s: float) -> None:
        """Give a learner its vote once it has caught up."""
        await self._changes.promote(raft_id, timeout_s=timeout_s)

    async def demote(self, raft_id: int, *, timeout_s: float) -> None:
        """Take the vote of a member other than the leader; it goes on receiving the log."""
        await self._changes.demote(raft_id, timeout_s=timeout_s)

    async def remove(self, raft_id: int, *, timeout_s: float) -> None:
        """Remove a member for good; a leader hands leadership on instead of removing itself."""
        await self._changes.remove(raft_id, timeout_s=timeout_s)

    async def transfer_leader(self, raft_id: int, *, timeout_s: float) -> None:
        """Hand leadership to a voter."""
        await self._changes.transfer(raft_id, timeout_s=timeout_s)

    # for the parts of this package

    @property
    def membership(self) -> Membership:
        """The members as applied."""
        return self._membership

    def may_speak(self, uid: str, hello: Hello) -> bool:
        """Tell whether a node may speak as the member that it names."""
        return self._running and self._peers.may_speak(uid, hello)

    def quarantined(self) -> None:
        """The state here is wrong: lead no more, answer no reads."""
        error = BlixardError("QUARANTINED", "the state here differs from that of a majority")
        self._core.never_lead()
        self._reads.fail(error, leader_only=False)
        self._look()
        self.wake()

    async def prefer_another_leader(self) -> None:
        """A leader without room hands on to a member that has some, if there is one."""
        if self.role != "leader" or not self._room.full:
            return
        fit = [
            i for i in self._membership.voters() if i not in self.unfit and i != self._own.raft_id
        ]
        if not fit:
            return
        self._env.log("warning", "raft_disk_full_hands_over", to=sorted(fit))
        try:
            await self._changes.transfer(0, timeout_s=2 * self._config.election_s)
        except BlixardError as error:
            self._env.log("info", "raft_hand_over_failed", code=error.code, detail=error.message)

    # snapshots

    def _renew_snapshot(self) -> None:
        if self._running:
            self._compactor.renew(self._snapshot_meta)

    def _report_snapshot(self, to: int, finished: bool) -> None:
        if self._running:
            self._core.report_snapshot(to, finished)
            self.wake()

    async def _on_chunk(self, uid: str, payload: bytes) -> bytes:
        if not self._running:
            raise BlixardError("UNREACHABLE", "the node does not run")
        return await self._receiver.handle(uid, payload)

    def _install(self, message: bytes) -> None:
        """A verified snapshot stands on disk: let the engine decide about it."""
        self._core.step_snapshot(message)
        self.wake()
