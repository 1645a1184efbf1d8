"""The API of a node: its standing, its status, its streams; for HTTP and for simulated clients."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from blixard import __version__
from blixard.api.credentials import MintedToken
from blixard.api.messages import CheckCertificate, Request
from blixard.api.service import ApiHandlers, ApiService
from blixard.cluster.facade import Cluster
from blixard.cluster.kind import KindTable, level_of
from blixard.cluster.kinds import level_in
from blixard.cluster.resources import Resource
from blixard.consensus.config import MemberHealth
from blixard.node.admission import Admission
from blixard.node.kinds import all_kinds
from blixard.node.node import Node
from blixard.node.streams import InstanceStreams
from blixard.security.tokens import encode_token, public_key_of, token_id

ADDRESSES_MAX = 5
SEED_BYTES = 32


def _trouble(health: MemberHealth | None) -> str:
    """Return what a person has to do something about, as this node sees another one."""
    if health is None:
        return ""
    if health.quarantined:
        return "quarantined: its state differs from that of a majority"
    if health.state == "differs":
        return "its state differs, and no majority agrees on one of the two"
    return "disk full" if health.disk_full else ""


class NodeStanding:
    """Implements ``api.standing.Standing`` for a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def own_uid(self) -> str:
        """The node's uid."""
        return self._node.identity.uid

    def replica(self) -> Cluster | None:
        """Return this node's copy of the state; None on a worker or in quarantine."""
        voter = self._node.voter
        return voter.cluster if voter is not None and not voter.raft.in_quarantine else None

    def leads(self) -> bool:
        """Tell whether this node may propose."""
        return self._node.voter is not None and self._node.voter.raft.is_leader

    def votes(self, uid: str) -> bool:
        """Tell whether a node votes, as this member knows the configuration."""
        voter = self._node.voter
        member = voter.raft.membership.by_uid(uid) if voter is not None else None
        return member is not None and not member.learner

    def in_touch(self) -> bool:
        """Tell whether the node holds a lease: the leader answered within its time."""
        link = self._node.link
        return link.lease.valid(self._node.env.boottime_ns())

    def candidates(self) -> list[str]:
        """Return whom to ask, the likely leader first."""
        return self._node.leadership.candidates()


class NodeApi:
    """The service with what the node answers itself; ``admission`` is absent in simulation."""

    def __init__(
        self,
        node: Node,
        *,
        admission: Admission | None = None,
        ca_certificate_der: bytes = b"",
        check_certificate: CheckCertificate | None = None,
    ) -> None:
        self._node = node
        self._admission = admission
        self._ca_certificate_der = ca_certificate_der
        self._streams = InstanceStreams(node.env, node.identity.uid, node.hypervisor)
        handlers = ApiHandlers(
            join=self._join if admission is not None else None,
            mint_token=self._mint if ca_certificate_der else None,
            status=self._status,
            live=self._live,
            version={"version": __version__, "apiVersion": "blixard.dev/v1"},
        )
        if check_certificate is not None:
            handlers.check_certificate = check_certificate
        self.service = ApiService(
            node.env,
            KindTable(all_kinds()),
            NodeStanding(node),
            sub_resources=(*self._streams.sub_resources(), *node.functions.sub_resources()),
            handlers=handlers,
        )

    def _live(self, resource: Resource) -> dict[str, Any]:
        return self._node.functions.status(resource) if resource.kind == "Function" else {}

    def register(self) -> None:
        """Serve other nodes; before the transport starts."""
        self.service.register()
        self._streams.register()

    async def _join(self, request: Request) -> Any:
        assert self._admission is not None
        return msgspec.to_builtins(await self._admission.join(request.body), str_keys=True)

    async def _mint(self) -> MintedToken:
        """Make a token; its seed is in the text and nowhere else."""
        seed = self._node.env.random.randbytes(SEED_BYTES)
        public_key = public_key_of(seed)
        cluster = self._node.voter.cluster if self._node.voter is not None else None
        nodes = cluster.store.list("Node") if cluster is not None else []
        own = self._node.identity.uid
        ordered = sorted(nodes, key=lambda node: node.metadata.uid != own)
        addresses = [str(node.spec.get("apiAddress", "")) for node in ordered]
        usable = tuple(address for address in addresses if address)[:ADDRESSES_MAX]
        return MintedToken(
            token_id=token_id(public_key),
            public_key=base64.b64encode(public_key).decode(),
            text=encode_token(usable, seed, self._ca_certificate_der),
        )

    def _status(self, cluster: Cluster) -> dict[str, Any]:
        """Return what ``cluster status`` shows."""
        voter = self._node.voter
        assert voter is not None
        raft = voter.raft.status()
        store = cluster.store
        config = store.get("ClusterConfig", "", "cluster")
        names = {node.metadata.uid: node.metadata.name for node in store.list("Node")}
        voters = {member.uid for member in raft.members if not member.learner}
        health = {member.uid: member for member in raft.health}
        return {
            "clusterId": config.spec.get("clusterId", "") if config is not None else "",
            "leader": raft.leader_uid,
            "leaderName": names.get(raft.leader_uid, ""),
            "term": raft.term,
            "revision": store.revision,
            "featureLevel": level_of(store),
            "voters": sorted(names.get(uid, uid) for uid in voters),
            "nodes": [
                {
                    "name": node.metadata.name,
                    "uid": node.metadata.uid,
                    "address": node.spec.get("address", ""),
                    "state": node.status.get("state", "Joining"),
                    "version": node.status.get("version", ""),
                    "featureLevel": level_in(node),
                    "epoch": node.status.get("epoch", 0),
                    "voter": node.metadata.uid in voters,
                    "leader": node.metadata.uid == raft.leader_uid,
                    "vcpusReserved": store.reserved(node.metadata.uid)[0],
                    "memoryMibReserved": store.reserved(node.metadata.uid)[1],
                    "trouble": _trouble(health.get(node.metadata.uid)),
                }
                for node in store.list("Node")
            ],
            "instances": store.count("Instance"),
            "answeredBy": self._node.identity.name,
            "raft": msgspec.to_builtins(raft),
        }
