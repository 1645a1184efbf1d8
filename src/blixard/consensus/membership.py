"""Who is in the group: the table that committed changes build, and the rules for a new change."""

from __future__ import annotations

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import Member
from blixard.consensus.snapshots import Conf

ADD_VOTER, REMOVE, ADD_LEARNER = 0, 1, 2

_DECODER = msgspec.msgpack.Decoder(Member)


def encode_member(member: Member) -> bytes:
    """Return the bytes that travel with a change."""
    return msgspec.msgpack.encode(member)


class Membership:
    """Members by id, ids that are used up, and the engine's configuration."""

    def __init__(
        self, conf: Conf, members: tuple[Member, ...] = (), removed: tuple[int, ...] = ()
    ) -> None:
        self.conf = conf
        self.members = {member.raft_id: member for member in members}
        self.removed = removed

    def apply(self, conf: Conf, about: bytes, changes: list[tuple[int, int]]) -> None:
        """Follow a committed change; the engine has accepted it."""
        self.conf = conf
        for kind, raft_id in changes:
            if kind == REMOVE:
                self.members.pop(raft_id, None)
                self.removed = tuple(sorted((*self.removed, raft_id)))
            elif kind == ADD_LEARNER:
                self.members[raft_id] = _DECODER.decode(about)
            elif raft_id in self.members:
                old = self.members[raft_id]
                self.members[raft_id] = msgspec.structs.replace(old, learner=False)

    def listed(self) -> tuple[Member, ...]:
        """Return the members in order of id."""
        return tuple(self.members[raft_id] for raft_id in sorted(self.members))

    def voters(self) -> list[int]:
        """Return the ids that vote, sorted."""
        return [m.raft_id for m in self.listed() if not m.learner]

    def by_uid(self, uid: str) -> Member | None:
        """Return the member of a node, or None."""
        return next((m for m in self.listed() if m.uid == uid), None)

    def check_add(self, member: Member, limit: int) -> None:
        """Refuse a member whose id or uid was ever used. Raises BlixardError."""
        if member.raft_id <= 0 or member.raft_id >= 1 << 63:
            raise BlixardError("INVALID", f"raft id {member.raft_id} is out of range")
        if member.raft_id in self.removed:
            raise BlixardError("NODE_REMOVED", f"raft id {member.raft_id} was used and removed")
        if member.raft_id in self.members or self.by_uid(member.uid) is not None:
            raise BlixardError("ALREADY_EXISTS", f"{member.uid} or its raft id is a member")
        if len(self.members) >= limit:
            raise BlixardError("OVERLOADED", f"the group has {limit} members already")

    def check_known(self, raft_id: int) -> Member:
        """Return a member. Raises BlixardError NOT_FOUND."""
        if raft_id not in self.members:
            raise BlixardError("NOT_FOUND", f"raft id {raft_id} is no member")
        return self.members[raft_id]

    def check_unvote(self, raft_id: int, active: list[int]) -> None:
        """Refuse that a vote goes if no majority of live voters is left. Raises BlixardError."""
        member = self.check_known(raft_id)
        left = [voter for voter in self.voters() if voter != raft_id]
        if not left:
            raise BlixardError("INVARIANT", "the last voter cannot be removed")
        alive = [voter for voter in left if voter in active]
        if not member.learner and 2 * len(alive) <= len(left):
            raise BlixardError(
                "INVARIANT",
                f"{len(alive)} of {len(left)} remaining voters answer: no majority would be left",
            )
