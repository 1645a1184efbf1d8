"""What the leader tells a node and what it believes of a report: pure functions of the store."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from blixard.cluster.leases import LeaderLeases
from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.functions.shares import duties_of
from blixard.functions.spec import digest_of
from blixard.images.duties import Builds, builds
from blixard.network.views import NetworkMap
from blixard.node.messages import FullView, NodeView, Peer
from blixard.placement.choice import VM_ROLE
from blixard.vms.reconcile import Assignment
from blixard.vms.spec import InstanceSpec


def peers_of(store: Store, voters: set[int]) -> tuple[Peer, ...]:
    """Return all nodes, in order of their uid."""
    return tuple(
        Peer(
            uid=node.metadata.uid,
            name=node.metadata.name,
            address=node.spec.get("address", ""),
            raft_id=node.spec.get("raftId", 0),
            epoch=node.status.get("epoch", 0),
            voter=node.spec.get("raftId", 0) in voters,
        )
        for node in sorted(store.list("Node"), key=lambda n: n.metadata.uid)
    )


def builds_of(store: Store) -> Builds:
    """Return which node builds which images: of the nodes that take new VMs."""
    nodes = [
        node
        for node in store.list("Node")
        if node.status.get("state") == "Ready"
        and node.spec.get("schedulable", True)
        and (not node.spec.get("roles") or VM_ROLE in node.spec["roles"])
    ]
    return builds(store.list("Image"), nodes)


Specs = dict[str, tuple[dict[str, Any], InstanceSpec]]


class ClusterView:
    """The duties of all nodes in one state.

    A change of the state wakes every node's question: what they have in common (who is where) is
    worked out and hashed once, not once per node.
    """

    def __init__(self, store: Store, voters: set[int], before: ClusterView | None = None) -> None:
        self._store = store
        self.voters = voters
        self._specs: Specs = _specs(store, before._specs if before is not None else {})
        self._given: dict[str, list[Assignment]] = {}
        for instance in sorted(store.list("Instance"), key=lambda i: i.metadata.uid):
            spec = self._specs[instance.metadata.uid][1]
            given = Assignment(
                uid=instance.metadata.uid,
                namespace=instance.metadata.namespace,
                name=instance.metadata.name,
                spec=spec,
            )
            self._given.setdefault(spec.node, []).append(given)
            if spec.migration:
                coming = msgspec.structs.replace(given, incoming=True)
                self._given.setdefault(spec.migration.target, []).append(coming)
        self._builds = builds_of(store)
        self._functions = duties_of(store)
        self._networks = NetworkMap(store)
        self._peers = peers_of(store, voters)
        self._common = _digest((self._networks.common, self._peers))
        self._digests: dict[str, str] = {}

    def describes(self, store: Store, voters: set[int]) -> bool:
        """Tell whether nothing that a node is told differs in *store*; statuses may."""
        if self.voters != voters or not self._store.same(store, ("Node", "Network")):
            return False
        if not self._store.same(store, ("Instance",)) and not _same_specs(
            self._specs, store.list("Instance")
        ):
            return False
        if not self._store.same(store, ("Image",)) and self._builds != builds_of(store):
            return False
        if not self._store.same(store, ("Function",)) and self._functions != duties_of(store):
            return False
        self._store = store
        return True

    def digest(self, node: Resource) -> str:
        """Return what changes only when the duties of *node* do."""
        uid = node.metadata.uid
        if uid not in self._digests:
            epoch = int(node.status.get("epoch", 0))
            given = self._given.get(uid, [])
            told = (self._common, uid, epoch, given, self._builds.get(uid, ()))
            functions = self._functions.get(uid)
            self._digests[uid] = _digest(told if functions is None else (*told, functions))
        return self._digests[uid]

    def of(self, node: Resource) -> NodeView:
        """Return the duties of *node*, assignments in order of uid."""
        uid = node.metadata.uid
        view = NodeView(
            digest=self.digest(node),
            epoch=int(node.status.get("epoch", 0)),
            revision=self._store.revision,
            assignments=tuple(self._given.get(uid, ())),
            networks=self._networks.seen_by(uid),
            peers=self._peers,
            images=self._builds.get(uid, ()),
        )
        functions = self._functions.get(uid)
        if functions is None:
            return view
        return FullView(**msgspec.structs.asdict(view), functions=functions)


def _specs(store: Store, known: Specs) -> Specs:
    """Decode the instances' specs; a change of status leaves the very same document."""
    specs: Specs = {}
    for instance in store.list("Instance"):
        uid, document = instance.metadata.uid, instance.spec
        old = known.get(uid)
        if old is not None and old[0] is document:
            specs[uid] = old
        else:
            specs[uid] = (document, msgspec.convert(document, InstanceSpec))
    return specs


def _same_specs(specs: Specs, instances: list[Resource]) -> bool:
    if len(specs) != len(instances):
        return False
    known = (specs.get(instance.metadata.uid) for instance in instances)
    return all(
        old is not None and old[0] is instance.spec
        for old, instance in zip(known, instances, strict=True)
    )


def _digest(value: object) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(value), digest_size=16).hexdigest()


def source_of(store: Store, uid: str, digest: str) -> bytes | None:
    """Return the source of a function, None if it is another one by now."""
    function = store.by_uid(uid)
    if function is None or function.kind != "Function":
        return None
    source = str(function.spec.get("source", ""))
    return source.encode() if digest_of(source) == digest else None


def may_start(store: Store, node_uid: str, *, uid: str, run: int, epoch: int) -> bool:
    """Tell whether that run is still the one that the cluster wants on that node in that epoch."""
    instance, node = store.by_uid(uid), store.by_uid(node_uid)
    if instance is None or node is None or instance.kind != "Instance":
        return False
    spec = instance.spec
    return bool(
        spec.get("node") == node_uid
        and spec.get("run") == run
        and spec.get("desired") == "Running"
        and spec.get("nodeEpoch") == epoch
        and "migration" not in spec  # until it is switched or taken back
        and node.status.get("epoch") == epoch
        and node.status.get("state") == "Ready"
    )


def heartbeat_verdict(node: Resource, epoch: int) -> Literal["grant", "welcome", "other epoch"]:
    """Return what a confirmed heartbeat that was sent under *epoch* earns the node."""
    if epoch != int(node.status.get("epoch", 0)):
        return "other epoch"
    return "grant" if node.status.get("state") == "Ready" else "welcome"


def to_be_fenced(node: Resource, leases: LeaderLeases, now_s: float) -> bool:
    """Tell whether a node that takes part is to be declared lost now."""
    return node.status.get("state") == "Ready" and leases.is_lost(node.metadata.uid, now_s)


def lost_status(node: Resource, reason: str, now_ms: int) -> dict[str, object]:
    """Return the status that ends a node's epoch."""
    epoch = int(node.status.get("epoch", 0))
    return {"state": "Lost", "epoch": epoch + 1, "reason": reason, "lostAtMs": now_ms}
