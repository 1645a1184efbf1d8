"""What a state becomes when one node goes on alone: a new cluster, the others to be removed. Pure.

The others are not declared lost here: the node that goes on waits until their leases have surely
ended, as every new leader does, and then removes them by the ordinary forced removal.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.cluster.resources import Metadata, Resource
from blixard.cluster.store import Draft, Store

OPERATION = "force-remove-node"


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """What may be gone with the other nodes, as the state knows it: names, sorted.

    ``stranded`` are the instances placed there; ``local_data`` those whose data is only there.
    """

    nodes: tuple[str, ...]
    stranded: tuple[str, ...]
    local_data: tuple[str, ...]


def losses(store: Store, own_uid: str) -> Losses:
    """Return what the other nodes hold."""
    others = _others(store, own_uid)
    uids = {node.metadata.uid for node in others}
    there = [i for i in store.list("Instance") if i.spec.get("node") in uids]
    return Losses(
        nodes=tuple(node.metadata.name for node in others),
        stranded=tuple(_shown(i) for i in there),
        local_data=tuple(_shown(i) for i in there if i.spec.get("persistent")),
    )


def go_on_alone(
    draft: Draft,
    own_uid: str,
    *,
    cluster_id: str,
    trust_domain: str,
    now_ms: int,
    new_uid: Callable[[], str],
) -> None:
    """Give the state a new cluster's identity; tokens of the old one go, its nodes are to go."""
    config = draft.get("ClusterConfig", "", "cluster")
    if config is not None:
        spec = {**config.spec, "clusterId": cluster_id, "trustDomain": trust_domain}
        metadata = msgspec.structs.replace(
            config.metadata,
            revision=draft.revision,
            generation=config.metadata.generation + 1,
            updated_at_ms=now_ms,
        )
        draft.put(msgspec.structs.replace(config, spec=spec, metadata=metadata))
    for token in draft.list("JoinToken"):
        draft.remove(token)
    for operation in draft.list("Operation"):
        if operation.status.get("phase", "Running") == "Running":
            draft.remove(operation)
    for node in _others(draft, own_uid):
        draft.put(_removal(draft, node, now_ms=now_ms, uid=new_uid()))


def _removal(draft: Draft, node: Resource, *, now_ms: int, uid: str) -> Resource:
    name = f"{OPERATION}-{node.metadata.name}-{uid[-8:].lower()}"
    return Resource(
        kind="Operation",
        metadata=Metadata(
            name=name,
            uid=uid,
            revision=draft.revision,
            generation=1,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        ),
        spec={
            "type": OPERATION,
            "target": node.metadata.name,
            "targetUid": node.metadata.uid,
            "options": {},
        },
    )


def _others(store: Store, own_uid: str) -> list[Resource]:
    return [node for node in store.list("Node") if node.metadata.uid != own_uid]


def _shown(instance: Resource) -> str:
    return f"{instance.metadata.namespace}/{instance.metadata.name}"
