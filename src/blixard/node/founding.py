"""The first transaction of a cluster: its configuration, its first node, a namespace, a network."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.cluster.kinds import Capacity, ClusterConfigSpec, NamespaceSpec, NodeSpec
from blixard.cluster.resources import Operation, Put
from blixard.network.kinds import NetworkSpec


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself when it founds or joins."""

    vcpus: int = 0
    memory_mib: int = 0
    function_memory_mib: int = 0
    api_address: str = ""
    roles: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    max_vms: int = 100


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """What ``init`` decided."""

    trust_domain: str
    facts: NodeFacts
    pool: str = "10.42.0.0/16"
    voters_max: int = 5


def founding_ops(
    founding: Founding,
    *,
    cluster_id: str,
    uid: str,
    name: str,
    address: str,
    new_uid: Callable[[], str],
) -> tuple[Operation, ...]:
    """Return the operations that make an empty state a cluster of one node."""
    facts = founding.facts
    config = ClusterConfigSpec(
        cluster_id=cluster_id,
        trust_domain=founding.trust_domain,
        next_raft_id=2,
        voters_max=founding.voters_max,  # type: ignore[arg-type]
    )
    node = NodeSpec(
        address=address,
        raft_id=1,
        api_address=facts.api_address,
        roles=facts.roles,
        labels=facts.labels,
        capacity=Capacity(
            vcpus=facts.vcpus,
            memory_mib=facts.memory_mib,
            function_memory_mib=facts.function_memory_mib,
        ),
        max_vms=facts.max_vms,
    )
    status = {"epoch": 1, "state": "Joining"}
    return (
        _put("Namespace", "default", NamespaceSpec(), new_uid()),
        _put("ClusterConfig", "cluster", config, new_uid()),
        _put("Node", name, node, uid, status),
        _put("Network", "default", NetworkSpec(cidr=founding.pool), new_uid()),
    )


def _put(
    kind: str, name: str, spec: msgspec.Struct, uid: str, status: dict[str, object] | None = None
) -> Put:
    return Put(
        kind=kind,
        namespace="",
        name=name,
        spec=msgspec.to_builtins(spec),
        uid=uid,
        expect=0,
        status=status or {},
    )
