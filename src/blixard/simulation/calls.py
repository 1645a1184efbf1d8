"""Functions inside simulated guests: small handlers by name, and who ran which call when.

What a guest does with a call goes on whatever becomes of the daemon that sent it, as everything in
a guest does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import Invocation, InvocationResult, LaunchPlan

_MS = 1000.0


class Handled(msgspec.Struct, frozen=True):
    """What a handler does: it takes so long, then it answers, raises, or takes its guest along."""

    seconds: float
    answer: Any = None
    raises: str = ""
    crashes: bool = False


def _echo(event: Any) -> Handled:
    return Handled(0.0005, {"event": event})


def _sleep(event: Any) -> Handled:
    seconds = event.get("seconds", 0.05) if isinstance(event, dict) else 0.05
    return Handled(float(seconds), {"event": event})


def _fail(_event: Any) -> Handled:
    return Handled(0.0005, raises="ValueError")


def _crash(_event: Any) -> Handled:
    return Handled(0.0005, crashes=True)


# By the last part of the handler's name; no other can be loaded.
HANDLERS: dict[str, Callable[[Any], Handled]] = {
    "handler": _echo, "echo": _echo, "sleep": _sleep, "fail": _fail, "crash": _crash,
}  # fmt: skip


class CallObserver(Protocol):
    """Told what really runs in guests."""

    def call_began(self, host: int, plan: LaunchPlan, call: Invocation) -> None:
        """A handler begins."""

    def call_ended(self, host: int, plan: LaunchPlan, request_id: str, status: str) -> None:
        """It is over ("ok", "error", "timeout"), or its guest is ("gone")."""


class GuestFunction:
    """The function that was loaded into one guest; several calls at once are the daemon's fault."""

    def __init__(self, host: int, plan: LaunchPlan, handler: str, observer: CallObserver) -> None:
        self._host = host
        self._plan = plan
        self.handler = handler
        self._observer = observer
        self._running: dict[str, asyncio.Future[InvocationResult]] = {}

    def begin(self, call: Invocation, done: asyncio.Future[InvocationResult]) -> Handled:
        """Run the handler; returns how long it runs and what comes of it."""
        self._observer.call_began(self._host, self._plan, call)
        self._running[call.request_id] = done
        handled = HANDLERS[self.handler.rpartition(".")[2]](msgspec.json.decode(call.event))
        if handled.seconds > call.deadline_s:
            return Handled(call.deadline_s, raises="timeout")
        return handled

    def end(self, call: Invocation, handled: Handled) -> None:
        """Answer."""
        done = self._running.pop(call.request_id, None)
        if done is None:
            return
        result = _result(handled)
        self._observer.call_ended(self._host, self._plan, call.request_id, result.status)
        if not done.done():
            done.set_result(result)

    def gone(self) -> None:
        """The guest is no more: nobody answers."""
        for request_id in sorted(self._running):
            self._observer.call_ended(self._host, self._plan, request_id, "gone")
            done = self._running[request_id]
            if not done.done():
                done.set_exception(BlixardError("GUEST_UNREACHABLE", "the guest has ended"))
                done.exception()  # whoever waited may be gone too
        self._running.clear()


def _result(handled: Handled) -> InvocationResult:
    duration_ms = handled.seconds * _MS
    if handled.raises == "timeout":
        return InvocationResult(status="timeout", payload=b"null", duration_ms=duration_ms)
    if handled.raises:
        said = {"errorType": handled.raises, "errorMessage": "as asked"}
        return InvocationResult(
            status="error", payload=msgspec.json.encode(said), error_type=handled.raises,
            log_tail=["Traceback: as asked"], duration_ms=duration_ms,
        )  # fmt: skip
    return InvocationResult(
        status="ok", payload=msgspec.json.encode(handled.answer), duration_ms=duration_ms
    )


def check_loadable(handler: str) -> None:
    """Refuse a handler that no simulated guest has. Raises BlixardError FUNCTION_LOAD_FAILED."""
    name = handler.rpartition(".")[2]
    if name not in HANDLERS:
        raise BlixardError("FUNCTION_LOAD_FAILED", f"ImportError: no simulated handler {name!r}")
