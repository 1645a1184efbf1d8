"""Forwarded writes travel together: what waits for one node at one moment goes in one call.

A call between nodes costs far more than what one small write costs in it, and writes of one call
end up in one round of consensus.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from blixard.base.errors import BlixardError, ErrorBody, from_body, to_body
from blixard.ports.environment import Environment

METHOD = "api.forward-all"
CALLS_MAX = 4  # under way to one node: more would only make the batches smaller
REQUESTS_MAX = 128
BYTES_MAX = 512 << 10
WAITING_MAX = 10_000

Answer = Callable[[bytes], Awaitable[bytes]]


class _Waiting(msgspec.Struct):
    payload: bytes
    deadline: float
    future: asyncio.Future[bytes]
    sent: bool = False


class _Result(msgspec.Struct, frozen=True, array_like=True):
    data: bytes = b""
    error: ErrorBody | None = None


_REQUESTS = msgspec.msgpack.Decoder(list[bytes])
_RESULTS = msgspec.msgpack.Decoder(list[_Result])


class Batches:
    """Both sides of the calls: collects on one node, answers on the other."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._senders: dict[str, int] = {}
        self._starting: dict[str, bool] = {}

    async def request(self, uid: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Have *payload* answered by *uid*; the same errors as of a call of its own.

        Raises:
            BlixardError: the handler's own; UNREACHABLE, TIMEOUT, OVERLOADED.
        """
        loop = asyncio.get_running_loop()
        queue = self._waiting.setdefault(uid, deque())
        if len(queue) >= WAITING_MAX:
            raise BlixardError("OVERLOADED", f"{len(queue)} requests wait for node {uid}")
        future: asyncio.Future[bytes] = loop.create_future()
        waiting = _Waiting(payload, loop.time() + timeout_s, future)
        queue.append(waiting)
        if self._senders.get(uid, 0) < CALLS_MAX and not self._starting.get(uid):
            self._starting[uid] = True
            self._senders[uid] = self._senders.get(uid, 0) + 1
            # The task starts after what is ready now: that joins its first call.
            self._env.spawn(self._send_all(uid), name=f"forward to {uid}")
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise BlixardError(
                "TIMEOUT" if waiting.sent else "UNREACHABLE",
                f"node {uid} did not answer in time",
                details={} if waiting.sent else {"sent": False},
            ) from error

    async def answer(self, payload: bytes, answer: Answer) -> bytes:
        """Answer all requests of one call. Raises BlixardError BAD_REQUEST."""
        try:
            requests = _REQUESTS.decode(payload)
        except msgspec.DecodeError as error:
            raise BlixardError("BAD_REQUEST", f"no forwarded requests: {error}") from error
        if len(requests) > REQUESTS_MAX:
            raise BlixardError("BAD_REQUEST", f"{len(requests)} requests; at most {REQUESTS_MAX}")
        results = await asyncio.gather(*[self._one(data, answer) for data in requests])
        return msgspec.msgpack.encode(results)

    async def _one(self, data: bytes, answer: Answer) -> _Result:
        try:
            return _Result(data=await answer(data))
        except BlixardError as error:
            return _Result(error=to_body(error))
        except Exception as error:
            # The others of the call have their own answers.
            detail = f"{type(error).__name__}: {error}"
            self._env.log("error", "forwarded_request_failed", detail=detail)
            return _Result(error=to_body(BlixardError("INTERNAL", detail)))

    async def _send_all(self, uid: str) -> None:
        """Make calls while somebody waits."""
        self._starting[uid] = False
        try:
            while batch := self._take(uid):
                await self._call(uid, batch)
        finally:
            self._senders[uid] -= 1
            if not self._senders[uid]:
                self._forget(uid)

    def _take(self, uid: str) -> list[_Waiting]:
        queue, size = self._waiting[uid], 0
        batch: list[_Waiting] = []
        while queue and len(batch) < REQUESTS_MAX:
            if batch and size + len(queue[0].payload) > BYTES_MAX:
                break
            waiting = queue.popleft()
            if not waiting.future.done():
                waiting.sent = True
                batch.append(waiting)
                size += len(waiting.payload)
        return batch

    async def _call(self, uid: str, batch: list[_Waiting]) -> None:
        now = asyncio.get_running_loop().time()
        remaining = max(waiting.deadline for waiting in batch) - now
        payload = msgspec.msgpack.encode([waiting.payload for waiting in batch])
        try:
            data = await self._env.transport.request(
                uid, METHOD, payload, timeout_s=max(0.001, remaining)
            )
            results = _RESULTS.decode(data)
            if len(results) != len(batch):
                raise BlixardError("OUTCOME_UNKNOWN", f"node {uid} answered something else")
        except msgspec.DecodeError as error:
            unknown = BlixardError("OUTCOME_UNKNOWN", f"node {uid} answered nonsense: {error}")
            _settle(batch, [unknown] * len(batch))
        except BlixardError as error:
            _settle(batch, [error] * len(batch))
        else:
            _settle(batch, [r.data if r.error is None else from_body(r.error) for r in results])

    def _forget(self, uid: str) -> None:
        if not self._waiting[uid] and not self._starting[uid]:
            del self._waiting[uid], self._senders[uid], self._starting[uid]


def _settle(batch: list[_Waiting], results: list[Any]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.future.done():
            continue
        if isinstance(result, BlixardError):
            waiting.future.set_exception(result)
        else:
            waiting.future.set_result(result)
