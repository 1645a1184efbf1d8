"""Resources, operations and transactions: what the replicated log carries and the store holds."""

from __future__ import annotations

from typing import Any

import msgspec

API_VERSION = "blixard.dev/v1"
CLUSTER_SCOPE = ""  # the namespace of kinds that belong to no namespace


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Identity and history of a resource.

    ``revision`` is the log index of its last change, ``generation`` counts changes of its spec,
    times are Unix milliseconds chosen by the proposer, ``owner`` is the uid of the resource whose
    deletion deletes this one.
    """

    name: str
    namespace: str = CLUSTER_SCOPE
    uid: str = ""
    labels: dict[str, str] = {}
    owner: str = ""
    revision: int = 0
    generation: int = 0
    created_at_ms: int = 0
    updated_at_ms: int = 0


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """One object. ``spec`` and ``status`` are JSON values and never changed in place."""

    kind: str
    metadata: Metadata
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}
    api_version: str = API_VERSION

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, namespace, name: unique in the store."""
        return (self.kind, self.metadata.namespace, self.metadata.name)


class Put(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="put"):
    """Create or replace labels and spec (status stays).

    ``uid`` is the uid of a creation, chosen by the proposer. ``expect`` is the revision the object
    must have: 0 = must be absent, -1 = any. ``status`` is only used by a creation.
    """

    kind: str
    namespace: str
    name: str
    spec: dict[str, Any]
    labels: dict[str, str] = {}
    uid: str = ""
    owner: str = ""
    expect: int = -1
    status: dict[str, Any] = {}

    @classmethod
    def of(cls, resource: Resource, spec: dict[str, Any], *, unchanged: bool = False) -> Put:
        """Give *resource* another spec; *unchanged*: only if it is still as it was read."""
        meta = resource.metadata
        return cls(
            kind=resource.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid,
            owner=meta.owner, labels=meta.labels, spec=spec, expect=_expected(resource, unchanged),
        )  # fmt: skip


class PatchStatus(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="status"):
    """Merge *status* (RFC 7396: null removes a key) into the object's status.

    ``uid`` must match (an object made again under the same name is another). ``node_uid``,
    ``node_epoch`` and ``run`` are set on reports of nodes: apply answers FENCED unless they are the
    ones in the instance's spec (and the epoch is the node's current one). A report's
    status may hold ``path``, the phases passed since the last one, the newest last: it is judged
    and not kept.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    status: dict[str, Any]
    expect: int = -1
    node_uid: str = ""
    node_epoch: int = 0
    run: int = 0

    @classmethod
    def of(
        cls, resource: Resource, status: dict[str, Any], *, unchanged: bool = False
    ) -> PatchStatus:
        """Merge *status* into that of *resource*; *unchanged*: only if it is as it was read."""
        meta = resource.metadata
        return cls(
            kind=resource.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid,
            status=status, expect=_expected(resource, unchanged),
        )  # fmt: skip


class Delete(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="delete"):
    """Remove the object and all it owns at once; mark it while something of it runs (kind.py)."""

    kind: str
    namespace: str
    name: str
    uid: str = ""
    expect: int = -1

    @classmethod
    def of(cls, resource: Resource, *, unchanged: bool = False) -> Delete:
        """Remove *resource*, not one made anew; *unchanged*: only if it is as it was read."""
        meta = resource.metadata
        return cls(
            kind=resource.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid,
            expect=_expected(resource, unchanged),
        )  # fmt: skip


def _expected(resource: Resource, unchanged: bool) -> int:
    return resource.metadata.revision if unchanged else -1


Operation = Put | PatchStatus | Delete


class Transaction(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="txn"):
    """All operations or none.

    ``term`` is 0 for a client's write; a controller's is the term it decided in, and apply refuses
    it (STALE_TERM) in any other. ``partial``: operations that fail are left out, the others stand
    (batched status reports).
    """

    request_id: str
    time_ms: int
    actor: str
    ops: tuple[Operation, ...]
    term: int = 0
    partial: bool = False


class OpResult(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What one operation did: the revision it left, or the error code and message."""

    revision: int = 0
    code: str = ""
    message: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The answer to a transaction, the same on every node; ``code`` is empty on success."""

    revision: int = 0
    code: str = ""
    message: str = ""
    results: tuple[OpResult, ...] = ()
    pointer: str = ""
