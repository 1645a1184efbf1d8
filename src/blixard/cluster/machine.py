"""The replicated state machine: apply, remember request ids, chain the hash, tell the watchers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import immutables
import msgspec

from blixard.base.ids import is_ulid, ulid_time_ms
from blixard.cluster.apply import apply_transaction
from blixard.cluster.commands import BadCommand, decode_command
from blixard.cluster.kind import Kind, KindTable
from blixard.cluster.resources import Outcome, Resource, Transaction
from blixard.cluster.store import Draft, Store, rebuild
from blixard.cluster.watch import Changes, Subscription

REQUEST_IDS_MAX = 20_000
REQUEST_ID_SKEW_MS = 300_000
_FORMAT = 1


class Requests(msgspec.Struct, frozen=True):
    """The outcomes of recent requests, as persistent maps.

    ``horizon_ms`` is the latest time inside any id that was forgotten: an id that is not newer may
    have been applied before, so it is never applied again.
    """

    outcomes: immutables.Map[str, Outcome] = immutables.Map()
    order: immutables.Map[int, str] = immutables.Map()
    first: int = 0
    next: int = 0
    horizon_ms: int = 0

    def remember(self, request_id: str, outcome: Outcome) -> Requests:
        """Return the window with one more id, the oldest forgotten if it is full."""
        outcomes, order = self.outcomes, self.order
        first, horizon_ms = self.first, self.horizon_ms
        if self.next - first >= REQUEST_IDS_MAX:
            forgotten = order[first]
            outcomes, order = outcomes.delete(forgotten), order.delete(first)
            horizon_ms = max(horizon_ms, ulid_time_ms(forgotten))
            first += 1
        return Requests(
            outcomes.set(request_id, outcome),
            order.set(self.next, request_id),
            first,
            self.next + 1,
            horizon_ms,
        )


class Frozen(msgspec.Struct, frozen=True):
    """A state at one index: references only."""

    store: Store
    requests: Requests
    state_hash: bytes


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    format: int
    revision: int
    state_hash: bytes
    resources: list[Resource]
    tombstones: list[tuple[int, str]]
    requests: list[tuple[str, Outcome]]
    horizon_ms: int


class ClusterMachine:
    """Implements the state machine of consensus over :class:`Store`."""

    def __init__(self, kinds: tuple[Kind, ...]) -> None:
        self.kinds = KindTable(kinds)
        self.store = Store()
        self.changes = Changes()
        self._requests = Requests()
        self._hash = b"\0" * 16
        self._encoder = msgspec.msgpack.Encoder()

    def apply(self, index: int, term: int, data: bytes) -> Outcome:
        """Apply one entry; whatever the bytes are, every node answers the same."""
        outcome, changes = self._outcome(index, term, data)
        encode = self._encoder.encode
        parts = [self._hash, data, encode(outcome)]
        for old, new in changes:
            # What was stored, not only what was answered: a wrong object shows at once.
            parts.append(encode(new) if new is not None else b"-" + encode(old))
        self._hash = hashlib.blake2b(b"".join(parts), digest_size=16).digest()
        return outcome

    def _outcome(
        self, index: int, term: int, data: bytes
    ) -> tuple[Outcome, list[tuple[Resource | None, Resource | None]]]:
        try:
            transaction = decode_command(data)
        except BadCommand as error:
            return self._refusal("BAD_REQUEST", str(error)), []
        known = self._requests.outcomes.get(transaction.request_id)
        if known is not None:
            return known, []
        refused = self._check_request(transaction)
        if refused is not None:
            return refused, []
        store, outcome, changes = apply_transaction(
            self.store, self.kinds, transaction, index=index, term=term
        )
        self.store = store
        self._requests = self._requests.remember(transaction.request_id, outcome)
        if changes:
            self.changes.add(store.revision, changes)
        return outcome, changes

    def _check_request(self, transaction: Transaction) -> Outcome | None:
        """Return why a request that is not known may not be applied."""
        request_id = transaction.request_id
        if not is_ulid(request_id):
            return self._refusal("REQUEST_ID_INVALID", "the request id is no ULID")
        made_ms = ulid_time_ms(request_id)
        if made_ms <= self._requests.horizon_ms:
            return self._refusal(
                "REQUEST_ID_EXPIRED", "the id is older than what is remembered; nothing was done"
            )
        if abs(made_ms - transaction.time_ms) > REQUEST_ID_SKEW_MS:
            return self._refusal(
                "REQUEST_ID_INVALID", "the time in the request id is more than 5 min off"
            )
        return None

    def _refusal(self, code: str, message: str) -> Outcome:
        return Outcome(revision=self.store.revision, code=code, message=message)

    def rewrite(self, index: int, change: Callable[[Draft], None]) -> None:
        """Change the state by no entry of the log: for a recovery, while no node runs."""
        draft = self.store.draft(index)
        change(draft)
        self.store = draft.finish()
        after = b"".join(self._encoder.encode(new) for _, new in draft.changes)
        self._hash = hashlib.blake2b(self._hash + after, digest_size=16).digest()
        self.changes.reset(index)

    def known_outcome(self, request_id: str) -> Outcome | None:
        """Return what a request did, if it is remembered."""
        return self._requests.outcomes.get(request_id)

    @property
    def horizon_ms(self) -> int:
        """The latest time in a forgotten request id: ids must be newer."""
        return self._requests.horizon_ms

    def subscribe(
        self, from_revision: int, kinds: tuple[str, ...] = (), namespace: str | None = None
    ) -> Subscription:
        """Follow the changes after *from_revision*. Raises BlixardError REVISION_COMPACTED."""
        return self.changes.subscribe(from_revision, kinds, namespace)

    def freeze(self) -> Frozen:
        """Return a handle of the state now."""
        return Frozen(self.store, self._requests, self._hash)

    def encode(self, handle: Frozen) -> bytes:
        """Return the bytes of a frozen state, the same on every node."""
        requests = handle.requests
        ids = [requests.order[i] for i in range(requests.first, requests.next)]
        return self._encoder.encode(
            _Snapshot(
                format=_FORMAT,
                revision=handle.store.revision,
                state_hash=handle.state_hash,
                resources=list(handle.store.everything()),
                tombstones=handle.store.tombstones(),
                requests=[(i, requests.outcomes[i]) for i in ids],
                horizon_ms=requests.horizon_ms,
            )
        )

    def restore(self, data: bytes) -> None:
        """Replace the state by a snapshot's. Raises msgspec.DecodeError on damaged bytes."""
        snapshot = msgspec.msgpack.decode(data, type=_Snapshot)
        self.store = Store(rebuild(snapshot.resources, snapshot.tombstones), snapshot.revision)
        self._requests = Requests(
            outcomes=immutables.Map(snapshot.requests),
            order=immutables.Map(enumerate(i for i, _ in snapshot.requests)),
            next=len(snapshot.requests),
            horizon_ms=snapshot.horizon_ms,
        )
        self._hash = snapshot.state_hash
        self.changes.reset(snapshot.revision)

    def state_hash(self) -> bytes:
        """Return the hash chained over entries, outcomes and the objects stored."""
        return self._hash
