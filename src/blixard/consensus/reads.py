"""Linearizable reads: each round asks a quorum with a context that is never used again."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from blixard.base.errors import BlixardError

TOKENS_MAX = 8  # askings of one round whose answers are still taken


class ReadEngine(Protocol):
    """The part of the engine that reads need."""

    def read_index(self, token: int) -> bool:
        """Ask for a read index; False if there is nobody to ask."""


class Waiter(msgspec.Struct, eq=False):
    """One caller, until when it waits, and whether only a leader may answer."""

    future: asyncio.Future[int]
    deadline: float
    leader_only: bool


class Round(msgspec.Struct, eq=False):
    """Callers that share one question, and the tokens under which it was asked so far."""

    waiters: list[Waiter]
    issued_at: float
    tokens: list[int]


class Reads:
    """The reads of one node, in order of arrival."""

    def __init__(self, *, max_waiters: int, max_rounds: int, retry_s: float) -> None:
        self._max_waiters = max_waiters
        self._max_rounds = max_rounds
        self._retry_s = retry_s
        self._next_token = 1
        self._count = 0
        self.waiting: list[Waiter] = []
        self.rounds: list[Round] = []
        self._asked: dict[int, Round] = {}
        self.confirmed: list[tuple[int, Waiter]] = []

    def add(self, waiter: Waiter, *, always: bool = False) -> None:
        """Queue a caller for the next round. Raises BlixardError OVERLOADED."""
        if self._count >= self._max_waiters and not always:
            raise BlixardError("OVERLOADED", "too many reads wait for a quorum")
        self._count += 1
        self.waiting.append(waiter)

    def issue(self, engine: ReadEngine, now: float) -> None:
        """Start a round for all who wait, and ask again where no answer came for long.

        The answer to an earlier asking still counts: where round trips are longer than the
        patience, no round would ever end otherwise.
        """
        for late in self.rounds:
            if now - late.issued_at >= self._retry_s:
                self._ask(engine, late, now)
        if self.waiting and len(self.rounds) < self._max_rounds:
            new = Round(self.waiting, now, [])
            if self._ask(engine, new, now):
                self.rounds.append(new)
                self.waiting = []

    def _ask(self, engine: ReadEngine, asked: Round, now: float) -> bool:
        token = self._next_token
        self._next_token += 1
        if not engine.read_index(token):
            return False
        asked.issued_at = now
        asked.tokens.append(token)
        self._asked[token] = asked
        if len(asked.tokens) > TOKENS_MAX:
            del self._asked[asked.tokens.pop(0)]
        return True

    def _close(self, done: Round) -> None:
        self.rounds.remove(done)
        for token in done.tokens:
            del self._asked[token]

    def confirm(self, token: int, index: int) -> None:
        """A quorum answered: the callers wait for *index* to be applied."""
        done = self._asked.get(token)
        if done is not None:
            self._close(done)
            self.confirmed += [(index, waiter) for waiter in done.waiters]

    def resolve(self, applied: int) -> None:
        """Answer whoever waits for no more than *applied*."""
        if not self.confirmed:
            return
        left: list[tuple[int, Waiter]] = []
        for index, waiter in self.confirmed:
            if index > applied:
                left.append((index, waiter))
                continue
            self._count -= 1
            if not waiter.future.done():
                waiter.future.set_result(applied)
        self.confirmed = left

    def restart(self) -> None:
        """The term changed: open rounds are void, their callers wait for new ones."""
        for open_round in self.rounds:
            self.waiting += open_round.waiters
        self.rounds.clear()
        self._asked.clear()

    def tick(self, now: float) -> None:
        """Give up on callers whose time is over, and on rounds that nobody waits for."""
        if not (self.waiting or self.rounds or self.confirmed):
            return
        self.waiting = [w for w in self.waiting if self._keep(w, now)]
        for open_round in list(self.rounds):
            open_round.waiters = [w for w in open_round.waiters if self._keep(w, now)]
            if not open_round.waiters:
                self._close(open_round)
        self.confirmed = [(i, w) for i, w in self.confirmed if self._keep(w, now)]

    def _keep(self, waiter: Waiter, now: float) -> bool:
        if not waiter.future.done() and now < waiter.deadline:
            return True
        self._count -= 1
        if not waiter.future.done():
            waiter.future.set_exception(
                BlixardError("NO_QUORUM", "no quorum confirmed the read before its deadline")
            )
        return False

    def fail(self, error: BlixardError, *, leader_only: bool) -> None:
        """Answer all callers, or those whom only a leader may answer, with an error."""

        def keep(waiter: Waiter) -> bool:
            if leader_only and not waiter.leader_only:
                return True
            self._count -= 1
            if not waiter.future.done():
                waiter.future.set_exception(error)
            return False

        self.waiting = [w for w in self.waiting if keep(w)]
        for open_round in self.rounds:
            open_round.waiters = [w for w in open_round.waiters if keep(w)]
        self.confirmed = [(i, w) for i, w in self.confirmed if keep(w)]
