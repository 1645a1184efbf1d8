"""A snapshot of an index holds the state that replay to that index leads to.

What a node saved is decoded again and compared, object by object, with the state that another node
had when it applied the index. The carried hash is left out: it would be right in a snapshot that
lost something. Every eighth index is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from blixard.cluster.machine import ClusterMachine, Frozen
from blixard.consensus.config import StateMachine
from blixard.simulation.register import RegisterMachine

EVERY = 8
_KEPT = 128  # indexes
_HOSTS = 2

Fail = Callable[[str, str], None]


class Contents:
    """States and snapshots at the sampled indexes; handles of states are references."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._states: dict[int, dict[int, Any]] = {}  # index -> host -> frozen state
        self._saved: dict[int, tuple[int, bytes]] = {}  # index -> host, digest of what it saved
        self.excused: set[int] = set()  # hosts whose state is wrong on purpose
        self.compared = 0

    def applied(self, host: int, index: int, machine: StateMachine) -> None:
        """A host has just applied an entry, and nothing after it."""
        if index % EVERY or host in self.excused:
            return
        states = self._states.setdefault(index, {})
        if host not in states and len(states) < _HOSTS:
            states[host] = machine.freeze()
            saved = self._saved.pop(index, None)
            if saved is not None and not self._compare(index, *saved):
                self._saved[index] = saved
        if len(self._states) > _KEPT:
            oldest = next(iter(self._states))
            del self._states[oldest]
            self._saved.pop(oldest, None)

    def saved(self, host: int, index: int, machine: StateMachine, payload: bytes) -> None:
        """A host is about to write a snapshot."""
        if index % EVERY or host in self.excused or index not in self._states:
            return
        fresh = ClusterMachine(()) if isinstance(machine, ClusterMachine) else RegisterMachine()
        fresh.restore(payload)
        digest = digest_of(fresh.freeze())
        if not self._compare(index, host, digest):
            self._saved[index] = (host, digest)

    def _compare(self, index: int, host: int, digest: bytes) -> bool:
        """Compare with the state of another host; False if none is known yet."""
        others = {h: state for h, state in self._states[index].items() if h != host}
        for other, state in others.items():
            self.compared += 1
            if digest_of(state) != digest:
                self._fail(
                    "snapshot",
                    f"host {host} saves at {index} what host {other} did not have there",
                )
                break
        return bool(others)


def digest_of(state: Any) -> bytes:
    """Return a checksum over all that a frozen state holds, but for its own hash."""
    if isinstance(state, Frozen):
        store, requests = state.store, state.requests
        ids = [requests.order[i] for i in range(requests.first, requests.next)]
        outcomes = [(i, requests.outcomes[i]) for i in ids]
        held: list[Any] = [store.revision, list(store.everything()), store.tombstones(), outcomes]
        held.append(requests.horizon_ms)
    else:
        values, _, *rest = msgspec.structs.astuple(state)
        held = [sorted(values.items()), *rest]
    return hashlib.blake2b(msgspec.msgpack.encode(held), digest_size=16).digest()
