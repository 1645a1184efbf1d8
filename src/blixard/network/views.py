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


class NetworkMap:
    """All networks of one state: what every node has in common is worked out once."""

    def __init__(self, store: Store) -> None:
        nodes = {node.metadata.uid: node for node in store.list("Node")}
        self._underlays = {uid: underlay(node) for uid, node in nodes.items()}
        endpoints: dict[str, list[Endpoint]] = {}
        for instance in store.list("Instance"):
            spec = instance.spec
            node_uid = spec.get("node", "")
            if spec.get("ip") and node_uid in nodes:
                endpoint = Endpoint(
                    instance_uid=instance.metadata.uid,
                    mac=spec["mac"],
                    ip=spec["ip"],
                    node_uid=node_uid,
                    node_address=self._underlays[node_uid],
                )
                endpoints.setdefault(spec.get("network", ""), []).append(endpoint)
        self._networks = tuple(
            _view(network, endpoints.get(network.metadata.name, []))
            for network in store.list("Network")
        )

    @property
    def common(self) -> tuple[NetworkView, ...]:
        """The networks without the peers, which alone differ from node to node."""
        return self._networks

    def seen_by(self, node_uid: str) -> tuple[NetworkView, ...]:
        """Return every network as the node must set it, in order of name."""
        others = {address for uid, address in self._underlays.items() if uid != node_uid}
        peers = tuple(sorted(others - {""}))
        return tuple(msgspec.structs.replace(view, peers=peers) for view in self._networks)


def _view(network: Resource, endpoints: list[Endpoint]) -> NetworkView:
    spec = msgspec.convert(network.spec, NetworkSpec)
    return NetworkView(
        name=network.metadata.name,
        vni=spec.vni,
        cidr=spec.cidr,
        gateway=gateway_of(spec.cidr),
        mtu=spec.mtu,
        peers=(),
        endpoints=tuple(sorted(endpoints, key=lambda e: e.instance_uid)),
    )
