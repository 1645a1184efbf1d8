"""How a kind registers: its names, its spec, its rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from blixard.base.errors import Problem
from blixard.base.machine import Machine
from blixard.cluster.resources import Resource

NAME_PATTERN = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


# What this program knows at most, and what a cluster is at that never said: kinds and rules of a
# higher level count once every node can apply them, and the cluster's configuration says so.
HIGHEST_LEVEL = 1
FIRST_LEVEL = 1

Listing = list[Resource]  # a name for the type, beside methods of the same name


class StateView(Protocol):
    """What a rule may look at: the state as the transaction leaves it so far."""

    def get(self, kind: str, namespace: str, name: str) -> Resource | None:
        """Return the object of that name."""

    def by_uid(self, uid: str) -> Resource | None:
        """Return the object of that uid."""

    def reserved(self, node_uid: str) -> tuple[int, int]:
        """Return the vCPUs and MiB that instances reserve on a node."""

    def raft_id_used(self, raft_id: int) -> bool:
        """Tell whether any node, also a removed one, ever had that id."""

    def node_uid_used(self, uid: str) -> bool:
        """Tell whether any node, also a removed one, ever had that uid."""

    def namespace_used(self, namespace: str) -> bool:
        """Tell whether any object is in that namespace."""

    def list(self, kind: str) -> Listing:
        """Return the objects of a kind."""

    def owned_by(self, uid: str) -> Listing:
        """Return what the object of that uid owns."""


Rule = Callable[[StateView, Resource | None, Resource | None], str]
Outlives = Callable[[StateView, Resource], bool]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of resource.

    ``spec`` is the type that the API validates (None: free form), ``validate`` finds what types
    cannot say, ``rule`` is the invariant that apply enforces whoever asks: it gets the state, the
    old and the new object (None: absent) and returns what is broken, or an empty text.
    ``outlives`` tells whether something of the object still runs: then its deletion only marks it
    (``status.deleting``), and it is gone with the first Delete after that.
    ``phases`` is the table that the reported ``status.phase`` follows.
    ``internal`` kinds are written by controllers only. It counts from the feature level ``since``
    up to below ``until`` (0: for ever); one of the same name may take over there, with other rules.
    """

    name: str
    plural: str
    short: tuple[str, ...] = ()
    namespaced: bool = True
    spec: type[msgspec.Struct] | None = None
    validate: Callable[[Any], list[Problem]] | None = None
    rule: Rule | None = None
    outlives: Outlives | None = None
    phases: Machine[Any, Any] | None = None
    name_pattern: str = NAME_PATTERN
    internal: bool = False
    secret_fields: tuple[str, ...] = ()
    since: int = FIRST_LEVEL
    until: int = 0

    def counts_at(self, level: int) -> bool:
        """Tell whether the kind, with these rules, is there at a feature level."""
        return self.since <= level and (not self.until or level < self.until)


class KindTable:
    """All kinds of a cluster, found by any of their names; the newest unless a level is given."""

    def __init__(self, kinds: tuple[Kind, ...]) -> None:
        self.kinds = tuple(kind for kind in kinds if not kind.until)
        self.by_name = {kind.name: kind for kind in self.kinds}
        assert len(self.by_name) == len(self.kinds), "a kind is registered twice"
        self._versions: dict[str, list[Kind]] = {}
        for kind in kinds:
            self._versions.setdefault(kind.name, []).append(kind)
        self._aliases: dict[str, Kind] = {}
        for kind in self.kinds:
            for alias in (kind.name, kind.name.lower(), kind.plural, *kind.short):
                self._aliases[alias] = kind

    def at(self, name: str, level: int) -> Kind | None:
        """Return the kind of exactly that name as it is at a feature level."""
        for kind in self._versions.get(name, ()):
            if kind.counts_at(level):
                return kind
        return None

    def find(self, alias: str) -> Kind | None:
        """Return the kind of that name, plural or short name."""
        return self._aliases.get(alias) or self._aliases.get(alias.lower())


def level_of(state: StateView) -> int:
    """Return the feature level that the whole cluster has committed to."""
    config = state.get("ClusterConfig", "", "cluster")
    return int(config.spec.get("featureLevel", FIRST_LEVEL)) if config is not None else FIRST_LEVEL
