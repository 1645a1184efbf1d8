"""Who asks, and whether they may: one value from every way to authenticate, one pure decision.

Allow only, deny by default. A permission is ``kind:verb`` with ``*`` on either side. Some verbs are
so strong that no wildcard contains them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Resource
from blixard.security.identity import PeerCertificate
from blixard.security.keys import key_id_of, key_matches

PrincipalKind = Literal["root", "user", "node", "key", "anonymous"]
ROLE_ROOT, ROLE_ADMIN, ROLE_VIEWER, ROLE_NODE, ROLE_NONE = "root", "admin", "viewer", "node", ""
ROLE_HOME = "home"  # a local user of a worker: what runs there, no more
ASSIGNABLE_ROLES = (ROLE_ADMIN, ROLE_VIEWER)
HOME_HINT = (
    "local users of a node that does not vote reach what runs there only: "
    "use an API key or a certificate, or the socket of a voter"
)
NEVER_BY_WILDCARD = frozenset(
    {"audit:delete", "cluster:recover", "role:bind-any", "secret:read-value", "user:impersonate"}
)
_HOME_KINDS = ("instance", "network", "node", "operation")
_READING = ("get", "list", "logs", "status", "watch")
ROLES: Mapping[str, frozenset[str]] = {
    ROLE_ROOT: frozenset({"*:*"}) | NEVER_BY_WILDCARD,
    ROLE_ADMIN: frozenset({"*:*"}) | (NEVER_BY_WILDCARD - {"cluster:recover", "audit:delete"}),
    ROLE_VIEWER: frozenset(f"*:{verb}" for verb in _READING),
    ROLE_NODE: frozenset({"cluster:get", "node:get", "node:list"}),
    ROLE_HOME: frozenset(
        {"cluster:get", "instance:console", "instance:exec", "instance:logs"}
        | {f"{kind}:{verb}" for kind in _HOME_KINDS for verb in ("get", "list", "watch")}
    ),
    ROLE_NONE: frozenset(),
}


class Principal(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who asks: ``name`` is a user name, node uid or key id; ``epoch`` belongs to a node.

    ``node`` is the name of the node on whose word alone this is a local user of it; ``home`` is its
    uid where that word counts for its own instances only.
    """

    kind: PrincipalKind
    name: str
    role: str = ROLE_NONE
    epoch: int = 0
    node: str = ""
    home: str = ""

    @property
    def actor(self) -> str:
        """The name that stands in commands and audit records."""
        if self.node:
            return f"node/{self.node}/{self.name}"
        return f"system:{self.name}" if self.kind == "root" else f"{self.kind}:{self.name}"


ROOT = Principal(kind="root", name="root", role=ROLE_ROOT)
ANONYMOUS = Principal(kind="anonymous", name="anonymous")


def from_certificate(peer: PeerCertificate, user_roles: Mapping[str, str]) -> Principal:
    """Return the principal of a verified client certificate; *user_roles* is ``{user: role}``."""
    who = peer.identity
    if who.kind == "node":
        return Principal(kind="node", name=who.name, role=ROLE_NODE, epoch=who.epoch)
    return Principal(kind="user", name=who.name, role=_assignable(user_roles.get(who.name, "")))


def from_peer_credentials(
    uid: int,
    groups: Collection[int],
    *,
    own_uid: int,
    group_roles: Mapping[int, str],
) -> Principal:
    """Return the principal behind a Unix socket (SO_PEERCRED): never judged by process id.

    The superuser and the daemon's own user are ``system:root``; members of a configured group get
    its role, the strongest of several.
    """
    if uid in {0, own_uid}:
        return ROOT
    roles = {_assignable(group_roles[group]) for group in groups if group in group_roles}
    for role in ASSIGNABLE_ROLES:
        if role in roles:
            return Principal(kind="user", name=f"uid-{uid}", role=role)
    return Principal(kind="user", name=f"uid-{uid}")


def from_statement(said: Principal, node: str, *, home: str = "") -> Principal:
    """Return who a local user is of whom the node of that name says that it is there.

    With the node's uid as *home*, its superuser may do what concerns that node, others nothing.
    """
    role = ROLE_ROOT if said.kind == "root" else _assignable(said.role)
    if home:
        role = ROLE_HOME if said.kind == "root" else ROLE_NONE
    return Principal(kind=said.kind, name=said.name, role=role, node=node, home=home)


def concerns(principal: Principal, resource: Resource) -> bool:
    """Tell whether the object is within reach: of instances, those at the principal's home."""
    if not principal.home or resource.kind != "Instance":
        return True
    return resource.spec.get("node") == principal.home


def from_key(text: str, find: Callable[[str], Resource | None], *, now_ms: int) -> Principal:
    """Return the principal of an API key; *find* gives the ApiKey resource of an id.

    One message for absent, wrong and expired: it tells nobody which ids exist.

    Raises:
        BlixardError: UNAUTHENTICATED.
    """
    key_id = key_id_of(text)
    resource = find(key_id)
    kept = str(resource.spec.get("hash") or "") if resource is not None else ""
    # Compared in any case, so that an unknown id takes as long as a wrong secret.
    matches = key_matches(text, kept)
    if resource is None or not matches:
        raise _key_refused()
    expires_at_ms = int(resource.spec.get("expiresAtMs") or 0)
    if expires_at_ms and now_ms >= expires_at_ms:
        raise _key_refused()
    return Principal(
        kind="key", name=key_id, role=_assignable(str(resource.spec.get("role") or ""))
    )


def authorise(principal: Principal, verb: str, kind: str, namespace: str) -> BlixardError | None:
    """Return None if *principal* may do ``kind:verb`` in *namespace*, or the error that says why.

    *kind* is the lower-case singular (``vm``). Roles apply to every namespace for now.
    """
    if permits(ROLES.get(principal.role, frozenset()), kind, verb):
        return None
    place = f" in namespace {namespace}" if namespace else ""
    if principal.kind == "anonymous":
        return BlixardError("UNAUTHENTICATED", f"{kind}:{verb}{place} needs a certificate or a key")
    granting = [role for role in ASSIGNABLE_ROLES if permits(ROLES[role], kind, verb)]
    hint = f"roles that grant it: {', '.join(granting)}" if granting else "no role grants it"
    return BlixardError(
        "FORBIDDEN",
        f"{principal.actor} lacks {kind}:{verb}{place}",
        hint=HOME_HINT if principal.home else hint,
        details={"permission": f"{kind}:{verb}", "actor": principal.actor, "roles": granting},
    )


def permits(permissions: Collection[str], kind: str, verb: str) -> bool:
    """Tell whether a set of permissions contains ``kind:verb``; empty names match nothing."""
    if not kind or not verb or "*" in kind + verb:
        return False
    exact = f"{kind}:{verb}"
    if exact in NEVER_BY_WILDCARD:
        return exact in permissions
    return (
        exact in permissions
        or f"{kind}:*" in permissions
        or f"*:{verb}" in permissions
        or "*:*" in permissions
    )


def _assignable(role: str) -> str:
    """Return *role* if it can be given to anybody: stored data never makes a root or a node."""
    return role if role in ASSIGNABLE_ROLES else ROLE_NONE


def _key_refused() -> BlixardError:
    return BlixardError("UNAUTHENTICATED", "the API key is unknown, wrong or expired")
