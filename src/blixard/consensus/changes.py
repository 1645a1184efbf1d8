"""Changes of the group, one at a time: learner first, its vote when it has caught up."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from blixard._raft import RawRaft
from blixard.base.errors import BlixardError
from blixard.consensus.config import Member, RaftConfig
from blixard.consensus.membership import (
    ADD_LEARNER,
    ADD_VOTER,
    REMOVE,
    Membership,
    encode_member,
)
from blixard.consensus.proposals import Proposals


class Leading(Protocol):
    """What changes need to know of their node."""

    @property
    def role(self) -> str:
        """The role now."""

    @property
    def commit_index(self) -> int:
        """The commit index now."""

    @property
    def membership(self) -> Membership:
        """The members as applied."""

    @property
    def unfit(self) -> set[int]:
        """The members that should not lead."""

    def not_leader(self) -> BlixardError:
        """Return the error that names the leader."""

    def wake(self) -> None:
        """Let the loop look for work."""


class Changes:
    """Serialises membership changes and transfers of one node."""

    def __init__(
        self, core: RawRaft, config: RaftConfig, proposals: Proposals, node: Leading
    ) -> None:
        self._core = core
        self._config = config
        self._proposals = proposals
        self._node = node
        self._lock = asyncio.Lock()

    async def add_learner(self, member: Member, *, timeout_s: float) -> None:
        """Add a member without a vote."""
        async with self._deadline(timeout_s), self._lock:
            self._require_leader()
            self._node.membership.check_add(member, self._config.max_members)
            learner = Member(member.raft_id, member.uid, member.address, learner=True)
            await self._change(ADD_LEARNER, member.raft_id, encode_member(learner), timeout_s)

    async def promote(self, raft_id: int, *, timeout_s: float) -> None:
        """Wait until a learner has caught up, then give it its vote; a voter stays one."""
        async with self._deadline(timeout_s), self._lock:
            self._require_leader()
            if not self._node.membership.check_known(raft_id).learner:
                return
            while not self._caught_up(raft_id):
                await asyncio.sleep(self._config.tick_s)
                self._require_leader()
                self._node.membership.check_known(raft_id)
            await self._change(ADD_VOTER, raft_id, b"", timeout_s)

    def _caught_up(self, raft_id: int) -> bool:
        for peer, matched, _, state, active, _ in self._core.peers():
            if peer == raft_id:
                near = matched + self._config.catch_up_entries >= self._node.commit_index
                return active and state == "replicate" and near
        return False

    async def demote(self, raft_id: int, *, timeout_s: float) -> None:
        """Take another voter's vote; it stays a learner, under its id and with its log."""
        async with self._deadline(timeout_s), self._lock:
            self._require_leader()
            member = self._node.membership.check_known(raft_id)
            if member.learner:
                return
            if raft_id == self._own_id():
                raise BlixardError("INVALID", "a leader cannot give up its own vote")
            self._node.membership.check_unvote(raft_id, self._active())
            learner = msgspec.structs.replace(member, learner=True)
            await self._change(ADD_LEARNER, raft_id, encode_member(learner), timeout_s)

    async def remove(self, raft_id: int, *, timeout_s: float) -> None:
        """Remove a member; the leader first hands leadership on and says so with NOT_LEADER."""
        own = self._own_id()
        async with self._deadline(timeout_s), self._lock:
            self._require_leader()
            self._node.membership.check_unvote(raft_id, self._active())
            if raft_id != own:
                await self._change(REMOVE, raft_id, b"", timeout_s)
                return
            await self._hand_over(self._best_voter(own))
        raise self._node.not_leader()

    def _active(self) -> list[int]:
        return [peer[0] for peer in self._core.peers() if peer[4]]

    def _own_id(self) -> int:
        """Return this node's id, 0 unless it leads."""
        role, _, leader, *_ = self._core.state()
        return leader if role == "leader" else 0

    def _best_voter(self, own: int) -> int:
        """Return the voter that is furthest, the lowest id among equals; an unfit one last."""
        rows = [p for p in self._core.peers() if p[0] != own and not p[5]]
        unfit = self._node.unfit
        best = max(rows, key=lambda p: (p[4], p[0] not in unfit, p[1], -p[0]))
        return best[0]

    async def transfer(self, raft_id: int, *, timeout_s: float) -> None:
        """Hand leadership to a voter, or to the furthest one for 0."""
        async with self._deadline(timeout_s), self._lock:
            self._require_leader()
            if raft_id == 0:
                raft_id = self._best_voter(self._own_id())
            if self._node.membership.check_known(raft_id).learner:
                raise BlixardError("INVALID", f"raft id {raft_id} has no vote")
            await self._hand_over(raft_id)

    async def _hand_over(self, raft_id: int) -> None:
        """Ask again as long as the engine gives up, until this node no longer leads."""
        while self._node.role == "leader" and self._own_id() != raft_id:
            if not self._core.state()[6]:
                self._core.transfer(raft_id)
            self._node.wake()
            await asyncio.sleep(self._config.tick_s / 5)

    async def _change(self, kind: int, raft_id: int, about: bytes, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        token = self._proposals.token()
        while why := self._core.propose_change(token, [(kind, raft_id)], about):
            if why == "not-leader":
                raise self._node.not_leader()
            await asyncio.sleep(self._config.tick_s)
        future: asyncio.Future[bool] = loop.create_future()
        self._proposals.expect(token, future, loop.time() + timeout_s)
        self._node.wake()
        if not await future:
            raise BlixardError("CONFLICT", "the group refused the change")

    def _require_leader(self) -> None:
        if self._node.role != "leader":
            raise self._node.not_leader()

    def _deadline(self, timeout_s: float) -> _Deadline:
        return _Deadline(timeout_s)


class _Deadline:
    """A time-out that speaks of the quorum."""

    def __init__(self, timeout_s: float) -> None:
        # The committed outcome has its own, slightly earlier deadline, which knows more.
        self._timeout = asyncio.timeout(timeout_s * 1.05 + 0.1)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._timeout.__aexit__(*error)  # type: ignore[arg-type]
        except TimeoutError as late:
            raise BlixardError("NO_QUORUM", "the group did not get there in time") from late
