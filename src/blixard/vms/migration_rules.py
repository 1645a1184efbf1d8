"""What a migration must be to be accepted, and what apply enforces of one; pure."""

from __future__ import annotations

from typing import Any

import msgspec

from blixard.cluster.kind import StateView
from blixard.cluster.moves import local_volume, move_of
from blixard.cluster.resources import Resource
from blixard.vms.moves import MIGRATION, MigrationSpec, active


def migration_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """It can be carried out when it is made; its wish stays, its phases are the table's."""
    if new is None:
        return ""
    if old is None:
        try:
            spec = msgspec.convert(new.spec, MigrationSpec)
        except msgspec.ValidationError as error:
            return str(error)
        return "; ".join(problems(state, new.metadata.namespace, spec, new.metadata.uid))
    if old.spec != new.spec:
        return "a migration is not changed; delete it and make another one"
    was, now = (str(one.status.get("phase", MIGRATION.initial)) for one in (old, new))
    return "" if MIGRATION.leads(was, now) else f"a migration does not go from {was} to {now}"


def is_under_way(_state: StateView, migration: Resource) -> bool:
    """Tell whether its deletion only asks for its end."""
    return active(migration.status)


def problems(state: StateView, namespace: str, spec: MigrationSpec, uid: str) -> list[str]:
    """Return all that speaks against moving the instance there; *uid* is the migration's own."""
    instance = state.get("Instance", namespace, spec.instance)
    if instance is None:
        return [
            f"instance {spec.instance!r} does not exist",
            *_target_problems(state, spec.target_node, ""),
        ]
    found = instance_problems(instance)
    other = move_of(instance.spec)
    rivals = [
        m.metadata.name
        for m in state.list("Migration")
        if m.metadata.uid != uid
        and m.metadata.namespace == namespace
        and m.spec.get("instance") == spec.instance
        and active(m.status)
    ]
    if rivals or (other is not None and other.get("uid") != uid):
        name = rivals[0] if rivals else str((other or {}).get("name"))
        found.append(f"migration {name} of it is under way")
    return found + _target_problems(state, spec.target_node, str(instance.spec.get("node", "")))


def instance_problems(instance: Resource) -> list[str]:
    """Return what speaks against moving this instance anywhere."""
    spec, name = instance.spec, instance.metadata.name
    found = []
    if spec.get("persistent") and not local_volume(spec):
        found.append(f"the data of {name} exists only on {spec.get('nodeName')} (persistent)")
    if bound := local_volume(spec):
        found.append(f"the data of {name} is on {spec.get('nodeName')}: volume {bound}")
    phase = instance.status.get("phase", "Pending")
    if not spec.get("node"):
        found.append(f"{name} is on no node")
    elif phase != "Running" or spec.get("desired") != "Running":
        wanted = "to be stopped" if spec.get("desired") != "Running" else phase
        found.append(f"{name} is {wanted}: only what runs can be moved while it runs")
    return found


def _target_problems(state: StateView, name: str, source_uid: str) -> list[str]:
    if not name:
        return []
    node = state.get("Node", "", name)
    if node is None:
        return [f"node {name!r} does not exist"]
    if node.metadata.uid == source_uid:
        return [f"it is on {name} already"]
    return [f"{name} {text}" for text in _node_problems(node.status, node.spec)]


def _node_problems(status: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    found = []
    if status.get("state") != "Ready":
        found.append(f"is {status.get('state', 'Joining')}, not Ready")
    if status.get("removing"):
        found.append("is to be removed")
    elif not spec.get("schedulable", True):
        found.append("takes no VMs now")
    return found
