"""Which nodes may call what: a worker that was taken over can neither act on guests nor invite."""

from __future__ import annotations

import pytest

from blixard.cluster.kinds import KINDS
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.store import Store
from blixard.consensus.config import Member
from blixard.consensus.membership import Membership
from blixard.node.entitled import refusal
from blixard.node.messages import (
    CONFIRM_START,
    FUNCTION_CALL,
    HEARTBEAT,
    INVITE,
    REPORT,
    Peer,
)
from blixard.ports.transport import MESSAGES

STREAM = "instance.stream"


def peer(uid: str, *, voter: bool) -> Peer:
    return Peer(uid=uid, name=f"{uid}-name", address="a:1", raft_id=1, epoch=1, voter=voter)


PEERS = (peer("voter", voter=True), peer("worker", voter=False))


def code(uid: str, method: str, **known: object) -> str:
    found = refusal(uid, method, **{"peers": PEERS, **known})  # type: ignore[arg-type]
    return "" if found is None else found.code


@pytest.mark.parametrize("method", [STREAM, INVITE, FUNCTION_CALL])
def test_only_voters_act_on_guests_and_invite(method: str) -> None:
    assert code("voter", method) == ""
    for uid in ("worker", "stranger"):
        assert code(uid, method) == "FORBIDDEN"
    assert code("voter", method, peers=()) == "FORBIDDEN"


def test_being_in_the_state_or_a_learner_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ClusterMachine(KINDS).store
    monkeypatch.setattr(Store, "by_uid", lambda _self, uid: object() if uid == "worker" else None)
    learner = Member(raft_id=3, uid="learner", address="a:3", learner=True)
    membership = Membership(None, (learner,))  # type: ignore[arg-type]
    known = {"store": store, "membership": membership}
    for method in (STREAM, INVITE):
        assert code("worker", method, **known) == "FORBIDDEN"
        assert code("learner", method, **known) == "FORBIDDEN"
    assert code("worker", HEARTBEAT, **known) == ""
    assert code("worker", "raft", **known) == "FORBIDDEN"
    assert code("learner", "raft", **known) == ""


def test_what_every_node_says_is_taken_from_nodes_only() -> None:
    for method in (HEARTBEAT, REPORT, CONFIRM_START, MESSAGES):
        assert code("worker", method) == ""
        assert code("stranger", method) == "NODE_REMOVED"
    assert code("stranger", MESSAGES, peers=()) == ""
    assert code("stranger", HEARTBEAT, peers=()) == "NODE_REMOVED"


def test_refusal_names_the_node_and_what_helps() -> None:
    found = refusal("worker", INVITE, peers=PEERS)
    assert found is not None
    assert "worker-name is none" in found.message
    assert "try again" in found.hint
