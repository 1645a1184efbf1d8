"""What a Raft node does with its engine, pass by pass.

Order within one pass: messages, ticks, proposals and reads go in; then for each ready a leader's
messages leave at once, groups go to the saver, committed entries are applied. What a follower says
leaves only when everything before it is durable.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

from blixard._raft import RaftPanicError, RawRaft
from blixard.base.errors import BlixardError
from blixard.consensus.clock import Ticker
from blixard.consensus.compaction import Compactor
from blixard.consensus.comparison import RecentStates
from blixard.consensus.config import Member, RaftConfig, StateMachine
from blixard.consensus.membership import Membership
from blixard.consensus.outputs import Entries, Outlook, Ready
from blixard.consensus.peers import Peers
from blixard.consensus.proposals import Proposals
from blixard.consensus.reads import Reads
from blixard.consensus.room import Room
from blixard.consensus.saving import Frames, Save, Saver
from blixard.consensus.snapshots import SnapshotMeta, SnapshotStore
from blixard.consensus.transfer import Offer, SnapshotSender
from blixard.consensus.waking import Waking
from blixard.ports.environment import Environment

_READIES_PER_PASS = 64


class Passes:
    """The loop around the engine; a subclass makes the parts and starts them."""

    _core: RawRaft
    _store: SnapshotStore
    _peers: Peers
    _saver: Saver
    _sender: SnapshotSender
    _compactor: Compactor
    _loop: asyncio.AbstractEventLoop
    _cluster_id: str

    def __init__(
        self, env: Environment, config: RaftConfig, machine: StateMachine, room: Room
    ) -> None:
        self._env = env
        self._config = config
        self._machine = machine
        self._room = room
        self._unsettled = True  # whether it may serve is to be judged anew
        self._due = False  # a pass stands in the loop's queue
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
        self._ticker = Ticker(env, config, self._on_ticks)
        self._membership = Membership(([], [], [], [], False))
        self._states = RecentStates()
        self._ticks_due = 0
        self._running = False
        self._own = Member(0, "", "")
        self.role, self.term, self._leader_id = "stopped", 0, 0
        self.commit_index = self.applied_index = self._applied_term = self._last_index = 0
        self.is_leader = False

    @property
    def leader_uid(self) -> str:
        """The leader's node uid, empty if unknown."""
        return self._peers.uid_of(self._leader_id) if self._leader_id else ""

    def not_leader(self) -> BlixardError:
        """Return the error that names the leader."""
        leader = self.leader_uid if self._leader_id != self._own.raft_id else ""
        text = f"the leader is {leader}" if leader else "no leader is known"
        return BlixardError("NOT_LEADER", text, details={"leader": leader})

    def wake(self) -> None:
        """Let the node look for work soon; a callback, for a task costs twice as much."""
        if self._running and not self._due:
            self._due = True
            self._loop.call_soon(self._woken)

    def _woken(self) -> None:
        self._due = False
        if not self._running:
            return
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
            self._proposals.flush(self._core)
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
            self._proposals.lost_leadership(self.not_leader())
            self._reads.fail(self.not_leader(), leader_only=True)
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
        self._pass()

    def _give_up_leadership(self) -> None:
        """A disk that does not answer must not lead; nor does it stand for election."""
        if self.role == "leader":
            self._env.log("error", "raft_disk_stalled", seconds=self._config.election_s)
            self._core.step_down()

    def _confirmed(self) -> None:
        """A quorum answered after a long sleep."""
        self._unsettled = True
        self.wake()

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
