"""Joining: what the new node sends, and the leader's decision about it.

Order of the leader's route: :func:`decide_join`, then commit ``JoinDecision.ops`` as one
transaction (token used + node made), then sign the certificate, then answer. A lost answer is asked
for again with the same key and name, until the token expires.

| request | answer |
|---|---|
| same key and name again, token not expired | a certificate again, nothing to commit |
| other key or other name, used token | JOIN_TOKEN_USED |
| token unknown / expired | JOIN_TOKEN_UNKNOWN / JOIN_TOKEN_EXPIRED |
| name or address not the bound one, name taken | JOIN_NAME_MISMATCH / NODE_NAME_TAKEN |
| proof for another request, channel, name or by another seed | JOIN_PROOF_INVALID |
| data directory of a removed node / of a present one | NODE_REMOVED / WRONG_CLUSTER |
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization

from blixard.base.errors import BlixardError, Problem
from blixard.cluster.resources import Delete, Operation, PatchStatus, Put, Resource
from blixard.security.ca import make_request, read_request
from blixard.security.tokens import (
    JoinSecret,
    proof_is_valid,
    public_key_of,
    sign_proof,
    token_id,
)

NODE_NAME_PATTERN = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
JOIN_PATH = "/v1/join"
FIRST_EPOCH = 1


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a node says about itself; ``address`` is of the transport, ``host:port`` both.

    The token's roles, where it names some, go before the node's own.
    """

    address: str
    api_address: str
    vcpus: int
    memory_mib: int
    function_memory_mib: int = 0
    max_vms: int = 100
    labels: dict[str, str] = {}
    roles: tuple[str, ...] = ()
    versions: dict[str, str] = {}


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a new node sends; ``former_uid``: the identity that its data directory has already."""

    token_id: str
    name: str
    csr: bytes
    proof: bytes
    facts: NodeFacts
    former_uid: str = ""


class JoinMember(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One node of the cluster as a joiner learns it."""

    uid: str
    name: str
    address: str
    api_address: str
    raft_id: int
    voter: bool = False


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the leader answers; ``time_ms`` lets the joiner explain a wrong clock."""

    cluster_id: str
    node_uid: str
    raft_id: int
    epoch: int
    chain_pem: str
    roots_pem: str
    members: tuple[JoinMember, ...]
    time_ms: int


def make_join_request(
    secret: JoinSecret,
    *,
    name: str,
    facts: NodeFacts,
    key_pem: bytes,
    server_certificate_der: bytes,
    former_uid: str = "",
) -> JoinRequest:
    """Return what a new node sends over the connection to exactly this server."""
    csr = make_request(key_pem)
    proof = sign_proof(
        secret.seed, csr_der=csr, server_certificate_der=server_certificate_der, name=name
    )
    return JoinRequest(
        token_id=token_id(public_key_of(secret.seed)),
        name=name,
        csr=csr,
        proof=proof,
        facts=facts,
        former_uid=former_uid,
    )


class JoinView(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader's state says about a request.

    ``node_of_name`` and ``former_node`` are the Node resources of the wished name and of
    ``former_uid``; ``server_certificate_sha256`` is of the node to which the joiner spoke: a node
    that forwards a request states its own, and is believed because its certificate says who it is.
    """

    token: Resource | None
    node_of_name: Resource | None
    former_node: Resource | None
    config: Resource
    server_certificate_sha256: bytes


class JoinDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What to commit before signing (nothing on a retry), and whom to name in the certificate."""

    node_uid: str
    raft_id: int
    epoch: int
    ops: tuple[Operation, ...]


def store_token(
    seed: bytes,
    *,
    uid: str,
    expires_at_ms: int,
    node_name: str = "",
    address: str = "",
    roles: tuple[str, ...] = (),
) -> Put:
    """Return the operation that makes the cluster know a token: its public half."""
    public_key = public_key_of(seed)
    return Put(
        kind="JoinToken",
        namespace="",
        name=token_id(public_key),
        uid=uid,
        expect=0,
        spec={
            "publicKey": base64.b64encode(public_key).decode(),
            "expiresAtMs": expires_at_ms,
            "nodeName": node_name,
            "address": address,
            "roles": list(roles),
        },
    )


def decide_join(
    view: JoinView, request: JoinRequest, *, now_ms: int, new_uid: str
) -> JoinDecision | BlixardError:
    """Return what to commit and sign, or why not. *new_uid* becomes the uid of a new node."""
    try:
        return _decide(view, request, now_ms, new_uid)
    except BlixardError as error:
        return error


def requester_key_id(csr_der: bytes) -> str:
    """Return the SHA-256 of the request's public key, hex. Raises BlixardError BAD_REQUEST."""
    key = read_request(csr_der).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _decide(view: JoinView, request: JoinRequest, now_ms: int, new_uid: str) -> JoinDecision:
    _check_name(request.name)
    key_id = requester_key_id(request.csr)
    token = view.token
    if token is None:
        raise BlixardError("JOIN_TOKEN_UNKNOWN", f"the cluster knows no token {request.token_id!r}")
    _check_proof(view, token, request)
    # Whoever comes past the proof holds the seed: now the reasons may be told.
    used_at_ms = int(token.status.get("usedAtMs") or 0)
    if used_at_ms:
        return _repeated(view, token, request, key_id, now_ms)
    _check_expiry(token, now_ms)
    bound = str(token.spec.get("nodeName") or "")
    if bound and bound != request.name:
        raise BlixardError("JOIN_NAME_MISMATCH", f"the token is for {bound}, not {request.name}")
    _check_address(token, request.facts.address)
    _check_name_is_free(view)
    _check_former(view, request)
    return _first_use(view, token, request, key_id=key_id, now_ms=now_ms, new_uid=new_uid)


def _check_name(name: str) -> None:
    if NODE_NAME_PATTERN.fullmatch(name) is None:
        message = "1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
        raise BlixardError(
            "INVALID",
            f"{name[:80]!r} is no name for a node",
            problems=(Problem(pointer="/name", message=message),),
        )


def _check_proof(view: JoinView, token: Resource, request: JoinRequest) -> None:
    try:
        public_key = base64.b64decode(str(token.spec.get("publicKey")), validate=True)
    except binascii.Error as error:
        raise BlixardError("INTERNAL", f"token {request.token_id} has no readable key") from error
    good = proof_is_valid(
        public_key,
        request.proof,
        csr_der=request.csr,
        server_certificate_sha256=view.server_certificate_sha256,
        name=request.name,
    )
    if not good:
        raise BlixardError("JOIN_PROOF_INVALID")


def _check_expiry(token: Resource, now_ms: int) -> None:
    expires_at_ms = int(token.spec["expiresAtMs"])
    if now_ms >= expires_at_ms:
        late_s = (now_ms - expires_at_ms) // 1000
        details: dict[str, object] = {"expiresAtMs": expires_at_ms, "nowMs": now_ms}
        raise BlixardError(
            "JOIN_TOKEN_EXPIRED", f"the token expired {late_s} s ago", details=details
        )


def _repeated(
    view: JoinView, token: Resource, request: JoinRequest, key_id: str, now_ms: int
) -> JoinDecision:
    """Answer the same key and name again, for its first answer may have been lost."""
    node = view.node_of_name
    same = token.status.get("usedByKey") == key_id
    if not same or token.status.get("usedByName") != request.name or node is None:
        by, at_ms = token.status.get("usedByName"), token.status.get("usedAtMs")
        details: dict[str, object] = {"usedByName": by, "usedAtMs": at_ms}
        raise BlixardError("JOIN_TOKEN_USED", f"the token was used by {by}", details=details)
    _check_expiry(token, now_ms)
    if node.status.get("state") == "Removed":
        raise BlixardError("NODE_REMOVED", f"{request.name} was removed from the cluster")
    return JoinDecision(
        node_uid=node.metadata.uid,
        raft_id=int(node.spec["raftId"]),
        epoch=int(node.status.get("epoch") or FIRST_EPOCH),
        ops=(),
    )


def _check_address(token: Resource, address: str) -> None:
    bound = str(token.spec.get("address") or "")
    host = address.rpartition(":")[0].strip("[]")
    if bound and host != bound.strip("[]") and address != bound:
        raise BlixardError(
            "JOIN_NAME_MISMATCH", f"the token is for address {bound}, not {host}", hint="use it"
        )


def _check_name_is_free(view: JoinView) -> None:
    node = view.node_of_name
    if node is not None and node.status.get("state") != "Removed":
        raise BlixardError("NODE_NAME_TAKEN", f"a node named {node.metadata.name} exists")


def _check_former(view: JoinView, request: JoinRequest) -> None:
    """Refuse a data directory that has an identity: its log and instances are of the past."""
    if not request.former_uid:
        return
    former = view.former_node
    if former is None or former.status.get("state") == "Removed":
        raise BlixardError("NODE_REMOVED", "the data directory belongs to a node that was removed")
    raise BlixardError(
        "WRONG_CLUSTER", f"the data directory belongs to node {former.metadata.name}"
    )


def _first_use(
    view: JoinView,
    token: Resource,
    request: JoinRequest,
    *,
    key_id: str,
    now_ms: int,
    new_uid: str,
) -> JoinDecision:
    raft_id = int(view.config.spec["nextRaftId"])
    ops = (
        _use_token(token, request, key_id, now_ms),
        _count_raft_id(view.config, raft_id),
        *_forget_removed(view.node_of_name),
        _make_node(token, request, raft_id, now_ms, new_uid),
    )
    return JoinDecision(node_uid=new_uid, raft_id=raft_id, epoch=FIRST_EPOCH, ops=ops)


def _use_token(token: Resource, request: JoinRequest, key_id: str, now_ms: int) -> PatchStatus:
    used = {"usedByKey": key_id, "usedByName": request.name, "usedAtMs": now_ms}
    return PatchStatus.of(token, used, unchanged=True)


def _count_raft_id(config: Resource, raft_id: int) -> Put:
    return Put.of(config, {**config.spec, "nextRaftId": raft_id + 1}, unchanged=True)


def _forget_removed(node: Resource | None) -> tuple[Operation, ...]:
    """Free the name of a removed node; its raft id and uid are never used again."""
    return () if node is None else (Delete.of(node, unchanged=True),)


def _make_node(
    token: Resource, request: JoinRequest, raft_id: int, now_ms: int, new_uid: str
) -> Put:
    return Put(
        kind="Node",
        namespace="",
        name=request.name,
        spec=node_spec(
            request.facts,
            raft_id=raft_id,
            roles=list(token.spec.get("roles") or request.facts.roles),
        ),
        uid=new_uid,
        expect=0,
        status={
            "epoch": FIRST_EPOCH,
            "state": "Joining",
            "lastChangeMs": now_ms,
            "versions": dict(request.facts.versions),
        },
    )


def node_spec(facts: NodeFacts, *, raft_id: int, roles: list[str]) -> dict[str, Any]:
    """Return the spec of a Node; also for the first node, which joins nothing."""
    return {
        "address": facts.address,
        "apiAddress": facts.api_address,
        "raftId": raft_id,
        "roles": roles,
        "labels": dict(facts.labels),
        "capacity": {
            "vcpus": facts.vcpus,
            "memoryMib": facts.memory_mib,
            "functionMemoryMib": facts.function_memory_mib,
        },
        "maxVms": facts.max_vms,
        "schedulable": True,
    }
