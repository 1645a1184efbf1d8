"""The replicated objects as persistent maps: a consistent read and a snapshot cost nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import immutables

from blixard.cluster.resources import Metadata, Resource

Key = tuple[str, str]  # namespace, name
Listing = list[Resource]  # a name for the type, beside the method of the same name
_NONE: tuple[int, int] = (0, 0)


Tombstones = list[tuple[int, str]]


class Maps:
    """The maps of one state; a plain holder that is copied by reference."""

    __slots__ = ("kinds", "owned", "raft_ids", "reserved", "revisions", "uids")

    def __init__(self) -> None:
        self.kinds: immutables.Map[str, immutables.Map[Key, Resource]] = immutables.Map()
        self.uids: immutables.Map[str, tuple[str, str, str]] = immutables.Map()
        self.owned: immutables.Map[str, immutables.Map[str, bool]] = immutables.Map()
        self.reserved: immutables.Map[str, tuple[int, int]] = immutables.Map()
        self.raft_ids: immutables.Map[int, str] = immutables.Map()
        self.revisions: immutables.Map[str, int] = immutables.Map()

    def copy(self) -> Maps:
        """Return a holder of the same maps."""
        other = Maps.__new__(Maps)
        other.kinds, other.uids, other.owned = self.kinds, self.uids, self.owned
        other.reserved, other.raft_ids = self.reserved, self.raft_ids
        other.revisions = self.revisions
        return other


class Store:
    """One immutable state. Listings are sorted by namespace and name."""

    __slots__ = ("_maps", "revision")

    def __init__(self, maps: Maps | None = None, revision: int = 0) -> None:
        self._maps = maps or Maps()
        self.revision = revision

    def get(self, kind: str, namespace: str, name: str) -> Resource | None:
        """Return one object or None."""
        objects = self._maps.kinds.get(kind)
        return objects.get((namespace, name)) if objects is not None else None

    def list(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> Listing:
        """Return the objects of a kind; *labels* must all be present and equal."""
        objects = self._maps.kinds.get(kind)
        if objects is None:
            return []
        found = [objects[key] for key in sorted(objects)]
        if namespace is not None:
            found = [r for r in found if r.metadata.namespace == namespace]
        if labels:
            found = [r for r in found if _has(r.metadata.labels, labels)]
        return found

    def count(self, kind: str) -> int:
        """Return how many objects of a kind there are."""
        objects = self._maps.kinds.get(kind)
        return len(objects) if objects is not None else 0

    def by_uid(self, uid: str) -> Resource | None:
        """Return the object with that uid."""
        key = self._maps.uids.get(uid)
        return self.get(*key) if key is not None else None

    def owned_by(self, uid: str) -> Listing:
        """Return what the object with that uid owns, sorted by uid."""
        found = (self.by_uid(owned) for owned in sorted(self._maps.owned.get(uid, ())))
        return [resource for resource in found if resource is not None]

    def reserved(self, node_uid: str) -> tuple[int, int]:
        """Return the vCPUs and MiB that instances reserve on a node."""
        return self._maps.reserved.get(node_uid, _NONE)

    def raft_id_used(self, raft_id: int) -> bool:
        """Tell whether any node, also a removed one, ever had that id."""
        return raft_id in self._maps.raft_ids

    def node_uid_used(self, uid: str) -> bool:
        """Tell whether any node, also a removed one, ever had that uid."""
        return uid in self._maps.raft_ids.values()

    def namespace_used(self, namespace: str) -> bool:
        """Tell whether any object is in that namespace."""
        return any(namespace == key[0] for objects in self._maps.kinds.values() for key in objects)

    def kind_revisions(self, kinds: Iterable[str]) -> tuple[int, ...]:
        """Return the revision of the last change of each kind."""
        last = self._maps.revisions.get
        return tuple([last(kind, 0) for kind in kinds])

    def same(self, other: Store, kinds: Iterable[str]) -> bool:
        """Tell whether both hold the very same objects of those kinds (no is always safe)."""
        mine, theirs = self._maps.kinds, other._maps.kinds
        return all(mine.get(kind) is theirs.get(kind) for kind in kinds)

    def everything(self) -> Iterator[Resource]:
        """Yield every object, sorted by kind, namespace and name."""
        for kind in sorted(self._maps.kinds):
            objects = self._maps.kinds[kind]
            for key in sorted(objects):
                yield objects[key]

    def tombstones(self) -> Tombstones:
        """Return all raft ids ever used with the node's uid, sorted."""
        return sorted(self._maps.raft_ids.items())

    def draft(self, revision: int) -> Draft:
        """Return a changeable copy whose changes carry *revision*."""
        return Draft(self._maps.copy(), revision)


class Draft(Store):
    """A state being changed; dropped if the transaction fails."""

    __slots__ = ("changes",)

    def __init__(self, maps: Maps, revision: int) -> None:
        super().__init__(maps, revision)
        self.changes: list[tuple[Resource | None, Resource | None]] = []

    def finish(self) -> Store:
        """Return the state as an immutable one."""
        return Store(self._maps, self.revision)

    def put(self, new: Resource) -> None:
        """Add or replace an object."""
        maps, meta = self._maps, new.metadata
        objects = maps.kinds.get(new.kind) or immutables.Map()
        old = objects.get((meta.namespace, meta.name))
        maps.kinds = maps.kinds.set(new.kind, objects.set((meta.namespace, meta.name), new))
        if old is None:
            maps.uids = maps.uids.set(meta.uid, new.key)
            if meta.owner:
                owned = maps.owned.get(meta.owner) or immutables.Map()
                maps.owned = maps.owned.set(meta.owner, owned.set(meta.uid, True))
        self._changed(old, new)

    def remove(self, old: Resource) -> None:
        """Remove an object and all it owns, the owned before their owners."""
        doomed = [old]
        for resource in doomed:  # grows while it is walked: chains may be longer than the stack
            doomed.extend(self.owned_by(resource.metadata.uid))
        for resource in reversed(doomed):
            self._remove_one(resource)

    def _remove_one(self, old: Resource) -> None:
        maps, meta = self._maps, old.metadata
        maps.kinds = maps.kinds.set(
            old.kind, maps.kinds[old.kind].delete((meta.namespace, meta.name))
        )
        maps.uids = maps.uids.delete(meta.uid)
        if meta.uid in maps.owned:
            maps.owned = maps.owned.delete(meta.uid)
        siblings = maps.owned.get(meta.owner)
        if siblings is not None and meta.uid in siblings:
            maps.owned = maps.owned.set(meta.owner, siblings.delete(meta.uid))
        self._changed(old, None)

    def remember_raft_id(self, raft_id: int, uid: str) -> None:
        """Keep a raft id for ever."""
        self._maps.raft_ids = self._maps.raft_ids.set(raft_id, uid)

    def _changed(self, old: Resource | None, new: Resource | None) -> None:
        kind = (new or old).kind  # type: ignore[union-attr]
        self._maps.revisions = self._maps.revisions.set(kind, self.revision)
        self.changes.append((old, new))
        if kind == "Instance":
            self._reserve(old, -1)
            self._reserve(new, 1)
        elif kind == "Node" and new is not None and old is None:
            self.remember_raft_id(int(new.spec.get("raftId", 0)), new.metadata.uid)

    def _reserve(self, instance: Resource | None, sign: int) -> None:
        if instance is None:
            return
        spec = instance.spec
        if node := spec.get("node", ""):
            self._reserve_on(node, spec, sign)
        if "migration" in spec:  # until the switch it takes its room on both nodes
            self._reserve_on(spec["migration"]["target"], spec, sign)

    def _reserve_on(self, node: str, spec: dict[str, Any], sign: int) -> None:
        vcpus, memory_mib = self.reserved(node)
        after = (
            vcpus + sign * int(spec.get("vcpus", 0)),
            memory_mib + sign * int(spec.get("memoryMib", 0)),
        )
        maps = self._maps
        maps.reserved = maps.reserved.set(node, after)
        if after == _NONE:
            maps.reserved = maps.reserved.delete(node)


def rebuild(resources: Iterable[Resource], tombstones: Iterable[tuple[int, str]]) -> Maps:
    """Return the maps of a snapshot's objects; their own revisions stay."""
    draft = Draft(Maps(), 0)
    revisions: dict[str, int] = {}
    for resource in resources:
        draft.put(resource)
        kind = resource.kind
        revisions[kind] = max(revisions.get(kind, 0), resource.metadata.revision)
    for raft_id, uid in tombstones:
        draft.remember_raft_id(raft_id, uid)
    maps = draft._maps
    maps.revisions = immutables.Map(revisions)
    return maps


def _has(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


__all__ = ["Draft", "Key", "Maps", "Metadata", "Store", "rebuild"]
