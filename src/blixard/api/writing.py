"""The one write path: parse, validate, authorise, propose, apply; a dry run stops before propose.

A dry run applies the transaction to a copy of the state, so it finds what applying would find.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from blixard.api.callers import require
from blixard.api.documents import Place, invalid, parse_json, read_documents, read_put
from blixard.api.messages import Request, Response, json_response
from blixard.api.reading import shown
from blixard.api.standing import Call
from blixard.base.errors import BlixardError
from blixard.cluster.apply import apply_transaction
from blixard.cluster.kind import Kind, level_of
from blixard.cluster.resources import Delete, Operation, Outcome, Put, Resource, Transaction
from blixard.cluster.store import Store
from blixard.ports.environment import Environment

_DELETABLE_INTERNAL = frozenset({"ApiKey", "JoinToken", "Event"})
PROPOSE_MARGIN_S = 0.05


class Writer:
    """Changes objects, on the leader."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    def new_id(self) -> str:
        """Return a fresh uid for a creation."""
        return self._env.new_id()

    async def put(self, call: Call, place: Place, *, create: bool) -> Response:
        """Create or replace one object; 201 if it was created."""
        expect = 0 if create else expected_revision(call.request)
        document = parse_json(call.request.body)
        put, problems = read_put(document, place, expect=expect)
        if put is None:
            raise invalid(problems)
        _authorise_put(call, place.kind, put)
        return await self.commit_one(call, place.kind, put)

    async def commit_one(
        self, call: Call, kind: Kind, put: Put, *, extra: dict[str, Any] | None = None
    ) -> Response:
        """Propose one put and return the object with *extra* members."""
        put = msgspec.structs.replace(put, uid=put.uid or self._env.new_id())
        before = call.cluster.store.get(put.kind, put.namespace, put.name)
        store, outcome = await self.change(call, (put,))
        resource = store.get(put.kind, put.namespace, put.name)
        if resource is None:
            raise BlixardError("CONFLICT", f"{put.kind} {put.name} was deleted right after")
        meta = resource.metadata
        changed = before is not None and before.metadata.revision < outcome.revision
        same = before is not None and before.metadata.uid == meta.uid
        fresh = meta.generation == 1 and not (changed and same)
        created = fresh and meta.revision == outcome.revision
        value: Any = shown(kind, resource)
        if extra:
            value = {**msgspec.to_builtins(value), **extra}
        headers = {"etag": f'"{meta.revision}"'}
        return json_response(value, status=201 if created else 200, headers=headers)

    async def delete(self, call: Call, place: Place) -> Response:
        """Delete one object and what it owns."""
        kind = place.kind
        require(call.principal, "delete", kind.name, place.namespace)
        if kind.internal and kind.name not in _DELETABLE_INTERNAL:
            raise _internal(kind)
        op = Delete(
            kind=kind.name,
            namespace=place.namespace,
            name=place.name,
            expect=expected_revision(call.request),
        )
        before = call.cluster.store.get(*_key(op))
        await self.change(call, (op,))
        value = shown(kind, before) if before is not None else {"deleted": place.name}
        return json_response(value)

    async def apply_documents(self, call: Call, kinds: Any, namespace: str) -> Response:
        """Apply a list of documents as one transaction, after all of them were checked."""
        values = parse_json(call.request.body)
        pairs = read_documents(values, kinds, namespace=namespace)
        for kind, put in pairs:
            _authorise_put(call, kind, put)
        before = call.cluster.store
        # With a uid for each: what is deleted before this is applied is made anew.
        ops = tuple(msgspec.structs.replace(put, uid=self._env.new_id()) for _, put in pairs)
        store, outcome = await self.change(call, ops)
        items = [_change(kind, put, before, store) for kind, put in pairs]
        answer = {
            "apiVersion": "blixard.dev/v1",
            "kind": "ApplyResult",
            "dryRun": call.request.flag("dryRun"),
            "revision": outcome.revision,
            "items": items,
        }
        return json_response(answer)

    async def change(self, call: Call, ops: tuple[Operation, ...]) -> tuple[Store, Outcome]:
        """Propose the operations, or try them on a copy; return the state after them.

        Raises:
            BlixardError: whatever breaks, with the number of the operation.
        """
        if call.request.flag("dryRun"):
            return self._try(call, ops)
        remaining = call.deadline - asyncio.get_running_loop().time() - PROPOSE_MARGIN_S
        if remaining <= 0:
            raise BlixardError("TIMEOUT", "the deadline passed before the proposal")
        outcome = await call.cluster.commit(
            ops,
            actor=call.principal.actor,
            request_id=call.request.request_id,
            timeout_s=remaining,
        )
        return call.cluster.store, outcome

    def _try(self, call: Call, ops: tuple[Operation, ...]) -> tuple[Store, Outcome]:
        store = call.cluster.store
        transaction = Transaction(
            request_id=call.request.request_id,
            time_ms=self._env.wall_time_ms(),
            actor=call.principal.actor,
            ops=ops,
        )
        after, outcome, _ = apply_transaction(
            store, call.cluster.machine.kinds, transaction, index=store.revision + 1, term=0
        )
        if outcome.code:
            details: dict[str, object] = {"op": outcome.pointer} if outcome.pointer else {}
            raise BlixardError(outcome.code, outcome.message, details=details)
        return after, outcome


def expected_revision(request: Request) -> int:
    """Return the precondition of If-Match, If-None-Match or ``ifRevision``; -1 for none.

    Raises:
        BlixardError: BAD_REQUEST.
    """
    if request.headers.get("if-none-match") == "*":
        return 0
    text = request.headers.get("if-match") or request.query.get("ifRevision") or ""
    if text in {"", "*"}:
        return -1
    digits = text.strip().removeprefix("W/").strip('"')
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise BlixardError("BAD_REQUEST", f"{text!r} is no revision")
    return int(digits)


def _authorise_put(call: Call, kind: Kind, put: Put) -> None:
    there = call.cluster.store.get(put.kind, put.namespace, put.name) is not None
    require(call.principal, "update" if there else "create", kind.name, put.namespace)
    level = level_of(call.cluster.store)
    if kind.since > level:
        message = f"{kind.name} needs feature level {kind.since}; the cluster is at {level}"
        raise BlixardError("FEATURE_LEVEL", message)
    if kind.internal:
        raise _internal(kind)


def _internal(kind: Kind) -> BlixardError:
    return BlixardError(
        "FORBIDDEN",
        f"{kind.name} is written by the cluster itself",
        hint="no permission helps: the commands blixard cluster and blixard vm bring it about",
    )


def _key(op: Delete) -> tuple[str, str, str]:
    return (op.kind, op.namespace, op.name)


def _change(kind: Kind, put: Put, before: Store, after: Store) -> dict[str, Any]:
    key = (put.kind, put.namespace, put.name)
    old, new = before.get(*key), after.get(*key)
    return {
        "object": f"{kind.name.lower()}/{put.name}",
        "namespace": put.namespace,
        "result": _word(old, new),
        "revision": new.metadata.revision if new is not None else 0,
        "before": _content(kind, old),
        "after": _content(kind, new),
    }


def _word(old: Resource | None, new: Resource | None) -> str:
    if old is None:
        return "created"
    same = new is not None and new.metadata.revision == old.metadata.revision
    return "unchanged" if same else "configured"


def _content(kind: Kind, resource: Resource | None) -> dict[str, Any] | None:
    if resource is None:
        return None
    return {"labels": resource.metadata.labels, "spec": shown(kind, resource).spec}
