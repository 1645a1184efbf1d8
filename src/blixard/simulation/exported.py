"""The state of a live cluster as it was exported: JSON documents of ``get`` and ``cluster status``.

A file holds one or more JSON documents, one after the other: lists of objects, single objects, and
the answer of ``cluster status``, which says who votes and who leads.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.kinds import ClusterConfigSpec, NodeSpec
from blixard.cluster.members import voters_wanted
from blixard.cluster.resources import Resource
from blixard.network.kinds import NetworkSpec
from blixard.ports.guests import GuestRecipe
from blixard.vms.spec import InstanceSpec, VMSpec

NODES_MAX = 100
_HINT = (
    "export it with blixard get nodes,vms,instances,images,networks,clusterconfigs -A -o json, "
    "then blixard cluster status -o json, into one file"
)
_SPECS: dict[str, type[msgspec.Struct]] = {
    "Node": NodeSpec,
    "VM": VMSpec,
    "Instance": InstanceSpec,
    "Image": GuestRecipe,
    "Network": NetworkSpec,
    "ClusterConfig": ClusterConfigSpec,
}
T = TypeVar("T", bound=msgspec.Struct)


class ExportedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node: what it offers, whether it was there, and whether it voted."""

    name: str
    uid: str
    spec: NodeSpec
    labels: dict[str, str]
    ready: bool
    voter: bool


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster to load; voters come first among ``nodes``.

    ``voters_known``: the file says who votes; otherwise it is what the leader would choose.
    """

    nodes: tuple[ExportedNode, ...]
    leader: str
    voters_known: bool
    config: ClusterConfigSpec
    vms: tuple[Resource, ...]
    instances: tuple[Resource, ...]
    images: tuple[Resource, ...]
    networks: tuple[Resource, ...]

    def node(self, name: str) -> ExportedNode:
        """Return a node by its name. Raises BlixardError NOT_FOUND."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(sorted(node.name for node in self.nodes))
        raise BlixardError("NOT_FOUND", f"there is no node {name!r}", hint=f"nodes: {names}")


def read_exported(text: str) -> Exported:
    """Return the cluster that *text* describes.

    Raises:
        BlixardError: INVALID, with what is wrong or missing and how a file is made.
    """
    found: dict[str, list[Resource]] = {kind: [] for kind in _SPECS}
    status: dict[str, Any] = {}
    for document in _documents(text):
        if "clusterId" in document:
            status = document
            continue
        for item in document.get("items", [document]):
            resource = _resource(item)
            if resource.kind in found:
                found[resource.kind].append(resource)
    return _checked(found, status)


def _documents(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise _invalid(f"no JSON: {error}") from error
        if not isinstance(value, dict) or not isinstance(value.get("items", []), list):
            raise _invalid("a document is neither an object nor a list of objects")
        yield value


def _resource(item: Any) -> Resource:
    try:
        resource = msgspec.convert(item, Resource)
    except msgspec.ValidationError as error:
        raise _invalid(f"no object of a cluster: {error}") from error
    if resource.kind in _SPECS:
        spec_of(resource, _SPECS[resource.kind])
    return resource


def spec_of(resource: Resource, kind: type[T]) -> T:
    """Return the spec of an object. Raises BlixardError INVALID."""
    try:
        return msgspec.convert(resource.spec, kind)
    except msgspec.ValidationError as error:
        raise _invalid(f"{resource.kind} {resource.metadata.name}: {error}") from error


def _checked(found: dict[str, list[Resource]], status: dict[str, Any]) -> Exported:
    if not found["Node"]:
        raise _invalid("it names no node")
    if len(found["Node"]) > NODES_MAX:
        raise _invalid(f"{len(found['Node'])} nodes; at most {NODES_MAX}")
    for kind, resources in found.items():
        keys = collections.Counter(resource.key for resource in resources)
        uids = collections.Counter(r.metadata.uid for r in resources if r.metadata.uid)
        for name, count in (*((key[2], n) for key, n in keys.items()), *uids.items()):
            if count > 1:
                raise _invalid(f"{kind} {name} is there {count} times")
    config = ClusterConfigSpec(cluster_id="exported")
    for resource in found["ClusterConfig"]:
        config = spec_of(resource, ClusterConfigSpec)
    nodes = _nodes(found["Node"], config, status)
    _check_owners(nodes, found["VM"], found["Instance"])
    return Exported(
        nodes=nodes,
        leader=str(status.get("leaderName", "")),
        voters_known=bool(status.get("voters")),
        config=config,
        vms=tuple(found["VM"]),
        instances=tuple(found["Instance"]),
        images=tuple(found["Image"]),
        networks=tuple(found["Network"]),
    )


def _nodes(
    resources: list[Resource], config: ClusterConfigSpec, status: dict[str, Any]
) -> tuple[ExportedNode, ...]:
    """Return the nodes, voters first, by raft id: so the leader chooses the same ones."""
    states = {r.metadata.name: r.status.get("state") == "Ready" for r in resources}
    by_id = sorted(resources, key=lambda r: (not states[r.metadata.name], r.spec["raftId"]))
    count = voters_wanted(sum(states.values()), config.voters_max)
    voters = set(status.get("voters") or [r.metadata.name for r in by_id[:count]])
    unknown = sorted(voters - states.keys())
    if unknown:
        raise _invalid(f"{unknown[0]} votes and is no node of the file")
    nodes = [
        ExportedNode(
            name=r.metadata.name,
            uid=r.metadata.uid or r.metadata.name,
            spec=_node_spec(r),
            labels=r.metadata.labels,
            ready=states[r.metadata.name],
            voter=r.metadata.name in voters,
        )
        for r in resources
    ]
    return tuple(sorted(nodes, key=lambda node: (not node.voter, node.spec.raft_id)))


def _node_spec(resource: Resource) -> NodeSpec:
    """Return a node's spec; one on its way out takes nothing new."""
    spec = spec_of(resource, NodeSpec)
    return (
        msgspec.structs.replace(spec, schedulable=False)
        if resource.status.get("removing")
        else spec
    )


def _check_owners(
    nodes: tuple[ExportedNode, ...], vms: list[Resource], instances: list[Resource]
) -> None:
    uids, owners = {node.uid for node in nodes}, {vm.metadata.uid for vm in vms}
    for instance in instances:
        name, node = instance.metadata.name, instance.spec.get("node", "")
        if instance.metadata.owner not in owners:
            raise _invalid(f"the VM of the instance {name} is not in it")
        if node and node not in uids:
            raise _invalid(f"the node {node} of the instance {name} is not in it")


def _invalid(text: str) -> BlixardError:
    return BlixardError("INVALID", f"the file is no exported cluster: {text}", hint=_HINT)
