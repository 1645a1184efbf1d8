from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Delete, Metadata, PatchStatus, Put, Resource
from blixard.security import ca, join, tokens
from blixard.security.join import JoinDecision, JoinRequest, JoinView, NodeFacts

NOW_MS = 1_800_000_000_000
SEED = bytes(range(32))
SERVER = b"the server's certificate"
KEY = ca.make_key()
FACTS = NodeFacts(
    address="10.0.0.2:7000",
    api_address="10.0.0.2:7001",
    vcpus=4,
    memory_mib=8192,
    labels={"a": "b"},
)


def _resource(
    kind: str, name: str, spec: dict[str, Any], status: dict[str, Any] | None = None
) -> Resource:
    metadata = Metadata(name=name, uid=f"uid-{name}", revision=41)
    return Resource(kind=kind, metadata=metadata, spec=spec, status=status or {})


def _token(used_by: str = "", *, key: bytes = KEY, **spec: Any) -> Resource:
    public_key = tokens.public_key_of(SEED)
    fields = {
        "publicKey": base64.b64encode(public_key).decode(),
        "expiresAtMs": NOW_MS + 1000,
        "roles": ["worker"],
        **spec,
    }
    status: dict[str, Any] = {}
    if used_by:
        key_id = join.requester_key_id(ca.make_request(key))
        status = {"usedByKey": key_id, "usedByName": used_by, "usedAtMs": NOW_MS - 500}
    return _resource("JoinToken", tokens.token_id(public_key), fields, status)


def _node(name: str = "n2", *, state: str = "Ready", epoch: int = 1) -> Resource:
    return _resource("Node", name, {"raftId": 2}, {"epoch": epoch, "state": state})


def _request(*, name: str = "n2", key: bytes = KEY, former_uid: str = "") -> JoinRequest:
    csr = ca.make_request(key)
    proof = tokens.sign_proof(SEED, csr_der=csr, server_certificate_der=SERVER, name=name)
    return JoinRequest(
        token_id=tokens.token_id(tokens.public_key_of(SEED)),
        name=name,
        csr=csr,
        proof=proof,
        facts=FACTS,
        former_uid=former_uid,
    )


def _decide(
    request: JoinRequest | None = None,
    *,
    token: Resource | None = None,
    node: Resource | None = None,
    former: Resource | None = None,
    server: bytes = SERVER,
    now_ms: int = NOW_MS,
) -> JoinDecision | BlixardError:
    view = JoinView(
        token=token,
        node_of_name=node,
        former_node=former,
        config=_resource("ClusterConfig", "cluster", {"nextRaftId": 5, "voters": 3}),
        server_certificate_sha256=hashlib.sha256(server).digest(),
    )
    return join.decide_join(view, request or _request(), now_ms=now_ms, new_uid="NEW")


def _code(decision: JoinDecision | BlixardError) -> str:
    assert isinstance(decision, BlixardError), decision
    return decision.code


def test_first_use_makes_node_and_uses_token() -> None:
    decision = _decide(token=_token())
    assert isinstance(decision, JoinDecision)
    assert (decision.node_uid, decision.raft_id, decision.epoch) == ("NEW", 5, 1)
    use, count, make = decision.ops
    assert isinstance(use, PatchStatus)
    assert use.expect == 41
    assert use.status["usedByName"] == "n2"
    assert use.status["usedByKey"] == join.requester_key_id(ca.make_request(KEY))
    assert isinstance(count, Put)
    assert (count.spec, count.expect) == ({"nextRaftId": 6, "voters": 3}, 41)
    assert isinstance(make, Put)
    assert (make.name, make.uid, make.expect) == ("n2", "NEW", 0)
    assert make.spec == {
        "address": "10.0.0.2:7000",
        "apiAddress": "10.0.0.2:7001",
        "raftId": 5,
        "roles": ["worker"],
        "labels": {"a": "b"},
        "capacity": {"vcpus": 4, "memoryMib": 8192, "functionMemoryMib": 0},
        "maxVms": 100,
        "schedulable": True,
    }
    assert (make.status["epoch"], make.status["state"]) == (1, "Joining")


def test_lost_answer_is_given_again() -> None:
    decision = _decide(token=_token("n2"), node=_node(epoch=3))
    assert decision == JoinDecision(node_uid="uid-n2", raft_id=2, epoch=3, ops=())


def test_used_token_refuses_other_key() -> None:
    decision = _decide(token=_token("n2", key=ca.make_key()), node=_node())
    assert _code(decision) == "JOIN_TOKEN_USED"
    assert isinstance(decision, BlixardError)
    assert decision.details == {"usedByName": "n2", "usedAtMs": NOW_MS - 500}


def test_used_token_refuses_other_name() -> None:
    assert _code(_decide(_request(name="n3"), token=_token("n2"))) == "JOIN_TOKEN_USED"


def test_used_token_of_deleted_node_is_used() -> None:
    assert _code(_decide(token=_token("n2"))) == "JOIN_TOKEN_USED"


def test_repetition_ends_with_the_token() -> None:
    decision = _decide(token=_token("n2"), node=_node(), now_ms=NOW_MS + 1000)
    assert _code(decision) == "JOIN_TOKEN_EXPIRED"


def test_repetition_of_removed_node_is_refused() -> None:
    assert _code(_decide(token=_token("n2"), node=_node(state="Removed"))) == "NODE_REMOVED"


def test_expired_token_is_refused() -> None:
    assert _code(_decide(token=_token(), now_ms=NOW_MS + 1000)) == "JOIN_TOKEN_EXPIRED"


def test_unknown_token_is_refused() -> None:
    assert _code(_decide()) == "JOIN_TOKEN_UNKNOWN"


def test_token_bound_to_other_name_is_refused() -> None:
    assert _code(_decide(token=_token(nodeName="n9"))) == "JOIN_NAME_MISMATCH"
    assert isinstance(_decide(token=_token(nodeName="n2")), JoinDecision)


def test_token_bound_to_other_address_is_refused() -> None:
    assert _code(_decide(token=_token(address="10.0.0.9"))) == "JOIN_NAME_MISMATCH"
    for bound in ("10.0.0.2", "10.0.0.2:7000"):
        assert isinstance(_decide(token=_token(address=bound)), JoinDecision)


def test_name_of_present_node_is_taken() -> None:
    for state in ("Ready", "Lost"):
        assert _code(_decide(token=_token(), node=_node(state=state))) == "NODE_NAME_TAKEN"


def test_name_of_removed_node_is_free() -> None:
    decision = _decide(token=_token(), node=_node(state="Removed"))
    assert isinstance(decision, JoinDecision)
    deleted = [op for op in decision.ops if isinstance(op, Delete)]
    assert [(op.name, op.uid, op.expect) for op in deleted] == [("n2", "uid-n2", 41)]


def test_relay_that_swaps_the_request_is_noticed() -> None:
    good = _request()
    swapped = JoinRequest(
        token_id=good.token_id,
        name=good.name,
        csr=ca.make_request(ca.make_key()),
        proof=good.proof,
        facts=good.facts,
    )
    assert _code(_decide(swapped, token=_token())) == "JOIN_PROOF_INVALID"


def test_relay_over_its_own_channel_is_noticed() -> None:
    assert _code(_decide(token=_token(), server=b"relay")) == "JOIN_PROOF_INVALID"


def test_other_seed_is_refused_before_any_reason() -> None:
    other = base64.b64encode(tokens.public_key_of(bytes(32))).decode()
    used_and_expired = _token("n2", publicKey=other, expiresAtMs=0)
    assert _code(_decide(token=used_and_expired, node=_node())) == "JOIN_PROOF_INVALID"


def test_data_directory_of_removed_node_is_refused() -> None:
    request = _request(former_uid="OLD")
    for former in (None, _node("old", state="Removed")):
        assert _code(_decide(request, token=_token(), former=former)) == "NODE_REMOVED"


def test_data_directory_of_present_node_is_refused() -> None:
    request = _request(former_uid="OLD")
    assert _code(_decide(request, token=_token(), former=_node("old"))) == "WRONG_CLUSTER"


@pytest.mark.parametrize("name", ["", "N2", "-a", "a-", "a.b", "a" * 64, "a\n", "../x", "é"])
def test_unusable_names_are_refused(name: str) -> None:
    assert _code(_decide(_request(name=name), token=_token())) == "INVALID"


def test_unusable_key_is_refused() -> None:
    good = _request()
    noise = JoinRequest(
        token_id=good.token_id, name="n2", csr=b"noise", proof=good.proof, facts=FACTS
    )
    assert _code(_decide(noise, token=_token())) == "BAD_REQUEST"


def test_token_without_readable_key_is_our_error() -> None:
    assert _code(_decide(token=_token(publicKey="?"))) == "INTERNAL"
