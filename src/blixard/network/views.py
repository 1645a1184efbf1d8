"""What a node must know of the networks: who is where; a pure function of the store."""

from __future__ import annotations

import msgspec

from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.network.addresses import gateway_of
from blixard.network.kinds import NetworkSpec
from blixard.ports.network import Endpoint, NetworkView


def underlay(node: Resource) -> str:
    """Return the host part of a node's address."""
    return str(node.spec.get("address", "")).rpartition(":")[0]


def network_views(store: Store, node_uid: str) -> tuple[NetworkView, ...]:
    """Return every network as the node must set it, in order of name."""
    nodes = {node.metadata.uid: node for node in store.list("Node")}
    others = {underlay(n) for uid, n in nodes.items() if uid != node_uid}
    peers = tuple(sorted(others - {""}))
    return tuple(
        _view(network, nodes, peers, store.list("Instance")) for network in store.list("Network")
    )


def _view(
    network: Resource,
    nodes: dict[str, Resource],
    peers: tuple[str, ...],
    instances: list[Resource],
) -> NetworkView:
    spec = msgspec.convert(network.spec, NetworkSpec)
    endpoints = [
        Endpoint(
            instance_uid=instance.metadata.uid,
            mac=instance.spec["mac"],
            ip=instance.spec["ip"],
            node_uid=instance.spec["node"],
            node_address=underlay(nodes[instance.spec["node"]]),
        )
        for instance in instances
        if instance.spec.get("network") == network.metadata.name
        and instance.spec.get("ip")
        and instance.spec.get("node") in nodes
    ]
    return NetworkView(
        name=network.metadata.name,
        vni=spec.vni,
        cidr=spec.cidr,
        gateway=gateway_of(spec.cidr),
        mtu=spec.mtu,
        peers=peers,
        endpoints=tuple(sorted(endpoints, key=lambda e: e.instance_uid)),
    )
