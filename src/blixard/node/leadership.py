"""Where the leader is, as far as a node knows; asks it, wherever it went."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from blixard.base.errors import BlixardError
from blixard.node import messages as m
from blixard.ports.environment import Environment

TRIED_MAX = 8
_ELSEWHERE = ("NOT_LEADER", "UNREACHABLE", "TIMEOUT", "NO_QUORUM")

Handler = Callable[[str, bytes], Awaitable[bytes]]
Outcome = tuple[str, bytes | BlixardError]


class _Question:
    """One question that is under way to one node or to several."""

    def __init__(self) -> None:
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self.calls: dict[str, asyncio.Task[None]] = {}

    def end(self, uid: str, answer: bytes | BlixardError) -> None:
        """Note what came of a call."""
        self.calls.pop(uid, None)
        self.outcomes.put_nowait((uid, answer))

    def drop(self, uid: str, error: BlixardError) -> None:
        """Wait no longer for a node."""
        self.calls.pop(uid).cancel()
        self.outcomes.put_nowait((uid, error))

    async def outcome(self, patience_s: float | None) -> Outcome | None:
        """Return the next outcome, None if there is none within *patience_s*."""
        try:
            async with asyncio.timeout(patience_s):
                return await self.outcomes.get()
        except TimeoutError:
            return None


class Leadership:
    """Knows whom to ask, and asks until the leader has answered."""

    def __init__(
        self,
        env: Environment,
        own_uid: str,
        leader_hint: Callable[[], str],
        local: dict[str, Handler],
    ) -> None:
        self._env = env
        self._own_uid = own_uid
        self._leader_hint = leader_hint
        self._local = local
        self._guess = ""
        self._questions: list[_Question] = []
        self.peers: tuple[m.Peer, ...] = ()

    def serve(self, method: str, handler: Handler) -> None:
        """Answer *method* here when this node leads itself."""
        self._local[method] = handler

    def candidates(self) -> list[str]:
        """Return whom to ask, best first, without repeats."""
        hint = self._leader_hint()
        voters = [p.uid for p in self.peers if p.voter] or [p.uid for p in self.peers]
        order = [uid for uid in (hint, self._guess, *voters) if uid]
        return list(dict.fromkeys(order)) or [self._own_uid]

    async def ask(
        self, method: str, payload: bytes, *, timeout_s: float, patience_s: float | None = None
    ) -> bytes:
        """Send a request to the leader; try each candidate once.

        A node that does not answer is waited for *timeout_s* before the next one is asked; after
        *patience_s*, if it is given, the next one is asked as well.

        Raises:
            BlixardError: the leader's own answer, or NO_QUORUM if nobody leads.
        """
        question = _Question()
        self._questions.append(question)
        try:
            return await self._ask(question, method, payload, timeout_s, patience_s)
        finally:
            self._questions.remove(question)
            for call in question.calls.values():
                call.cancel()

    async def _ask(
        self, question: _Question, method: str, payload: bytes, timeout_s: float,
        patience_s: float | None,
    ) -> bytes:  # fmt: skip
        last = BlixardError("NO_QUORUM", "no node answered as leader")
        tried: list[str] = []
        queue = self.candidates()
        while queue or question.calls:
            if queue:
                tried.append(uid := queue.pop(0))
                call = self._call(question, uid, method, payload, timeout_s)
                question.calls[uid] = self._env.spawn(call, name=method)
            found = await question.outcome(patience_s if queue else None)
            if found is None:
                continue
            uid, answer = found
            if isinstance(answer, bytes):
                self._leads(uid)
                return answer
            if answer.code not in _ELSEWHERE:
                raise answer
            last = answer
            better = str(answer.details.get("leader", ""))
            if better and better not in tried:
                queue = [better, *(other for other in queue if other != better)]
            queue = queue[: TRIED_MAX - len(tried)]
        raise last

    async def _call(
        self, question: _Question, uid: str, method: str, payload: bytes, timeout_s: float
    ) -> None:
        try:
            if uid == self._own_uid:
                answer = await self._local[method](uid, payload)
            else:
                answer = await self._env.transport.request(
                    uid, method, payload, timeout_s=timeout_s
                )
        except BlixardError as error:
            question.end(uid, error)
        else:
            question.end(uid, answer)

    def _leads(self, uid: str) -> None:
        """Whoever still waits for another node asks elsewhere: that one may be cut off."""
        if uid == self._guess:
            return
        self._guess = uid
        gone = BlixardError("TIMEOUT", f"{uid} leads now", details={"leader": uid})
        for question in self._questions:
            for other in [other for other in question.calls if other != uid]:
                question.drop(other, gone)
