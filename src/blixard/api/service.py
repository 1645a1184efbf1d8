"""The API without a transport: the same for HTTP, for other nodes and for simulated clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from blixard.api import credentials, events, keyvalues, reading
from blixard.api.batches import METHOD as TOGETHER
from blixard.api.callers import require, resolve
from blixard.api.documents import Place, parse_mapping
from blixard.api.forwarding import FORWARD, READING, STREAM, Forwarder
from blixard.api.messages import (
    CheckCertificate,
    Request,
    Response,
    decode_request,
    encode_response,
    json_response,
    problem_response,
)
from blixard.api.openapi import openapi
from blixard.api.routes import DEFAULT_NAMESPACE, HERE, LEADER, Route, Routes
from blixard.api.standing import Call, Standing, SubCall, SubResource
from blixard.api.vigil import Check, Contact, while_allowed
from blixard.api.writing import Writer
from blixard.base.errors import BlixardError, ErrorBody, from_body, to_body
from blixard.base.ids import is_ulid
from blixard.base.units import parse_duration_s
from blixard.cluster.facade import Cluster
from blixard.cluster.kind import KindTable
from blixard.cluster.resources import Resource
from blixard.ports.environment import Environment
from blixard.ports.transport import Stream
from blixard.security.identity import PeerCertificate
from blixard.security.principals import Principal

DEFAULT_DEADLINE_S = 10.0
DEADLINE_MAX_S = 600.0
MARGIN_S = 0.2
_OPENED, _REFUSED = b"\x00", b"\x01"

JoinHandler = Callable[[Request], Awaitable[Any]]
StatusHandler = Callable[[Cluster], Any]
LiveStatus = Callable[[Resource], dict[str, Any]]
RunStream = Callable[[Stream], Awaitable[None]]


def _nothing(_resource: Resource) -> dict[str, Any]:
    return {}


def _cannot_judge(_der: bytes) -> PeerCertificate:
    raise BlixardError("UNAUTHENTICATED", "this node knows no authority to judge certificates by")


class ApiHandlers(msgspec.Struct, kw_only=True):
    """What the node's composition answers: joining, token minting, status, version.

    ``live`` returns what a node knows of an object beside its replicated status.
    ``check_certificate`` judges the certificate of a caller whose request another node passed on.
    """

    join: JoinHandler | None = None
    mint_token: credentials.MintToken | None = None
    status: StatusHandler | None = None
    version: dict[str, Any] = {}
    live: LiveStatus = _nothing
    check_certificate: CheckCertificate = _cannot_judge


class ApiService:
    """Answers requests here or has them answered where that can be done."""

    def __init__(
        self,
        env: Environment,
        kinds: KindTable,
        standing: Standing,
        *,
        sub_resources: tuple[SubResource, ...] = (),
        handlers: ApiHandlers | None = None,
    ) -> None:
        self._env = env
        self._kinds = kinds
        self._standing = standing
        self._handlers = handlers or ApiHandlers()
        self._routes = Routes(kinds, sub_resources)
        self._subs = sub_resources
        self._forwarder = Forwarder(env, standing)
        self._writer = Writer(env)
        self._openapi = b""

    def register(self) -> None:
        """Answer the requests that other nodes forward; before the transport starts."""
        self._env.transport.on_request(FORWARD, self._on_forward)
        self._env.transport.on_request(TOGETHER, self._on_forwards)
        self._env.transport.on_stream(STREAM, self._on_stream)

    # -- whole answers --

    async def handle(self, request: Request) -> Response:
        """Answer a request; errors are problem documents. Never raises BlixardError."""
        try:
            request = self._identified(request)
            return await self.answer(request)
        except BlixardError as error:
            return self.problem(request, error)

    def problem(self, request: Request, error: BlixardError) -> Response:
        """Return an error as the document that the client gets."""
        response = problem_response(
            error, request_id=request.request_id, node=self._standing.own_uid
        )
        response.headers["blixard-request-id"] = request.request_id
        return response

    async def answer(self, request: Request) -> Response:
        """Answer a request that has an id. Raises BlixardError."""
        route = self._routes.find(request)
        allowed = _allowed_s(request, route.sub)
        end = asyncio.get_running_loop().time() + allowed
        # What is asked of others ends a little earlier: its own error says more than TIMEOUT.
        deadline = end - min(MARGIN_S, allowed / 10)
        try:
            async with asyncio.timeout_at(end):
                response = await self._dispatch(request, route, deadline)
        except TimeoutError as error:
            # A write may be on its way.
            code = "TIMEOUT" if request.method in READING else "OUTCOME_UNKNOWN"
            raise BlixardError(code, "the request was not answered in time") from error
        response.headers["blixard-request-id"] = request.request_id
        return response

    def is_stream(self, request: Request) -> bool:
        """Tell whether the path is a two-way stream (see :meth:`open`)."""
        try:
            sub = self._routes.find(request).sub
        except BlixardError:
            # The same error is answered when the request itself is handled.
            return False
        return sub is not None and sub.stream is not None

    def body_max(self, request: Request, usual: int) -> int:
        """Return how many bytes the body of a request may have."""
        try:
            sub = self._routes.find(request).sub
        except BlixardError:
            # The same error is answered when the request itself is handled.
            return usual
        return max(usual, sub.body_max) if sub is not None else usual

    async def _dispatch(self, request: Request, route: Route, deadline: float) -> Response:
        action = route.action
        if action in HERE:
            return await self._here(request, action)

        async def local(_remaining: float) -> Response:
            return await self._change(self._call(request, deadline), route)

        sub = route.sub
        if action in LEADER or (sub is not None and sub.where == "leader"):
            alone = sub is not None  # it may take longer than a write
            return await self._forwarder.on_leader(request, deadline, local, alone=alone)
        if self._standing.replica() is None:
            if action == "watch":
                return await self._watch_elsewhere(request, deadline)
            once = sub is not None and sub.once
            return await self._forwarder.to_voter(request, deadline, once=once)
        if not self._is_recent(route):
            await self._fresh(request, deadline)
        return await self._read(self._call(request, deadline), route)

    async def _here(self, request: Request, action: str) -> Response:
        if action == "version":
            return json_response(self._handlers.version)
        if action == "openapi":
            return self._openapi_response()
        if self._handlers.join is None:
            raise BlixardError("NOT_FOUND", "this node admits nobody")
        return json_response(await self._handlers.join(request))

    def _is_recent(self, route: Route) -> bool:
        """Tell whether what is known here does: the object is, and a leader was heard of."""
        cluster, place, sub = self._standing.replica(), route.place, route.sub
        if cluster is None or place is None or sub is None or not sub.recent:
            return False
        found = cluster.store.get(place.kind.name, place.namespace, place.name)
        return found is not None and self._standing.in_touch()

    async def _fresh(self, request: Request, deadline: float) -> None:
        """Wait until all that was acknowledged before the request is applied here."""
        cluster = self._standing.replica()
        if request.flag("stale") or cluster is None:
            return
        remaining = deadline - asyncio.get_running_loop().time()
        await cluster.barrier(timeout_s=max(0.001, remaining))

    def _call(self, request: Request, deadline: float) -> Call:
        cluster = self._standing.replica()
        if cluster is None:
            raise BlixardError("NOT_LEADER", "this node holds no state")
        principal = self._principal(request, cluster)
        return Call(request=request, principal=principal, cluster=cluster, deadline=deadline)

    def _principal(self, request: Request, cluster: Cluster) -> Principal:
        now_ms = self._env.wall_time_ms()
        return resolve(request.caller, cluster.store, now_ms=now_ms, votes=self._standing.votes)

    def _check(self, call: Call, verb: str, place: Place) -> Check:
        """Return what judges the caller of a stream anew, by the state as it is then.

        A node that hears of no leader cannot know who may still do what.
        """
        contact = Contact(self._standing.in_touch, asyncio.get_running_loop().time)

        def check() -> None:
            contact.check()
            principal = self._principal(call.request, call.cluster)
            require(principal, verb, place.kind.name, place.namespace)
            if principal.home != call.principal.home:
                raise BlixardError("FORBIDDEN", "what the caller may do has changed: ask again")

        return check

    async def _change(self, call: Call, route: Route) -> Response:
        writer, place = self._writer, route.place
        if route.action == "apply":
            namespace = call.request.query.get("namespace", DEFAULT_NAMESPACE)
            return await writer.apply_documents(call, self._kinds, namespace)
        if route.action == "add-node":
            if self._handlers.mint_token is None:
                raise BlixardError("NOT_FOUND", "this node mints no tokens")
            kind = self._kinds.by_name["JoinToken"]
            mint = self._handlers.mint_token
            return await credentials.create_join_token(call, kind, self._env, writer, mint)
        assert place is not None
        match route.action:
            case "put" | "create":
                return await writer.put(call, place, create=route.action == "create")
            case "delete":
                return await writer.delete(call, place)
            case "kv-put":
                return await keyvalues.put(call, place, writer)
            case "kv-delete":
                return await keyvalues.delete(call, place, writer)
            case "create-key":
                return await credentials.create_api_key(call, place.kind, self._env, writer)
            case "delete-key":
                return await writer.delete(call, credentials.find_api_key(call, place))
        return await self._unary(call, route)

    async def _read(self, call: Call, route: Route) -> Response:
        place = route.place
        if route.action == "cluster":
            return self._status(call)
        if route.action == "kv-list":
            return keyvalues.list_entries(call)
        assert place is not None
        match route.action:
            case "get":
                return reading.get_one(call, place, self._handlers.live)
            case "list":
                return reading.get_list(call, place, self._handlers.live)
            case "watch":
                return events.watch(call, place, self._check(call, "watch", place))
            case "kv-get":
                return keyvalues.get(call, place)
        return await self._unary(call, route)

    def _status(self, call: Call) -> Response:
        require(call.principal, "get", "cluster")
        if self._handlers.status is None:
            return json_response({"revision": call.cluster.store.revision})
        return json_response(self._handlers.status(call.cluster))

    async def _unary(self, call: Call, route: Route) -> Response:
        sub_call = self._sub_call(call, route)
        assert route.sub is not None
        if route.sub.unary is None:
            raise BlixardError("METHOD_NOT_ALLOWED", f"{route.sub.name} is a stream")
        answer = await route.sub.unary(sub_call)
        return answer if isinstance(answer, Response) else json_response(answer)

    def _sub_call(self, call: Call, route: Route) -> SubCall:
        place, sub = route.place, route.sub
        assert place is not None
        assert sub is not None
        require(call.principal, sub.verb, place.kind.name, place.namespace)
        return SubCall(
            call=call,
            resource=reading.find(call, place),
            body={} if sub.raw else parse_mapping(call.request.body),
            timeout_s=max(0.001, call.deadline - asyncio.get_running_loop().time()),
            dry_run=call.request.flag("dryRun"),
        )

    # -- streams --

    async def open(self, request: Request) -> RunStream:
        """Authorise a two-way stream and find its object; the result carries it out.

        Raises:
            BlixardError: whatever refuses it, before anything was sent.
        """
        request = self._identified(request)
        route = self._routes.find(request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _allowed_s(request)
        standing = self._standing
        # Only voters may ask other nodes for the streams of their instances.
        if standing.replica() is None or not standing.votes(standing.own_uid):
            at_end = route.sub.at_end if route.sub is not None else b""
            return await self._open_elsewhere(request, deadline, at_end)
        await self._fresh(request, deadline)
        sub, place = route.sub, route.place
        if sub is None or sub.stream is None or place is None:
            raise BlixardError("METHOD_NOT_ALLOWED", "the path is no stream")
        run = sub.stream
        sub_call = self._sub_call(self._call(request, deadline), route)
        check = self._check(sub_call.call, sub.verb, place)

        async def carry_out(stream: Stream) -> None:
            await while_allowed(check, run(sub_call, stream))

        return carry_out

    async def _open_elsewhere(self, request: Request, deadline: float, at_end: bytes) -> RunStream:
        remote = await self._forwarder.open_stream(request, deadline)
        await _check_opened(remote)

        async def carry_out(stream: Stream) -> None:
            await pump(self._env, stream, remote, at_end)

        return carry_out

    async def _watch_elsewhere(self, request: Request, deadline: float) -> Response:
        remote = await self._forwarder.open_stream(request, deadline)
        await _check_opened(remote)
        return Response(
            content_type="text/event-stream",
            headers={"cache-control": "no-store"},
            chunks=_received(remote),
        )

    async def _on_forward(self, peer: str, payload: bytes) -> bytes:
        request = decode_request(payload, peer, self._handlers.check_certificate)
        return encode_response(await self.answer(request))

    async def _on_forwards(self, peer: str, payload: bytes) -> bytes:
        async def answer(data: bytes) -> bytes:
            return await self._on_forward(peer, data)

        return await self._forwarder.batches.answer(payload, answer)

    async def _on_stream(self, peer: str, payload: bytes, stream: Stream) -> None:
        try:
            request = decode_request(payload, peer, self._handlers.check_certificate)
            if self.is_stream(request):
                run = await self.open(request)
            else:
                run = _send_chunks(await self.answer(request))
        except BlixardError as error:
            await stream.send(_REFUSED + msgspec.msgpack.encode(to_body(error)))
            return
        await stream.send(_OPENED)
        await run(stream)

    # -- small things --

    def _identified(self, request: Request) -> Request:
        """Give the request an id: its header's, or a fresh one."""
        headers = request.headers
        given = headers.get("blixard-request-id") or headers.get("idempotency-key", "")
        if not request.request_id:
            request.request_id = given if is_ulid(given) else self._env.new_id()
        if given and given != request.request_id:
            raise BlixardError("REQUEST_ID_INVALID", f"{given[:64]!r} is no ULID")
        return request

    def _openapi_response(self) -> Response:
        if not self._openapi:
            version = str(self._handlers.version.get("version", "0"))
            document = openapi(self._kinds, self._subs, version)
            self._openapi = msgspec.json.encode(document)
        return Response(body=self._openapi)


async def pump(env: Environment, near: Stream, far: Stream, at_end: bytes) -> None:
    """Carry frames both ways until the far side ends; *at_end* tells it that the near one did."""
    sending = env.spawn(_carry(env, near, far, at_end), name="api stream")
    try:
        while (frame := await far.receive()) is not None:
            await near.send(frame)
    finally:
        sending.cancel()
        await far.close()


async def _carry(env: Environment, near: Stream, far: Stream, at_end: bytes) -> None:
    try:
        while (frame := await near.receive()) is not None:
            await far.send(frame)
        if at_end:
            await far.send(at_end)
    except ConnectionError as error:
        # The other direction ends with the same connection and tells the client.
        env.log("debug", "api_stream_cut", detail=str(error))
        await far.close()


async def _check_opened(remote: Stream) -> None:
    try:
        first = await remote.receive()
    except ConnectionError as error:
        raise BlixardError("UNREACHABLE", f"the voter ended the stream: {error}") from error
    if first is None or first[:1] not in {_OPENED, _REFUSED}:
        raise BlixardError("UNREACHABLE", "the voter ended the stream")
    if first[:1] == _REFUSED:
        raise from_body(msgspec.msgpack.decode(first[1:], type=ErrorBody))


async def _received(remote: Stream) -> AsyncIterator[bytes]:
    try:
        while (frame := await remote.receive()) is not None:
            yield frame
    finally:
        await remote.close()


def _send_chunks(response: Response) -> RunStream:
    async def run(stream: Stream) -> None:
        if response.chunks is None:
            await stream.send(response.body)
            return
        async for chunk in response.chunks:
            await stream.send(chunk)

    return run


def _allowed_s(request: Request, sub: SubResource | None = None) -> float:
    """Return the time that the request has. Raises BlixardError BAD_REQUEST."""
    if request.deadline_s > 0:
        return min(request.deadline_s, DEADLINE_MAX_S)
    text = request.headers.get("blixard-timeout", "")
    if not text:
        return (sub.default_s if sub is not None else 0.0) or DEFAULT_DEADLINE_S
    try:
        seconds = parse_duration_s(text)
    except BlixardError as error:
        raise BlixardError("BAD_REQUEST", f"Blixard-Timeout: {error.message}") from error
    if not seconds > 0:
        raise BlixardError("BAD_REQUEST", "Blixard-Timeout must be more than nothing")
    return min(seconds, DEADLINE_MAX_S)
