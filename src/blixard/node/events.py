"""Events: what a report or a node's change means for people, and how many are kept; pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.cluster.kinds import EventSpec
from blixard.cluster.resources import Delete, Operation, Put, Resource
from blixard.cluster.store import Store
from blixard.node.messages import Report

EVENTS_MAX = 1_000
PRUNED_AT_ONCE = 50
# Phases worth a line of their own; the others are steps on the way.
_TOLD = {"Running", "Failed", "Stopped"}


def instance_event(old: Resource | None, report: Report, node: str) -> EventSpec | None:
    """Return the event of a report, or None if it tells nothing new."""
    if old is None or report.run != old.spec.get("run"):
        return None
    phase, ready = str(report.status.get("phase", "")), bool(report.status.get("ready"))
    was, was_ready = str(old.status.get("phase", "")), bool(old.status.get("ready"))
    if phase not in _TOLD or (phase, ready) == (was, was_ready):
        return None
    reason = "Ready" if ready else "NotReady" if phase == "Running" else phase
    if reason == "NotReady" and not was_ready:
        return None
    said = str(report.status.get("reason", ""))
    return EventSpec(
        type="Warning" if reason in ("Failed", "NotReady") else "Normal",
        reason=reason,
        message=f"{report.name} is {reason} on {node}" + (f": {said}" if said else ""),
        about_kind="Instance",
        about_name=report.name,
        about_namespace=report.namespace,
        node=node,
    )


def node_event(node: Resource, reason: str, message: str) -> EventSpec:
    """Return an event about a node."""
    return EventSpec(
        type="Warning" if reason == "Lost" else "Normal",
        reason=reason,
        message=message,
        about_kind="Node",
        about_name=node.metadata.name,
        node=node.metadata.name,
    )


def event_ops(
    store: Store, events: list[EventSpec], *, now_ms: int, new_id: Callable[[], str]
) -> tuple[Operation, ...]:
    """Return the operations that keep *events*, and forget the oldest beyond EVENTS_MAX."""
    if not events:
        return ()
    ops: list[Operation] = []
    for event in events:
        uid = new_id()
        spec = msgspec.to_builtins(msgspec.structs.replace(event, at_ms=now_ms))
        ops.append(Put(kind="Event", namespace="", name=uid.lower(), spec=spec, uid=uid, expect=0))
    if store.count("Event") + len(events) > EVENTS_MAX:
        # Names are ULIDs: the first in order are the oldest.
        oldest = store.list("Event")[:PRUNED_AT_ONCE]
        ops += [Delete(kind="Event", namespace="", name=e.metadata.name) for e in oldest]
    return tuple(ops)
