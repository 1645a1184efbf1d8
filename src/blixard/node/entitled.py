"""Which nodes may call what of this one, by the state as this node knows it."""

from __future__ import annotations

from collections.abc import Iterable

from blixard.base.errors import BlixardError
from blixard.cluster.store import Store
from blixard.consensus.membership import Membership
from blixard.node.messages import FUNCTION_CALL, INVITE, Peer
from blixard.node.streams import METHOD as INSTANCE_STREAM
from blixard.ports.transport import MESSAGES
from blixard.storage.remote import METHOD as UNMAKE

# Whoever may call these can act on any guest or replace this node's authority. Voters judge the
# caller behind a stream or a call themselves, and hold the issuing authority anyway.
VOTERS_ONLY = frozenset({FUNCTION_CALL, INSTANCE_STREAM, INVITE, UNMAKE})
RAFT = "raft"


def refusal(
    uid: str,
    method: str,
    *,
    peers: Iterable[Peer],
    store: Store | None = None,
    membership: Membership | None = None,
) -> BlixardError | None:
    """Return why the node *uid* may not call *method* here, or None.

    *peers* is what the leader said last; *store* and *membership* are absent on a worker.
    """
    known = {peer.uid: peer for peer in peers}
    if method in VOTERS_ONLY:
        return None if uid in known and known[uid].voter else _no_voter(uid, method, known)
    member = membership is not None and membership.by_uid(uid) is not None
    if store is not None and store.by_uid(uid) is not None:
        if method == RAFT and not member:
            return BlixardError("FORBIDDEN", "only members speak Raft")
        return None
    if member:
        return None
    if uid in known or (method == MESSAGES and not known):
        return None
    return BlixardError("NODE_REMOVED", f"node {uid} is not known here")


def _no_voter(uid: str, method: str, known: dict[str, Peer]) -> BlixardError:
    name = known[uid].name if uid in known else uid
    return BlixardError(
        "FORBIDDEN",
        f"{method} is for voters, and {name} is none as far as this node knows",
        hint="a node that became a voter this moment is known as one within seconds: try again",
    )
