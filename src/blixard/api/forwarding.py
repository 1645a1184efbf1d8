"""Finds a node that can answer: here, the leader, or any voter; repeats within the deadline.

A repeated write carries the same request id, so that it is applied once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from blixard.api.batches import Batches
from blixard.api.messages import Request, Response, decode_response, encode_request
from blixard.api.standing import Standing
from blixard.base.errors import BlixardError
from blixard.ports.environment import Environment
from blixard.ports.transport import Stream

FORWARD = "api.forward"
STREAM = "api.stream"
ATTEMPT_S = 3.0
PAUSE_S = 0.05
TOGETHER_MAX = 64 << 10  # larger requests gain nothing by waiting for others
_ELSEWHERE = frozenset({"NOT_LEADER", "UNREACHABLE"})
READING = frozenset({"GET", "HEAD"})
_AGAIN = frozenset({"NOT_LEADER", "UNREACHABLE", "TIMEOUT", "NO_QUORUM", "OUTCOME_UNKNOWN"})
# What says of one attempt that it was not let in, and nothing of an attempt before it.
_NOT_LET_IN = frozenset({"OVERLOADED", "DISK_FULL", "QUARANTINED"})

Local = Callable[[float], Awaitable[Response]]


class Forwarder:
    """Sends requests to where they can be answered."""

    def __init__(self, env: Environment, standing: Standing) -> None:
        self._env = env
        self._standing = standing
        self.batches = Batches(env)

    async def on_leader(
        self, request: Request, deadline: float, local: Local, *, alone: bool = False
    ) -> Response:
        """Answer on the leader, wherever it goes until the deadline; *alone* in its own call.

        Raises:
            BlixardError: the leader's own answer; NO_QUORUM if nobody led in time, OUTCOME_UNKNOWN
                if somebody may have taken it.
        """
        loop = asyncio.get_running_loop()
        last = BlixardError("NO_QUORUM", "no leader was found before the deadline")
        better = ""
        while (remaining := deadline - loop.time()) > 0:
            try:
                if self._standing.leads():
                    return await local(remaining)
                if request.forwarded:
                    raise self._not_leader()
                return await self._ask_around(request, deadline, better, alone=alone)
            except BlixardError as error:
                if request.forwarded or _decides(error, last):
                    raise
                better = str(error.details.get("leader", ""))
                if error.code == "OUTCOME_UNKNOWN" or last.code != "OUTCOME_UNKNOWN":
                    last = error
            await asyncio.sleep(min(PAUSE_S, max(0.0, deadline - loop.time())))
        raise _final(last)

    async def to_voter(self, request: Request, deadline: float, *, once: bool = False) -> Response:
        """Let any voter answer; *once*: not again by another if the first may have begun.

        Raises:
            BlixardError: NO_QUORUM if none could.
        """
        if request.forwarded:
            raise self._not_leader()
        return await self._ask_around(request, deadline, "", alone=True, once=once)

    async def open_stream(self, request: Request, deadline: float) -> Stream:
        """Open the stream on a voter. Raises BlixardError."""
        if request.forwarded:
            raise self._not_leader()
        last = BlixardError("NO_QUORUM", "no voter is known")
        loop = asyncio.get_running_loop()
        for uid in self._others(""):
            remaining = deadline - loop.time()
            try:
                async with asyncio.timeout(min(ATTEMPT_S, remaining)):
                    return await self._env.transport.open_stream(
                        uid, STREAM, encode_request(request, remaining_s=remaining)
                    )
            except TimeoutError:
                last = BlixardError("UNREACHABLE", f"node {uid} did not answer")
            except BlixardError as error:
                if error.code not in _ELSEWHERE:
                    raise
                last = error
        raise last

    async def _ask_around(
        self, request: Request, deadline: float, better: str, *, alone: bool, once: bool = False
    ) -> Response:
        last = BlixardError("NO_QUORUM", "no voter is known")
        loop = asyncio.get_running_loop()
        for uid in self._others(better):
            remaining = deadline - loop.time()
            if remaining <= 0:
                break
            attempt = min(ATTEMPT_S, remaining) if request.method != "POST" else remaining
            payload = encode_request(request, remaining_s=attempt)
            try:
                if alone or len(payload) > TOGETHER_MAX:
                    answer = await self._env.transport.request(
                        uid, FORWARD, payload, timeout_s=attempt
                    )
                else:
                    answer = await self.batches.request(uid, payload, timeout_s=attempt)
                return decode_response(answer)
            except BlixardError as raised:
                error = _ambiguous(raised, uid) if request.method not in READING else raised
                if once and error.code == "OUTCOME_UNKNOWN":
                    raise error from raised
                if _decides(error, last):
                    raise
                # Once somebody may have taken it, the others cannot say that nobody did.
                if last.code != "OUTCOME_UNKNOWN" or error.code == "OUTCOME_UNKNOWN":
                    last = error
        raise last

    def _others(self, better: str) -> list[str]:
        known = [better, *self._standing.candidates()] if better else self._standing.candidates()
        return [uid for uid in dict.fromkeys(known) if uid != self._standing.own_uid]

    def _not_leader(self) -> BlixardError:
        others = self._standing.candidates()
        leader = others[0] if others and others[0] != self._standing.own_uid else ""
        return BlixardError("NOT_LEADER", "this node does not lead", details={"leader": leader})


def _decides(error: BlixardError, last: BlixardError) -> bool:
    """Tell whether an error is the answer, after the *last* one that was not."""
    if last.code == "OUTCOME_UNKNOWN" and error.code in _NOT_LET_IN:
        return False
    return error.code not in _AGAIN


def _ambiguous(error: BlixardError, uid: str) -> BlixardError:
    """Return what a lost answer to a write means: unless it was surely not sent, nobody knows."""
    if error.code not in {"UNREACHABLE", "TIMEOUT"} or error.details.get("sent") is False:
        return error
    return BlixardError("OUTCOME_UNKNOWN", f"node {uid} may have taken it: {error.message}")


def _final(error: BlixardError) -> BlixardError:
    """Return what the client hears at the deadline: it has no use for who leads not."""
    if error.code in {"NOT_LEADER", "UNREACHABLE"}:
        return BlixardError("NO_QUORUM", f"no leader before the deadline: {error.message}")
    if error.code == "OUTCOME_UNKNOWN":
        hint = "blixard cluster status shows the voters; repeat with the same request id"
        message = f"{error.message}; no majority of the voters answered until the deadline"
        return BlixardError(error.code, message, hint=hint, details=error.details)
    return error
