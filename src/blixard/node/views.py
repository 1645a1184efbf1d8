"""What the leader tells a node and what it believes of a report: pure functions of the store."""

from __future__ import annotations

import hashlib

import msgspec

from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.network.views import network_views
from blixard.node.messages import NodeView, Peer
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


def assignments_of(store: Store, node_uid: str) -> tuple[Assignment, ...]:
    """Return the instances given to a node, in order of their uid."""
    return tuple(
        Assignment(
            uid=instance.metadata.uid,
            namespace=instance.metadata.namespace,
            name=instance.metadata.name,
            spec=msgspec.convert(instance.spec, InstanceSpec),
        )
        for instance in sorted(store.list("Instance"), key=lambda i: i.metadata.uid)
        if instance.spec.get("node") == node_uid
    )


def node_view(store: Store, node: Resource, voters: set[int]) -> NodeView:
    """Return the duties of *node* with a digest that changes only when they do."""
    epoch = int(node.status.get("epoch", 0))
    assignments = assignments_of(store, node.metadata.uid)
    networks = network_views(store, node.metadata.uid)
    peers = peers_of(store, voters)
    body = msgspec.msgpack.encode((epoch, assignments, networks, peers))
    return NodeView(
        digest=hashlib.blake2b(body, digest_size=16).hexdigest(),
        epoch=epoch,
        revision=store.revision,
        assignments=assignments,
        networks=networks,
        peers=peers,
    )


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
        and node.status.get("epoch") == epoch
        and node.status.get("state") == "Ready"
    )
