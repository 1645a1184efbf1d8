"""Functions in a guest: their code, their calls and the answers, over the guest channel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Literal

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.hypervisors.qemu.agent import AgentLink
from blixard.hypervisors.qemu.console import clean
from blixard.ports.hypervisor import LOG_TAIL_LINES, Invocation, InvocationResult

# The guest ends what is too late and says so; only a guest that cannot is waited for longer.
GRACE_S = 5.0
_PIECE = 16 * 1024
_FIRST = 48 * 1024
_HEAD_MAX = 15 * 1024
_GRANT = c.WINDOW_BYTES // 4


class _Head(msgspec.Struct):
    """What a RESULT says before its body."""

    status: Literal["ok", "error", "timeout"]
    bytes: int
    error_type: str = ""
    log: list[str] = []
    duration_ms: float = 0.0


class Transfer:
    """One request with a body and its answer with one; *send* writes a frame of its stream."""

    def __init__(self, send: Callable[[int, bytes], None]) -> None:
        self.ended = False
        self._send = send
        self._credit = c.WINDOW_BYTES
        self._more_credit = asyncio.Event()
        self._head: _Head | None = None
        self._pieces: list[bytes] = []
        self._missing = 0
        self._consumed = 0
        self._answer: asyncio.Future[tuple[_Head, bytes]] = (
            asyncio.get_running_loop().create_future()
        )

    async def run(self, kind: int, head: dict[str, object], body: bytes) -> tuple[_Head, bytes]:
        """Send a request, return its answer. Raises BlixardError GUEST_UNREACHABLE."""
        said = json.dumps({**head, "bytes": len(body)}).encode() + b"\n"
        first = body[:_FIRST]
        self._credit -= c.cost(first)
        self._send(kind, said + first)
        for at in range(_FIRST, len(body), _PIECE):
            piece = body[at : at + _PIECE]
            while self._credit < c.cost(piece) and not self._answer.done():
                self._more_credit.clear()
                await self._more_credit.wait()
            if self._answer.done():
                break  # the guest does not want the rest
            self._credit -= c.cost(piece)
            self._send(c.STDIN, piece)
        return await self._answer

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame from the guest; never waits."""
        if self._answer.done():
            return
        if kind == c.WINDOW:
            granted = int(payload) if payload.isdigit() and len(payload) < 10 else 0
            self._credit = min(c.WINDOW_BYTES, self._credit + granted)
            self._more_credit.set()
        elif kind == c.ERROR:
            self.ended = True
            self.lost(f"the guest says: {clean(payload)}")
        elif kind == c.RESULT and self._head is None:
            self._begin(payload)
        elif kind == c.STDOUT and self._head is not None:
            self._consumed += c.cost(payload)
            self._collect(payload)

    def _begin(self, payload: bytes) -> None:
        line, _, first = payload.partition(b"\n")
        try:
            self._head = msgspec.json.decode(line, type=_Head)
        except (msgspec.MsgspecError, RecursionError) as error:
            self.lost(f"the guest's answer: {error}")
            return
        self._missing = self._head.bytes
        if not 0 <= self._missing <= c.BODY_BYTES_MAX:
            self.lost("the guest's answer is too large")
        else:
            self._collect(first)

    def _collect(self, piece: bytes) -> None:
        assert self._head is not None
        self._pieces.append(piece)
        self._missing -= len(piece)
        if self._missing < 0:
            self.lost("the guest's answer is longer than it said")
        elif self._missing == 0:
            self._done(self._head, b"".join(self._pieces))
        elif self._consumed >= _GRANT:
            self._send(c.WINDOW, str(self._consumed).encode())
            self._consumed = 0

    def _done(self, head: _Head, body: bytes) -> None:
        self.ended = True
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            self.lost(f"the guest's answer: {error}")
            return
        self._answer.set_result((head, body))
        self._more_credit.set()

    def lost(self, reason: str) -> None:
        """End it with an error."""
        if not self._answer.done():
            self._answer.set_exception(BlixardError("GUEST_UNREACHABLE", reason))
            self._answer.exception()  # whoever waited may be gone
            self._more_credit.set()


async def load_function(
    link: AgentLink, *, source: bytes, handler: str, environment: dict[str, str], timeout_s: float
) -> None:
    """Give the guest a function's code and wait until it is imported.

    Raises:
        BlixardError: FUNCTION_LOAD_FAILED with the guest's words, TOO_LARGE, GUEST_UNREACHABLE.
    """
    head: dict[str, object] = {"handler": handler, "deadline_s": timeout_s}
    variables = json.dumps(environment).encode()
    answer, body = await _transfer(link, c.LOAD, head, variables + b"\n" + source)
    if answer.status != "ok":
        raise BlixardError(
            "FUNCTION_LOAD_FAILED",
            f"{handler}: {_words(answer, body)}",
            details={"errorType": answer.error_type, "log": _lines(answer.log)},
        )


async def invoke(link: AgentLink, call: Invocation) -> InvocationResult:
    """Run the handler once. Raises BlixardError GUEST_UNREACHABLE, TOO_LARGE."""
    head: dict[str, object] = {
        "id": call.request_id, "context": call.context, "deadline_s": call.deadline_s
    }  # fmt: skip
    answer, body = await _transfer(link, c.INVOKE, head, call.event)
    return InvocationResult(
        status=answer.status,
        payload=body,
        error_type=answer.error_type,
        log_tail=_lines(answer.log),
        duration_ms=answer.duration_ms,
    )


async def _transfer(
    link: AgentLink, kind: int, head: dict[str, object], body: bytes
) -> tuple[_Head, bytes]:
    if len(body) > c.BODY_BYTES_MAX or len(json.dumps(head)) > _HEAD_MAX:
        raise BlixardError(
            "TOO_LARGE",
            f"at most {c.BODY_BYTES_MAX} bytes go to a function",
        )
    deadline_s = head["deadline_s"]
    assert isinstance(deadline_s, float | int)
    try:
        async with asyncio.timeout(max(0.0, deadline_s) + GRACE_S):
            if await link.agent_version() < c.VERSION_WITH_FUNCTIONS:
                raise BlixardError(
                    "FUNCTION_LOAD_FAILED",
                    "the agent in the guest is older than functions",
                    hint="build the guest's image again",
                )
            async with link.stream(Transfer) as transfer:
                return await transfer.run(kind, head, body)
    except TimeoutError as error:
        raise BlixardError("GUEST_UNREACHABLE", "the guest did not answer in time") from error


def _words(answer: _Head, body: bytes) -> str:
    """Return what the guest says went wrong, in one line."""
    try:
        document = msgspec.json.decode(body)
        message = document["errorMessage"]
    except (msgspec.MsgspecError, RecursionError, KeyError, TypeError):
        message = answer.status
    return _clean(f"{answer.error_type}: {message}".replace("\n", " "))[:800]


def _lines(log: list[str]) -> list[str]:
    return [_clean(line) for line in log[-LOG_TAIL_LINES:]]


def _clean(text: str) -> str:
    return clean(text.encode(errors="replace"))
