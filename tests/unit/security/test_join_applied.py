"""The join decision against the real state machine: what is committed is what is decided next."""

from __future__ import annotations

import hashlib

import pytest

from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.cluster.commands import encode_command
from blixard.cluster.kinds import KINDS
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Operation, Outcome, Put, Resource, Transaction
from blixard.security import ca, join, keys, principals, tokens
from blixard.security.join import JoinDecision, JoinRequest, JoinView, NodeFacts

NOW_MS = 1_800_000_000_000
SEED = bytes(range(32))
SERVER = b"the server's certificate"


class Cluster:
    """One state machine and a counter of requests."""

    def __init__(self) -> None:
        self.machine = ClusterMachine(KINDS)
        self.index = 0
        spec = {"clusterId": "C", "trustDomain": "c.blixard", "nextRaftId": 2}
        config = Put(kind="ClusterConfig", namespace="", name="cluster", uid="U0", spec=spec)
        assert self.commit(config).code == ""
        token = join.store_token(SEED, uid="U1", expires_at_ms=NOW_MS + 1000)
        assert self.commit(token).code == ""

    def commit(self, *ops: Operation) -> Outcome:
        self.index += 1
        transaction = Transaction(
            request_id=ulid(NOW_MS, self.index), time_ms=NOW_MS, actor="system:root", ops=ops
        )
        outcome: Outcome = self.machine.apply(self.index, 1, encode_command(transaction))
        return outcome

    def find(self, kind: str, name: str) -> Resource | None:
        return self.machine.store.get(kind, "", name)

    def decide(self, request: JoinRequest, *, uid: str = "NEW") -> JoinDecision | BlixardError:
        config = self.find("ClusterConfig", "cluster")
        assert config is not None
        view = JoinView(
            token=self.find("JoinToken", request.token_id),
            node_of_name=self.find("Node", request.name),
            former_node=None,
            config=config,
            server_certificate_sha256=hashlib.sha256(SERVER).digest(),
        )
        return join.decide_join(view, request, now_ms=NOW_MS, new_uid=uid)


def _request(name: str, key: bytes) -> JoinRequest:
    return join.make_join_request(
        tokens.JoinSecret(version=1, addresses=("a:1",), seed=SEED, ca_certificate_der=b""),
        name=name,
        facts=NodeFacts(address="h:1", api_address="h:2", vcpus=2, memory_mib=512),
        key_pem=key,
        server_certificate_der=SERVER,
    )


def _ops(decision: JoinDecision | BlixardError) -> tuple[Operation, ...]:
    assert isinstance(decision, JoinDecision), decision
    return decision.ops


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_committed_join_makes_node_and_marks_token(cluster: Cluster) -> None:
    key = ca.make_key()
    outcome = cluster.commit(*_ops(cluster.decide(_request("n2", key))))
    assert outcome.code == "", outcome
    node = cluster.find("Node", "n2")
    assert node is not None
    assert (node.metadata.uid, node.spec["raftId"], node.status["epoch"]) == ("NEW", 2, 1)
    again = cluster.decide(_request("n2", key), uid="OTHER")
    assert again == JoinDecision(node_uid="NEW", raft_id=2, epoch=1, ops=())
    thief = cluster.decide(_request("n3", ca.make_key()))
    assert isinstance(thief, BlixardError)
    assert thief.code == "JOIN_TOKEN_USED"


def test_two_joins_decided_at_once_commit_one(cluster: Cluster) -> None:
    decisions = [cluster.decide(_request(f"n{n}", ca.make_key()), uid=f"N{n}") for n in (2, 3)]
    outcomes = [cluster.commit(*_ops(decision)).code for decision in decisions]
    assert outcomes[0] == ""
    assert outcomes[1] != ""
    assert cluster.find("Node", "n3") is None


def test_stored_key_authenticates(cluster: Cluster) -> None:
    minted = keys.mint_key(bytes(range(64)))
    assert cluster.commit(keys.store_key(minted, role="admin")).code == ""
    found = principals.from_key(minted.text, lambda name: cluster.find("ApiKey", name), now_ms=1)
    assert (found.kind, found.role) == ("key", "admin")
