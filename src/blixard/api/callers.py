"""From what a connection proved to a principal, judged against the replicated state each time."""

from __future__ import annotations

from collections.abc import Callable

from blixard.api.messages import Caller
from blixard.base.errors import BlixardError
from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.security.identity import PeerCertificate, check_valid_now
from blixard.security.principals import (
    ANONYMOUS,
    HOME_HINT,
    Principal,
    authorise,
    concerns,
    from_certificate,
    from_key,
    from_statement,
)

ROLE_LABEL = "blixard.dev/user-role."

Votes = Callable[[str], bool]


def resolve(caller: Caller, store: Store, *, now_ms: int, votes: Votes) -> Principal:
    """Return who asks. A key that is given must be right, also beside a certificate.

    *votes* tells whether the node of a uid is a voter.

    Raises:
        BlixardError: UNAUTHENTICATED, NODE_REMOVED; FORBIDDEN where a node's word is not believed.
    """
    forwarder = _forwarder(caller.forwarded_by, store) if caller.forwarded_by else None
    if caller.api_key:
        return from_key(caller.api_key, lambda key: store.get("ApiKey", "", key), now_ms=now_ms)
    if caller.principal is not None:
        if forwarder is None:
            return caller.principal
        return _believed(caller.principal, forwarder, store, votes)
    if caller.certificate is None:
        return ANONYMOUS
    check_valid_now(caller.certificate, now_ms)
    principal = from_certificate(caller.certificate, _user_roles(caller.certificate, store))
    if principal.kind == "node":
        _check_node(principal, store)
    return principal


def _forwarder(uid: str, store: Store) -> Resource:
    """Return the node that passed a request on: one that was removed speaks for nobody."""
    node = store.by_uid(uid)
    if node is None or node.kind != "Node":
        raise BlixardError("NODE_REMOVED", f"node {uid} is not in this cluster")
    return node


def _believed(said: Principal, node: Resource, store: Store, votes: Votes) -> Principal:
    """Return what the word of a node counts for by the cluster's policy. Raises FORBIDDEN."""
    config = store.get("ClusterConfig", "", "cluster")
    policy = config.spec.get("localUsers", "own") if config is not None else "own"
    uid, name = node.metadata.uid, node.metadata.name
    if policy == "nodes" or (policy in {"own", "voters"} and votes(uid)):
        return from_statement(said, name)
    if policy == "own":
        return from_statement(said, name, home=uid)
    who = "nobody's word" if policy == "none" else "the word of voters only"
    raise BlixardError(
        "FORBIDDEN",
        f"{name} says that a local user of it asks, and localUsers takes {who}",
        hint="use an API key or a certificate, or the socket of the leader itself",
        details={"node": name, "localUsers": str(policy)},
    )


def _user_roles(certificate: PeerCertificate, store: Store) -> dict[str, str]:
    """Return the role of the certificate's user: a label of the cluster's configuration."""
    config = store.get("ClusterConfig", "", "cluster")
    name = certificate.identity.name
    role = config.metadata.labels.get(ROLE_LABEL + name, "") if config is not None else ""
    return {name: role}


def _check_node(principal: Principal, store: Store) -> None:
    """A connection outlives its certificate: the node must exist in the epoch it claims."""
    node = store.by_uid(principal.name)
    if node is None or node.status.get("state") == "Removed":
        raise BlixardError("NODE_REMOVED", f"node {principal.name} is not in this cluster")
    if int(node.status.get("epoch", 0)) != principal.epoch:
        raise BlixardError("UNAUTHENTICATED", f"the certificate is of epoch {principal.epoch}")


def require(principal: Principal, verb: str, kind: str, namespace: str = "") -> None:
    """Return if the principal may. Raises BlixardError FORBIDDEN, UNAUTHENTICATED."""
    refused = authorise(principal, verb, kind.lower(), namespace)
    if refused is not None:
        raise refused


def require_within_reach(principal: Principal, resource: Resource) -> None:
    """Return if the object concerns the principal. Raises BlixardError FORBIDDEN."""
    if not concerns(principal, resource):
        what = f"{resource.kind.lower()}/{resource.metadata.name}"
        raise BlixardError(
            "FORBIDDEN", f"{what} is on another node than {principal.node}", hint=HOME_HINT
        )
