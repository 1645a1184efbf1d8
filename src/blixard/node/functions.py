"""Calls of functions between the API, this node's pool and the pools of other nodes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import msgspec

from blixard.api.messages import Response
from blixard.api.standing import SubCall, SubResource
from blixard.base.errors import BlixardError
from blixard.cluster.resources import Resource
from blixard.functions.acts import WAIT_MAX_S
from blixard.functions.figures import Figures
from blixard.functions.gateway import Book, Choice, Summary
from blixard.functions.loops import FunctionNode
from blixard.functions.spec import TIMEOUT_MAX_S, FunctionDuties
from blixard.functions.worker import CallAnswer, CallRequest, unknown
from blixard.node.messages import FUNCTION_CALL, FUNCTION_SUMMARY, Peer
from blixard.ports.environment import Environment
from blixard.ports.hypervisor import PAYLOAD_MAX_BYTES

SUMMARY_S = 0.5
ROUTE_S = 2.0  # how long a call waits until any node is known to serve its function
ROUTE_LOOK_S = 0.02
BACK_S = 0.05  # of the time left, for the answer's way back
CALL_S = 2 * WAIT_MAX_S + TIMEOUT_MAX_S  # of a call whose client gives no time
_MS = 1000.0


class FunctionGateway:
    """The API's side of calls, and the node's side of calls that other nodes sent here."""

    def __init__(
        self,
        env: Environment,
        own_uid: str,
        pools: FunctionNode,
        peers: Callable[[], tuple[Peer, ...]],
    ) -> None:
        self._env = env
        self._own_uid = own_uid
        self._pools = pools
        self._peers = peers
        self._book = Book(own_uid)
        self._telling = False

    def register(self) -> None:
        """Serve other nodes; before the transport starts."""
        self._env.transport.on_request(FUNCTION_CALL, self._on_call)
        self._env.transport.on_message(FUNCTION_SUMMARY, self._on_summary)

    def sub_resources(self) -> tuple[SubResource, ...]:
        """Return the API's side."""
        return (
            SubResource(
                kind="Function",
                name="invoke",
                verb="invoke",
                unary=self._invoke,
                once=True,
                recent=True,
                voters_only=True,
                raw=True,
                body_max=PAYLOAD_MAX_BYTES,
                default_s=CALL_S,
            ),
        )

    # -- what nodes say of their functions --

    def assign(self, duties: FunctionDuties) -> None:
        """Take the node's functions; from the first on, tell the voters how they are."""
        if not duties.functions and not self._telling:
            return
        self._pools.assign(duties)
        if duties.functions and not self._telling:
            self._telling = True
            self._env.spawn(self._tell(), name="function summaries")

    async def _tell(self) -> None:
        """Tell every voter what is here, until there is nothing."""
        while True:
            figures = self._pools.figures()
            message = msgspec.msgpack.encode(Summary(tuple(figures)))
            for peer in self._peers():
                if peer.voter and peer.uid != self._own_uid:
                    self._env.transport.send(peer.uid, FUNCTION_SUMMARY, message)
            if not figures:
                self._telling = False
                return
            await asyncio.sleep(SUMMARY_S)

    def _on_summary(self, node: str, payload: bytes) -> None:
        summary = msgspec.msgpack.decode(payload, type=Summary)
        self._book.heard(node, summary, _now())

    def status(self, function: Resource) -> dict[str, Any]:
        """Return what is known here of a function: how far its nodes are, and its instances."""
        uid = function.metadata.uid
        own = self._pools.figures_of(uid)
        lines = [known.figures for known in self._book.of(uid, _now()).values()]
        lines = [own, *lines] if own is not None else lines
        return status_of(lines, function.metadata.generation)

    # -- calls --

    async def _invoke(self, call: SubCall) -> Response:
        """Answer ``POST .../functions/NAME/invoke``: the event comes in, the result goes out."""
        event = call.call.request.body or b"{}"
        try:
            msgspec.json.decode(event)
        except msgspec.DecodeError as error:
            raise BlixardError("BAD_REQUEST", f"the event is no JSON: {error}") from error
        began_s, meta = _now(), call.resource.metadata
        request = CallRequest(
            function=meta.uid,
            generation=meta.generation,
            request_id=call.call.request.request_id,
            event=event,
            left_s=call.timeout_s,
            patient=False,
            context={
                "function_name": meta.name,
                "function_version": str(meta.generation),
                "namespace": meta.namespace,
            },
        )
        answer = await self.route(request)
        inside_ms = sum(answer.phases_ms.values())
        place_ms = max(0.0, (_now() - began_s) * _MS - inside_ms)
        logs = call.call.request.query.get("logs") == "true"
        return _response(answer, {"place": place_ms, **answer.phases_ms}, logs=logs)

    async def route(self, request: CallRequest) -> CallAnswer:
        """Run a call on the node that is best for it; at most once.

        Raises:
            BlixardError: FUNCTION_THROTTLED, FUNCTION_NOT_READY: it did not run; OUTCOME_UNKNOWN.
        """
        end_s = _now() + request.left_s
        asked: tuple[str, ...] = ()
        while True:
            choice = await self._choose(request, end_s, asked)
            left_s = end_s - _now()
            if left_s <= 0:
                raise BlixardError("FUNCTION_THROTTLED", "its time is over before it could begin")
            sent = msgspec.structs.replace(request, left_s=left_s, patient=choice.patient)
            try:
                return await self._run_at(choice.node, sent)
            except BlixardError as error:
                # Code that cannot be loaded here cannot be loaded elsewhere either.
                again = error.details.get("refused") and error.code != "FUNCTION_LOAD_FAILED"
                if choice.patient or not again:
                    raise
                asked = (*asked, choice.node)

    async def _choose(self, request: CallRequest, end_s: float, asked: tuple[str, ...]) -> Choice:
        """Return the node to ask; one that has just been told of the function says so soon."""
        until_s = min(end_s, _now() + ROUTE_S)
        while True:
            local = self._pools.figures_of(request.function)
            choice = self._book.choose(request.function, local, now_s=_now(), asked=asked)
            if choice is not None:
                return choice
            if _now() >= until_s:
                message = "no node is known to serve it: is there one with memory for functions?"
                raise BlixardError("FUNCTION_NOT_READY", message)
            await asyncio.sleep(ROUTE_LOOK_S)

    async def _run_at(self, node: str, request: CallRequest) -> CallAnswer:
        if node == self._own_uid:
            return await self._pools.call(request)
        self._book.sent(request.function, node)
        sent = msgspec.structs.replace(request, left_s=max(0.001, request.left_s - BACK_S))
        try:
            data = await self._env.transport.request(
                node, FUNCTION_CALL, msgspec.msgpack.encode(sent), timeout_s=request.left_s
            )
        except BlixardError as error:
            if error.details.get("refused") or error.details.get("sent") is False:
                self._book.refused(request.function, node)
                details = {**error.details, "refused": True}
                raise BlixardError(error.code, error.message, details=details) from error
            if error.code in ("UNREACHABLE", "TIMEOUT"):
                raise unknown(f"node {node}: {error.message}") from error
            raise
        self._book.answered(request.function, node)
        return msgspec.msgpack.decode(data, type=CallAnswer)

    async def _on_call(self, _uid: str, payload: bytes) -> bytes:
        request = msgspec.msgpack.decode(payload, type=CallRequest)
        return msgspec.msgpack.encode(await self._pools.call(request))


def status_of(lines: list[Figures], generation: int) -> dict[str, Any]:
    """Return the status of a function from what its nodes say."""
    ready = [line for line in lines if line.built and line.generation >= generation]
    messages = sorted({line.message for line in lines if line.message})
    phase = "Ready" if ready else ("Failed" if messages else "Pending")
    return {
        "phase": phase,
        "nodes": len(lines),
        "readyNodes": len(ready),
        "idle": sum(line.idle for line in lines),
        "busy": sum(line.busy for line in lines),
        "starting": sum(line.starting for line in lines),
        "waiting": sum(line.waiting for line in lines),
        "calls": sum(line.calls for line in lines),
        "coldStarts": sum(line.cold for line in lines),
        "message": messages[0] if messages else "",
    }


def _response(answer: CallAnswer, phases_ms: dict[str, float], *, logs: bool) -> Response:
    """Return the handler's result, or raise what became of it instead."""
    phases = {name: round(value, 3) for name, value in phases_ms.items()}
    where = {"node": answer.node, "instance": answer.instance, "cold": answer.cold}
    if answer.status != "ok":
        details = {
            **where,
            "errorType": answer.error_type,
            "payload": answer.payload.decode(errors="replace")[:4096],
            "log": answer.log_tail,
            "phasesMs": phases,
        }
        code = "FUNCTION_TIMEOUT" if answer.status == "timeout" else "FUNCTION_FAILED"
        raise BlixardError(code, answer.error_type, details=details)
    headers = {f"blixard-function-{name}": str(value).lower() for name, value in where.items()}
    headers["blixard-function-phases-ms"] = ", ".join(f"{n}={v:g}" for n, v in phases.items())
    if logs:
        lines = msgspec.json.encode(answer.log_tail)
        headers["blixard-function-log"] = base64.b64encode(lines).decode()
    return Response(body=answer.payload, headers=headers)


def _now() -> float:
    return asyncio.get_running_loop().time()
