"""From what a connection proved to a principal, judged against the replicated state each time."""

from __future__ import annotations

from blixard.api.messages import Caller
from blixard.base.errors import BlixardError
from blixard.cluster.store import Store
from blixard.security.identity import PeerCertificate, check_valid_now
from blixard.security.principals import ANONYMOUS, Principal, authorise, from_certificate, from_key

ROLE_LABEL = "blixard.dev/user-role."


def resolve(caller: Caller, store: Store, *, now_ms: int) -> Principal:
    """Return who asks. A key that is given must be right, also beside a certificate.

    Raises:
        BlixardError: UNAUTHENTICATED, NODE_REMOVED.
    """
    if caller.api_key:
        return from_key(caller.api_key, lambda key: store.get("ApiKey", "", key), now_ms=now_ms)
    if caller.principal is not None:
        return caller.principal
    if caller.certificate is None:
        return ANONYMOUS
    check_valid_now(caller.certificate, now_ms)
    principal = from_certificate(caller.certificate, _user_roles(caller.certificate, store))
    if principal.kind == "node":
        _check_node(principal, store)
    return principal


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
