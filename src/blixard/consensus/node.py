"""The Raft node: feeds the engine, makes its output durable, sends, applies, answers.

Order within one pass: messages, ticks, proposals and reads go in; then for each ready a leader's
messages leave at once, groups go to the saver, committed entries are applied. What a follower says
leaves only when everything before it is durable.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from blixard._raft import RaftPanicError, RawRaft
from blixard.base.errors import BlixardError
from blixard.consensus import recovery
from blixard.consensus.changes import Changes
from blixard.consensus.clock import Ticker
from blixard.consensus.compaction import Compactor
from blixard.consensus.comparison import COMPARE_METHOD, Comparison, RecentStates
from blixard.consensus.config import (
    Member,
    PeerStatus,
    RaftConfig,
    RaftStatus,
    StateMachine,
)
from blixard.consensus.log import Log
from blixard.consensus.membership import Membership
from blixard.consensus.peers import Peers
from blixard.consensus.proposals import Proposals
from blixard.consensus.reads import Reads, Waiter
from blixard.consensus.room import Room
from blixard.consensus.saving import Frames, Save, Saver
from blixard.consensus.snapshots import SnapshotMeta, SnapshotStore
from blixard.consensus.transfer import Offer, SnapshotReceiver, SnapshotSender
from blixard.consensus.waking import Waking
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

_READIES_PER_PASS = 64

Entries = list[tuple[int, int, bool, int, bytes]]
Outlook = tuple[str, int, int, int, int, bool]
Ready = tuple[
    int,
    bytes,
    int,
    tuple[int, int] | None,
    Frames,
    Frames,
    list[tuple[int, int, int, bytes]],
    Entries,
    list[tuple[int, int]],
]


class RaftNode:
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
        self._env = env
        self._uid = uid
        self._config = config
        self._machine = machine
        self._directory = directory
        self._unsettled = True  # whether it may serve is to be judged anew
        self._due = False  # a pass stands in the loop's queue
        self._tasks: list[asyncio.Task[None]] = []
        self._role_callbacks: list[Callable[[], None]] = []
        self._applied_callbacks: list[Callable[[int], None]] = []
        self._proposals = Proposals(
            max_pending=config.max_pending_proposals,
            max_batch=config.max_batch_entries,
            max_bytes=config.max_uncommitted_bytes,
        )
        self._reads = Reads(
            max_waiters=config.max_pending_reads,
            max_rounds=config.max_read_rounds,
            retry_s=config.election_s / 2,
        )
        self._waking = Waking(self._reads, config.election_s, self._confirmed)
        self._room = Room(env, directory, config)
        self._ticker = Ticker(env, config, self._on_ticks)
        self._membership = Membership(([], [], [], [], False))
        self._states = RecentStates()
        self._ticks_due = 0
        self._running = False
        self._own = Member(0, "", "")
        self.role, self.term, self._leader_id = "stopped", 0, 0
        self.commit_index = self.applied_index = self._applied_term = self._last_index = 0
        self.is_leader = False

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
        self._proposals.lost_leadership(self._not_leader())
        self._reads.fail(BlixardError("NO_QUORUM", "the node stops"), leader_only=False)
        self._log.close()
        self.role, self.is_leader = "stopped", False

    # what it knows

    @property
    def leader_uid(self) -> str:
        """The leader's node uid, empty if unknown."""
        return self._peers.uid_of(self._leader_id) if self._leader_id else ""

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
            raise self._not_leader()
        if self._room.full:
            raise BlixardError("DISK_FULL", "the leader's data directory has no room")
        if not 0 < len(data) <= self._config.max_entry_bytes:
            raise BlixardError(
                "TOO_LARGE", f"{len(data)} bytes, at most {self._config.max_entry_bytes}"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._proposals.add(data, future, loop.time() + timeout_s)
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
            raise self._not_leader()
        return await self._read(timeout_s, leader_only=True)

    async def _read(self, timeout_s: float, *, leader_only: bool) -> int:
        if not self._running:
            raise BlixardError("NO_QUORUM", "the node does not run")
        if self._comparison.quarantine is not None:
            raise BlixardError("QUARANTINED", self._comparison.quarantine.text())
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._reads.add(Waiter(future, loop.time() + timeout_s, leader_only))
        self.wake()
        return await future

    async def add_learner(self, member: Member, *, timeout_s: float) -> None:
        """Add a member that receives the log and does not vote."""
        await self._changes.add_learner(member, timeout_s=timeout_s)

    async def promote(self, raft_id: int, *, timeout_s: float) -> None:
        """Give a learner its vote once it has caught up."""
        await self._changes.promote(raft_id, timeout_s=timeout_s)

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

    def not_leader(self) -> BlixardError:
        """Return the error that names the leader."""
        return self._not_leader()

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

    def wake(self) -> None:
        """Let the node look for work soon; a callback, for a task costs twice as much."""
        if self._running and not self._due:
            self._due = True
            self._loop.call_soon(self._woken)

    def _not_leader(self) -> BlixardError:
        leader = self.leader_uid if self._leader_id != self._own.raft_id else ""
        text = f"the leader is {leader}" if leader else "no leader is known"
        return BlixardError("NOT_LEADER", text, details={"leader": leader})

    # the loop

    def _woken(self) -> None:
        self._due = False
        if self._running:
            self._pass_safely()

    def _pass_safely(self) -> None:
        try:
            self._pass()
        except Exception:
            self._env.fatal(f"the Raft engine's pass crashed: {traceback.format_exc()}")

    def _pass(self) -> None:
        """One round: everything in, everything out."""
        turn, proposals, reads = self._core.turn, self._proposals, self._reads
        ticks, self._ticks_due = self._ticks_due, 0
        waiting = bool(proposals.queue or reads.waiting or reads.rounds)
        try:
            news, ready = turn(self._peers.take(), ticks, not waiting)
            if news is not None or self._unsettled:
                self._refresh(news)
            if waiting:
                self._put_in()
                news, ready = turn([], 0, True)
                if news is not None or self._unsettled:
                    self._refresh(news)
            left = _READIES_PER_PASS
            while ready is not None:
                self._handle(ready)
                left -= 1
                if not left:
                    self.wake()
                    break
                news, ready = turn([], 0, True)
                if news is not None or self._unsettled:
                    self._refresh(news)
        except RaftPanicError as error:
            self._env.fatal(f"the Raft engine broke an invariant: {error}")

    def _put_in(self) -> None:
        if self._proposals.queue and not self._core.state()[6]:
            full = BlixardError("OVERLOADED", "too many bytes wait for a quorum")
            self._proposals.flush(self._core, why_not=full)
        self._reads.issue(self._core, self._loop.time())

    def _handle(self, ready: Ready) -> None:
        number, group, last_index, install, now, after, offers, committed, reads = ready
        if now:
            self._send(now)
        for to, index, term, message in offers:
            self._sender.offer(Offer(to, self._peers.uid_of(to), index, term, message))
        if group or not self._saver.idle:
            self._saver.add(Save(number, group, last_index, install, after))
        else:
            self._core.persisted(number)
            if after:
                self._send(after)
        if committed:
            self._apply(committed)
        if reads:
            for token, index in reads:
                self._reads.confirm(token, index)
            self._reads.resolve(self.applied_index)

    def _send(self, frames: Frames) -> None:
        for raft_id in self._peers.send(frames):
            self._core.report_unreachable(raft_id)

    def _on_saved(self, saves: list[Save]) -> None:
        """Everything up to these readies is durable."""
        try:
            install = saves[-1].install
            if install is not None:
                meta, payload = self._store.load(self._store.path(*install))
                self._load(meta, payload)
            self._core.persisted(saves[-1].number)
            if install is not None:
                self._core.applied(install[0])
            for save in saves:
                if save.frames:
                    self._send(save.frames)
        except RaftPanicError as error:
            self._env.fatal(f"the Raft engine broke an invariant: {error}")
        except (BlixardError, OSError) as error:
            self._env.fatal(f"an installed snapshot cannot be read: {error}")
        self._pass()

    def _look(self) -> None:
        """Look at the engine outside a pass."""
        self._refresh(self._core.turn([], 0, False)[0])

    def _refresh(self, news: Outlook | None) -> None:
        """Take in what changed of the engine's state; tell whoever wants to know of it."""
        self._unsettled = False
        before = (self.role, self.term, self._leader_id, self.is_leader)
        role, term, leader, _ = before
        if news is not None:
            role, term, leader, self.commit_index, self._last_index, wants_snapshot = news
            if wants_snapshot:
                self._consider_snapshot(asked=True)
        leads = role == "leader" and self._applied_term == term and not self._waking.suspended
        if (role, term, leader, leads) == before:
            return
        self.role, self.term, self._leader_id, self.is_leader = role, term, leader, leads
        if (role, term) != before[:2]:
            self._reads.restart()
        if before[0] == "leader" and (role != "leader" or term != before[1]):
            self._proposals.lost_leadership(self._not_leader())
            self._reads.fail(self._not_leader(), leader_only=True)
        for callback in self._role_callbacks:
            callback()

    def _apply(self, committed: Entries) -> None:
        apply, done = self._machine.apply, self._proposals.done
        record, state_hash = self._states.add, self._machine.state_hash
        applied_term = self._applied_term
        for index, term, change, token, data in committed:
            result: Any = None
            if change:
                result = self._apply_change(data)
            elif data:
                result = apply(index, term, data)
            record(index, state_hash())
            if token:
                done(token, result)
        self._applied_term, self.applied_index = committed[-1][1], committed[-1][0]
        self._unsettled |= self._applied_term != applied_term
        self._core.applied(self.applied_index)
        self._after_apply()

    def _after_apply(self) -> None:
        self._reads.resolve(self.applied_index)
        for callback in self._applied_callbacks:
            callback(self.applied_index)
        self._consider_snapshot(asked=False)

    def _consider_snapshot(self, *, asked: bool) -> None:
        self._compactor.consider(self.applied_index, self._snapshot_meta, asked=asked)

    def _snapshot_meta(self) -> SnapshotMeta:
        return SnapshotMeta(
            self._cluster_id,
            self.applied_index,
            self._applied_term,
            self._membership.conf,
            self._membership.listed(),
            self._membership.removed,
        )

    def _apply_change(self, data: bytes) -> bool:
        conf, about, changes = self._core.apply_change(data)
        self._membership.apply(conf, about, changes)
        self._peers.learn(self._membership)
        self._env.log("info", "raft_members", voters=conf[0], learners=conf[1])
        return bool(changes)

    # time

    def _on_ticks(self, count: int, *, slept: bool) -> None:
        now = self._loop.time()
        self._room.tick()
        self._proposals.tick(now)
        self._reads.tick(now)
        if slept:
            self._env.log("warning", "raft_slept")
            self._waking.slept()
            self._look()
        self._waking.tick(now)
        if self._saver.pending_s(now) > self._config.election_s:
            self._give_up_leadership()
        else:
            self._ticks_due = count
        self._pass_safely()

    def _give_up_leadership(self) -> None:
        """A disk that does not answer must not lead; nor does it stand for election."""
        if self.role == "leader":
            self._env.log("error", "raft_disk_stalled", seconds=self._config.election_s)
            self._core.step_down()

    def _confirmed(self) -> None:
        """A quorum answered after a long sleep."""
        self._unsettled = True
        self.wake()

    # snapshots

    def _load(self, meta: SnapshotMeta, payload: bytes) -> None:
        """Take the state of a snapshot."""
        if not meta.genesis:
            self._machine.restore(payload)
        self._membership = Membership(meta.conf, meta.members, meta.removed)
        self._peers.learn(self._membership)
        self.applied_index, self._applied_term = meta.index, meta.term
        self._unsettled = True
        self._states.restart(meta.index, self._machine.state_hash())
        self._compactor.index = meta.index
        self._reads.resolve(meta.index)
        for callback in self._applied_callbacks:
            callback(meta.index)

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
