"""Admitting nodes: the leader decides, commits, then signs; renewals go the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.node.node import Node, Voter
from blixard.security.ca import Authority, issue_node_certificate
from blixard.security.identity import Identity
from blixard.security.join import JoinAnswer, JoinMember, JoinRequest, JoinView, decide_join

JOIN, RENEW = "node.join", "node.renew"
COMMIT_S = 8.0


class Relayed(msgspec.Struct, frozen=True, array_like=True):
    """A join request with the certificate of the node that it was sent to."""

    body: bytes
    server_certificate_sha256: bytes


class Admission:
    """Serves join and renewal requests; only a voter holds the issuing authority."""

    def __init__(
        self,
        node: Node,
        *,
        trust_domain: str,
        issuer: Callable[[], Authority | None],
        roots_pem: bytes,
        own_certificate_der: Callable[[], bytes],
    ) -> None:
        self._node = node
        self._env = node.env
        self._trust_domain = trust_domain
        self._issuer = issuer
        self._roots_pem = roots_pem
        self._own_certificate_der = own_certificate_der

    def register(self) -> None:
        """Serve what other nodes pass on."""
        for method, handler in ((JOIN, self._on_join), (RENEW, self._on_renew)):
            self._env.transport.on_request(method, handler)
            self._node.leadership.serve(method, handler)

    async def join(self, body: bytes) -> JoinAnswer:
        """Admit a node that asked here; the leader does it."""
        digest = hashlib.sha256(self._own_certificate_der()).digest()
        relayed = msgspec.msgpack.encode(Relayed(body, digest))
        answer = await self._node.leadership.ask(JOIN, relayed, timeout_s=COMMIT_S + 1)
        return msgspec.msgpack.decode(answer, type=JoinAnswer)

    async def renew(self, csr_der: bytes) -> bytes:
        """Return a new certificate chain for this node."""
        return await self._node.leadership.ask(RENEW, csr_der, timeout_s=COMMIT_S)

    def _leading(self) -> tuple[Voter, Authority]:
        voter = self._node.voter
        if voter is None or not voter.raft.is_leader:
            leader = voter.raft.leader_uid if voter is not None else ""
            raise BlixardError("NOT_LEADER", details={"leader": leader})
        issuer = self._issuer()
        if issuer is None:
            raise BlixardError("INTERNAL", "this voter does not hold the issuing authority")
        return voter, issuer

    async def _on_join(self, _uid: str, payload: bytes) -> bytes:
        voter, issuer = self._leading()
        relayed = msgspec.msgpack.decode(payload, type=Relayed)
        try:
            request = msgspec.json.decode(relayed.body, type=JoinRequest)
        except msgspec.MsgspecError as error:
            raise BlixardError("BAD_REQUEST", f"the join request: {error}") from error
        await voter.cluster.barrier(timeout_s=COMMIT_S)
        store = voter.cluster.store
        config = store.get("ClusterConfig", "", "cluster")
        if config is None:
            raise BlixardError("NOT_LEADER", "the cluster is not founded yet")
        now_ms = self._env.wall_time_ms()
        decision = decide_join(
            JoinView(
                token=store.get("JoinToken", "", request.token_id),
                node_of_name=store.get("Node", "", request.name),
                former_node=store.by_uid(request.former_uid) if request.former_uid else None,
                config=config,
                server_certificate_sha256=relayed.server_certificate_sha256,
            ),
            request,
            now_ms=now_ms,
            new_uid=self._env.new_id(),
        )
        if isinstance(decision, BlixardError):
            self._env.log("warning", "join_refused", name=request.name, code=decision.code)
            raise decision
        if decision.ops:
            await voter.cluster.commit(decision.ops, actor="system:join", timeout_s=COMMIT_S)
        self._env.log("info", "node_admitted", name=request.name, uid=decision.node_uid)
        chain = self._sign(issuer, request.csr, decision.node_uid, decision.epoch, now_ms)
        answer = JoinAnswer(
            cluster_id=self._node.identity.cluster_id,
            node_uid=decision.node_uid,
            raft_id=decision.raft_id,
            epoch=decision.epoch,
            chain_pem=chain.decode(),
            roots_pem=self._roots_pem.decode(),
            members=_members(voter),
            time_ms=now_ms,
        )
        return msgspec.msgpack.encode(answer)

    async def _on_renew(self, uid: str, payload: bytes) -> bytes:
        voter, issuer = self._leading()
        await voter.cluster.barrier(timeout_s=COMMIT_S)
        node = voter.cluster.store.by_uid(uid)
        if node is None or node.kind != "Node":
            raise BlixardError("NODE_REMOVED", f"no node has the uid {uid}")
        epoch = int(node.status.get("epoch", 1))
        return self._sign(issuer, payload, uid, epoch, self._env.wall_time_ms())

    def _sign(self, issuer: Authority, csr: bytes, uid: str, epoch: int, now_ms: int) -> bytes:
        identity = Identity(
            trust_domain=self._trust_domain, kind="node", name=uid, epoch=max(1, epoch)
        )
        return issue_node_certificate(issuer, csr, identity, now_ms=now_ms)


def _members(voter: Voter) -> tuple[JoinMember, ...]:
    voting = {m.uid for m in voter.raft.membership.listed() if not m.learner}
    return tuple(
        JoinMember(
            uid=node.metadata.uid,
            name=node.metadata.name,
            address=str(node.spec.get("address", "")),
            api_address=str(node.spec.get("apiAddress", "")),
            raft_id=int(node.spec.get("raftId", 0)),
            voter=node.metadata.uid in voting,
        )
        for node in voter.cluster.store.list("Node")
    )
