"""Who votes: 3, 5 or 7 of the nodes, learners first, one change at a time. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

VOTERS_MAX_DEFAULT = 5
REPLACE_AFTER_S = 300.0  # a voter lost this long is replaced where a spare is ready
LAGS_AFTER_S = 60.0  # a learner that has not caught up for so long keeps no other one waiting


class NodeFact(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the membership rule sees it; ``refusals``: invitations that came to nothing."""

    uid: str
    raft_id: int
    ready: bool
    removing: bool = False
    lost_for_s: float = 0.0
    refusals: int = 0


class MemberFact(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the Raft configuration; ``caught_up``: within the leader's promotion bound.

    ``lags_for_s``: for how long it has not been, although its node is ready.
    """

    raft_id: int
    learner: bool
    caught_up: bool = True
    lags_for_s: float = 0.0


class MemberStep(msgspec.Struct, frozen=True, kw_only=True):
    """One change."""

    kind: Literal["add_learner", "promote", "demote", "remove", "transfer"]
    raft_id: int
    uid: str = ""
    why: str = ""


def voters_wanted(ready_nodes: int, voters_max: int) -> int:
    """Return the odd number of voters for that many ready nodes."""
    most = min(ready_nodes, voters_max)
    return most if most % 2 else max(1, most - 1)


def next_step(
    nodes: list[NodeFact], members: list[MemberFact], *, own_raft_id: int, voters_max: int
) -> MemberStep | None:
    """Return the next membership change, or None.

    Order: members without a node go first; then a node on its way out; then the number of voters
    is brought to an odd number, never through a smaller quorum margin than before. A voter whose
    node is lost for long gives its vote to another one and stays a learner: its raft id is never
    used again once it is removed, and its node may come back.
    """
    by_id = {node.raft_id: node for node in nodes}
    leaving = [m for m in members if m.raft_id not in by_id or by_id[m.raft_id].removing]
    for member in sorted(leaving, key=lambda m: m.raft_id):
        return _leave(member, members, nodes, own_raft_id)
    voters = [m for m in members if not m.learner]
    learners = [m for m in members if m.learner and by_id[m.raft_id].ready]
    ready = [n for n in nodes if n.ready and not n.removing]
    wanted = voters_wanted(len(ready), voters_max)
    if len(voters) < wanted:
        return _grow(ready, members, voters, learners, wanted)
    prepared = any(m.caught_up for m in learners)
    replaceable = len(voters) >= 3 and (prepared or _spare(ready, members) is not None)
    for member in sorted(voters, key=lambda m: m.raft_id):
        node = by_id[member.raft_id]
        if node.lost_for_s > REPLACE_AFTER_S and replaceable:
            return MemberStep(kind="demote", raft_id=member.raft_id, uid=node.uid, why="lost")
    return None


def _leave(
    member: MemberFact, members: list[MemberFact], nodes: list[NodeFact], own_raft_id: int
) -> MemberStep | None:
    if member.raft_id != own_raft_id:
        return MemberStep(kind="remove", raft_id=member.raft_id, why="its node leaves")
    ready = {n.raft_id for n in nodes if n.ready and not n.removing}
    heirs = [m for m in members if not m.learner and m.raft_id in ready and m != member]
    if not heirs:
        return None
    heir = min(heirs, key=lambda m: m.raft_id)
    return MemberStep(kind="transfer", raft_id=heir.raft_id, why="the leader's node leaves")


def _spare(ready: list[NodeFact], members: list[MemberFact]) -> NodeFact | None:
    """Return whom to invite: in turn, for one that always refuses must not keep the others out."""
    inside = {m.raft_id for m in members}
    outside = [n for n in ready if n.raft_id not in inside]
    return min(outside, key=lambda n: (n.refusals, n.raft_id)) if outside else None


def _grow(
    ready: list[NodeFact],
    members: list[MemberFact],
    voters: list[MemberFact],
    learners: list[MemberFact],
    wanted: int,
) -> MemberStep | None:
    """Gather learners first, promote when the next odd number can be reached at once."""
    spare = _spare(ready, members)
    hopeful = [m for m in learners if m.caught_up or m.lags_for_s <= LAGS_AFTER_S]
    if len(voters) + len(hopeful) < wanted and spare is not None:
        return MemberStep(kind="add_learner", raft_id=spare.raft_id, uid=spare.uid)
    next_odd = len(voters) + 2 if len(voters) % 2 else len(voters) + 1
    prepared = [m for m in learners if m.caught_up]
    if len(voters) + len(prepared) >= min(wanted, next_odd) and prepared:
        first = min(prepared, key=lambda m: m.raft_id)
        return MemberStep(kind="promote", raft_id=first.raft_id)
    return None
