"""Apply one transaction to a state: preconditions, fencing, the kinds' rules; pure.

All operations stand or none, except in a ``partial`` batch, where each stands for itself.
"""

from __future__ import annotations

from typing import Any

import msgspec

from blixard.cluster.kind import Kind, KindTable, level_of
from blixard.cluster.resources import (
    Metadata,
    Operation,
    OpResult,
    Outcome,
    PatchStatus,
    Put,
    Resource,
    Transaction,
)
from blixard.cluster.store import Draft, Store

_PATCH_DEPTH_MAX = 16
_PATH_MAX = 16


class Refused(Exception):
    """An operation that cannot stand."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def apply_transaction(
    store: Store, kinds: KindTable, transaction: Transaction, *, index: int, term: int
) -> tuple[Store, Outcome, list[tuple[Resource | None, Resource | None]]]:
    """Return the next state, the outcome and the changes as pairs of old and new."""
    if transaction.term and transaction.term != term:
        message = f"decided in term {transaction.term}, applied in term {term}"
        return store, Outcome(revision=store.revision, code="STALE_TERM", message=message), []
    if transaction.partial:
        return _apply_each(store, kinds, transaction, index)
    draft = store.draft(index)
    results = []
    for number, op in enumerate(transaction.ops):
        try:
            results.append(_attempt(draft, kinds, op, transaction.time_ms))
        except Refused as refused:
            outcome = Outcome(
                revision=store.revision,
                code=refused.code,
                message=refused.message,
                pointer=f"/ops/{number}",
            )
            return store, outcome, []
    after = draft.finish() if draft.changes else store
    return after, Outcome(revision=after.revision, results=tuple(results)), draft.changes


def _apply_each(
    store: Store, kinds: KindTable, transaction: Transaction, index: int
) -> tuple[Store, Outcome, list[tuple[Resource | None, Resource | None]]]:
    changes: list[tuple[Resource | None, Resource | None]] = []
    results = []
    for op in transaction.ops:
        draft = store.draft(index)
        try:
            results.append(_attempt(draft, kinds, op, transaction.time_ms))
        except Refused as refused:
            results.append(OpResult(code=refused.code, message=refused.message))
            continue
        if draft.changes:
            store = draft.finish()
            changes += draft.changes
    return store, Outcome(revision=store.revision, results=tuple(results)), changes


def _attempt(draft: Draft, kinds: KindTable, op: Operation, time_ms: int) -> OpResult:
    """Apply one operation; a document that the rules cannot read is refused, never fatal."""
    try:
        return _apply_op(draft, kinds, op, time_ms)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Refused("INVARIANT", f"{_shown(op)} has a field of a wrong type") from error


def _apply_op(draft: Draft, kinds: KindTable, op: Operation, time_ms: int) -> OpResult:
    # A kind of a level to come gets the same answer as from a node that does not know it.
    kind = kinds.at(op.kind, level_of(draft))
    if kind is None:
        raise Refused("UNKNOWN_KIND", f"there is no kind {op.kind!r}")
    old = draft.get(op.kind, op.namespace, op.name)
    _check_expected(op, old)
    if isinstance(op, Put):
        return _put(draft, kind, op, old, time_ms)
    if old is None:
        raise Refused("NOT_FOUND", f"{_shown(op)} does not exist")
    if op.uid and op.uid != old.metadata.uid:
        raise Refused("CONFLICT", f"{_shown(op)} was made again meanwhile")
    if isinstance(op, PatchStatus):
        return _patch(draft, kind, op, old, time_ms)
    return _delete(draft, kind, old, time_ms)


def _check_expected(op: Operation, old: Resource | None) -> None:
    if op.expect == 0 and old is not None:
        ends = " until its deletion is complete" if old.status.get("deleting") else ""
        raise Refused("ALREADY_EXISTS", f"{_shown(op)} exists{ends}")
    if op.expect > 0:
        revision = old.metadata.revision if old is not None else 0
        if revision != op.expect:
            message = f"{_shown(op)} is at revision {revision}, not {op.expect}"
            raise Refused("CONFLICT", message)


def _put(draft: Draft, kind: Kind, op: Put, old: Resource | None, time_ms: int) -> OpResult:
    if old is None:
        new = _created(draft, kind, op, time_ms)
    else:
        if old.status.get("deleting"):
            raise Refused("CONFLICT", f"{_shown(op)} is being deleted")
        replaced = _replaced(draft, op, old, time_ms)
        if replaced is None:
            return OpResult(revision=old.metadata.revision)
        new = replaced
    _check_rule(draft, kind, old, new)
    draft.put(new)
    return OpResult(revision=draft.revision)


def _created(draft: Draft, kind: Kind, op: Put, time_ms: int) -> Resource:
    if not op.uid:
        raise Refused("NOT_FOUND", f"{_shown(op)} does not exist and no uid was chosen for it")
    if draft.by_uid(op.uid) is not None:
        raise Refused("INVARIANT", f"the uid {op.uid} is taken")
    if kind.namespaced != bool(op.namespace):
        raise Refused("INVARIANT", f"{kind.name} is {'' if kind.namespaced else 'not '}namespaced")
    if kind.namespaced and draft.get("Namespace", "", op.namespace) is None:
        raise Refused("NOT_FOUND", f"namespace {op.namespace!r} does not exist")
    if op.owner and draft.by_uid(op.owner) is None:
        raise Refused("INVARIANT", f"the owner of {_shown(op)} does not exist")
    return Resource(
        kind=op.kind,
        metadata=Metadata(
            name=op.name,
            namespace=op.namespace,
            uid=op.uid,
            labels=op.labels,
            owner=op.owner,
            revision=draft.revision,
            generation=1,
            created_at_ms=time_ms,
            updated_at_ms=time_ms,
        ),
        spec=op.spec,
        status=op.status,
    )


def _replaced(draft: Draft, op: Put, old: Resource, time_ms: int) -> Resource | None:
    """Return the new object, or None if nothing differs."""
    same = old.spec == op.spec
    if same and old.metadata.labels == op.labels:
        return None
    metadata = msgspec.structs.replace(
        old.metadata,
        labels=op.labels,
        revision=draft.revision,
        generation=old.metadata.generation + (not same),
        updated_at_ms=time_ms,
    )
    return Resource(kind=old.kind, metadata=metadata, spec=op.spec, status=old.status)


def _patch(draft: Draft, kind: Kind, op: PatchStatus, old: Resource, time_ms: int) -> OpResult:
    if op.node_uid:
        _check_not_fenced(draft, op, old)
        _check_phase(kind, op, old)
    told = {key: value for key, value in op.status.items() if not op.node_uid or key != "path"}
    status = merge_patch(old.status, told)
    if status == old.status:
        return OpResult(revision=old.metadata.revision)
    metadata = msgspec.structs.replace(old.metadata, revision=draft.revision, updated_at_ms=time_ms)
    new = Resource(kind=old.kind, metadata=metadata, spec=old.spec, status=status)
    _check_rule(draft, kind, old, new)
    draft.put(new)
    return OpResult(revision=draft.revision)


def _check_not_fenced(draft: Draft, op: PatchStatus, old: Resource) -> None:
    """A report counts only from the node, epoch and run that the instance has now."""
    node = draft.by_uid(op.node_uid)
    epoch = node.status.get("epoch", 0) if node is not None else 0
    spec = old.spec
    mine = (spec.get("node"), spec.get("nodeEpoch"), spec.get("run"))
    if mine != (op.node_uid, op.node_epoch, op.run) or epoch != op.node_epoch:
        raise Refused(
            "FENCED",
            f"{_shown(op)} is at node epoch {mine[1]}, run {mine[2]}; "
            f"the report is of epoch {op.node_epoch}, run {op.run}",
        )


def _check_phase(kind: Kind, op: PatchStatus, old: Resource) -> None:
    """A report's phases are transitions of the kind's table, from the phase that is known."""
    if kind.phases is None or "phase" not in op.status:
        return
    phase = op.status["phase"]
    was, path = str(old.status.get("phase", kind.phases.initial)), op.status.get("path", [phase])
    told = path and path[-1] == phase and len(path) <= _PATH_MAX
    if not told or not kind.phases.connects(was, path):
        walk = " -> ".join((was, *path[-_PATH_MAX:]))
        message = f"{_shown(op)}: {walk} is no way to {phase}"
        raise Refused("TRANSITION_REFUSED", message)


def _delete(draft: Draft, kind: Kind, old: Resource, time_ms: int) -> OpResult:
    """Remove it, or mark it: what outlives its deletion is removed by its controller's Delete."""
    if kind.outlives is not None and kind.outlives(draft, old):
        if old.status.get("deleting"):
            return OpResult(revision=old.metadata.revision)
        metadata = msgspec.structs.replace(
            old.metadata, revision=draft.revision, updated_at_ms=time_ms
        )
        status = {**old.status, "deleting": True}
        draft.put(msgspec.structs.replace(old, metadata=metadata, status=status))
        return OpResult(revision=draft.revision)
    _check_rule(draft, kind, old, None)
    draft.remove(old)
    return OpResult(revision=draft.revision)


def _check_rule(draft: Draft, kind: Kind, old: Resource | None, new: Resource | None) -> None:
    if kind.rule is not None:
        broken = kind.rule(draft, old, new)
        if broken:
            raise Refused("INVARIANT", broken)


def merge_patch(target: dict[str, Any], patch: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return *target* with *patch* merged in (RFC 7396): null removes, objects merge."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and depth < _PATCH_DEPTH_MAX:
            old = result.get(key)
            result[key] = merge_patch(old if isinstance(old, dict) else {}, value, depth + 1)
        else:
            result[key] = value
    return result


def _shown(op: Operation) -> str:
    place = f"{op.namespace}/{op.name}" if op.namespace else op.name
    return f"{op.kind} {place}"
