"""Proposals of this node: queued, batched, and answered when their own entry is applied."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from blixard.base.errors import BlixardError


class ProposalEngine(Protocol):
    """The part of the engine that proposals need."""

    def propose_many(self, proposals: list[tuple[int, bytes]]) -> bool:
        """Append a batch; False if none was taken."""


class Pending(msgspec.Struct, eq=False):
    """One caller; ``appended`` once the entry may stand in a log."""

    future: asyncio.Future[Any]
    deadline: float
    appended: bool = False


class Proposals:
    """What was proposed and is not answered yet, by token in order of arrival."""

    def __init__(self, *, max_pending: int, max_batch: int, max_bytes: int) -> None:
        self._max_pending = max_pending
        self._max_bytes = max_bytes
        self._queued_bytes = 0
        self._max_batch = max_batch
        self._next_token = 1
        self.pending: dict[int, Pending] = {}
        self.queue: list[tuple[int, bytes]] = []

    def token(self) -> int:
        """Return a number that this incarnation never used."""
        self._next_token += 1
        return self._next_token

    def add(self, data: bytes, future: asyncio.Future[Any], deadline: float) -> None:
        """Queue an entry. Raises BlixardError OVERLOADED."""
        if len(self.pending) >= self._max_pending:
            raise BlixardError("OVERLOADED", "too many proposals wait for a quorum")
        if self.queue and self._queued_bytes + len(data) > self._max_bytes:
            raise BlixardError("OVERLOADED", "too many bytes wait to be proposed")
        self._next_token = token = self._next_token + 1
        self.pending[token] = Pending(future, deadline)
        self.queue.append((token, data))
        self._queued_bytes += len(data)

    def expect(self, token: int, future: asyncio.Future[Any], deadline: float) -> None:
        """Wait for an entry that stands in the log already."""
        self.pending[token] = Pending(future, deadline, appended=True)

    def flush(self, engine: ProposalEngine) -> None:
        """Hand the queue to the engine; what it does not take fails with OVERLOADED."""
        while self.queue:
            batch = self.queue[: self._max_batch]
            del self.queue[: self._max_batch]
            self._queued_bytes -= sum(len(data) for _, data in batch)
            taken = engine.propose_many(batch)
            for token, _ in batch:
                if taken:
                    pending = self.pending.get(token)
                    if pending is not None:
                        pending.appended = True
                else:
                    full = BlixardError("OVERLOADED", "too many bytes wait for a quorum")
                    self.fail(token, full)

    def done(self, token: int, result: Any) -> None:
        """Answer the caller whose entry was applied."""
        pending = self.pending.pop(token, None)
        if pending is not None and not pending.future.done():
            pending.future.set_result(result)

    def fail(self, token: int, error: BlixardError) -> None:
        """Answer one caller with an error."""
        pending = self.pending.pop(token, None)
        if pending is not None and not pending.future.done():
            pending.future.set_exception(error)

    def lost_leadership(self, not_leader: BlixardError) -> None:
        """Answer all: *unknown* to whose entry may stand in a log, *not leader* to the others."""
        for token in list(self.pending):
            unknown = self.pending[token].appended
            self.fail(token, _unknown("leadership was lost") if unknown else not_leader)
        self.queue.clear()
        self._queued_bytes = 0

    def tick(self, now: float) -> None:
        """Answer those whose time is over."""
        if not self.pending:
            return
        for token in [t for t, p in self.pending.items() if now >= p.deadline or p.future.done()]:
            if self.pending[token].appended:
                self.fail(token, _unknown("no quorum confirmed it before the deadline"))
            else:
                self.queue = [item for item in self.queue if item[0] != token]
                self._queued_bytes = sum(len(data) for _, data in self.queue)
                self.fail(token, BlixardError("NO_QUORUM", "the proposal was never appended"))


def _unknown(why: str) -> BlixardError:
    return BlixardError("OUTCOME_UNKNOWN", f"the entry may or may not be applied: {why}")
