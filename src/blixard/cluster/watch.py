"""Changes as a bounded ring, and those who follow them.

A slow follower is cut and must read again; it is never silently skipped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Resource

RING_MAX = 10_000
QUEUE_MAX = 2_000
SUBSCRIPTIONS_MAX = 1_000


class Change(msgspec.Struct, frozen=True, gc=False):
    """One object's change; ``resource`` is the new one, of a deletion the last one."""

    revision: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    resource: Resource


class Subscription:
    """The changes of some kinds and one namespace (or all), in order."""

    def __init__(self, owner: Changes, kinds: tuple[str, ...], namespace: str | None) -> None:
        self._owner = owner
        self._kinds = frozenset(kinds)
        self._namespace = namespace
        self._queue: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._cut = ""

    def wants(self, change: Change) -> bool:
        """Tell whether the follower asked for this change."""
        resource = change.resource
        return (not self._kinds or resource.kind in self._kinds) and (
            self._namespace is None or resource.metadata.namespace == self._namespace
        )

    def offer(self, change: Change) -> None:
        """Queue a change, or cut the follower whose queue is full."""
        if self._cut or not self.wants(change):
            return
        if len(self._queue) >= QUEUE_MAX:
            self.cut(f"{QUEUE_MAX} changes were waiting to be read")
            return
        self._queue.append(change)
        self._wake.set()

    def cut(self, why: str) -> None:
        """End the subscription: its follower must list again."""
        self._cut = why
        self._queue.clear()
        self._wake.set()

    async def next(self) -> list[Change]:
        """Return the changes since the last call, at least one.

        Raises:
            BlixardError: REVISION_COMPACTED, if the follower was cut.
        """
        while not self._queue:
            if self._cut:
                raise BlixardError("REVISION_COMPACTED", f"the watch was ended: {self._cut}")
            self._wake.clear()
            await self._wake.wait()
        changes = list(self._queue)
        self._queue.clear()
        return changes

    def close(self) -> None:
        """Stop following."""
        self._owner.forget(self)


class Changes:
    """The last changes of this node's copy of the state."""

    def __init__(self) -> None:
        self._ring: deque[Change] = deque(maxlen=RING_MAX)
        self._oldest = 0
        self._subscriptions: list[Subscription] = []

    def add(self, revision: int, pairs: list[tuple[Resource | None, Resource | None]]) -> None:
        """Take the changes of one entry."""
        for old, new in pairs:
            change = _change(revision, old, new)
            if len(self._ring) == RING_MAX:
                self._oldest = self._ring[0].revision
            self._ring.append(change)
            for subscription in self._subscriptions:
                subscription.offer(change)

    def subscribe(
        self, from_revision: int, kinds: tuple[str, ...], namespace: str | None
    ) -> Subscription:
        """Follow what changed after *from_revision*.

        Raises:
            BlixardError: REVISION_COMPACTED, OVERLOADED.
        """
        if from_revision < self._oldest:
            raise BlixardError(
                "REVISION_COMPACTED",
                f"changes are kept from revision {self._oldest} on, not from {from_revision}",
            )
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise BlixardError("OVERLOADED", f"{SUBSCRIPTIONS_MAX} watches are open")
        subscription = Subscription(self, kinds, namespace)
        for change in self._ring:
            if change.revision > from_revision:
                subscription.offer(change)
        self._subscriptions.append(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Drop a follower."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def reset(self, revision: int) -> None:
        """The state was replaced by a snapshot: what led to it is not known here."""
        self._ring.clear()
        self._oldest = revision
        for subscription in self._subscriptions:
            subscription.cut("the state was replaced by a snapshot")
        self._subscriptions.clear()


def _change(revision: int, old: Resource | None, new: Resource | None) -> Change:
    if new is None:
        assert old is not None
        return Change(revision, "DELETED", old)
    return Change(revision, "MODIFIED" if old is not None else "ADDED", new)
