"""Incoming side of the transport: who calls, may they, and which handler answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import grpc

from blixard.base.errors import BlixardError
from blixard.ports.transport import MESSAGES, MessageHandler, RequestHandler, StreamHandler
from blixard.runtime import wire
from blixard.runtime.logs import JsonLog
from blixard.runtime.streams import ServerStream
from blixard.runtime.tasks import TaskSpawner, describe_crash
from blixard.security import identity
from blixard.security.identity import PeerCertificate

Authorize = Callable[[str, int, str], BlixardError | None]
_CERTIFICATES_MAX = 1024
_STATUS = {"UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED}


class PeerCheck:
    """Decides about each call: certificate of ours, still valid, and allowed by the node's state.

    A connection outlives the check at its handshake, hence all of it again at each call.
    """

    def __init__(
        self, *, trust_domain: str, authorize: Authorize, wall_time_ms: Callable[[], int]
    ) -> None:
        self._trust_domain = trust_domain
        self._authorize = authorize
        self._wall_time_ms = wall_time_ms
        self._parsed: dict[bytes, PeerCertificate] = {}

    def peer_of(self, auth_context: Mapping[str, Any]) -> PeerCertificate:
        """Return the node that calls. Raises BlixardError UNAUTHENTICATED.

        gRPC's server cannot be told to issue no session tickets, and a resumed session skips the
        check of the client's certificate; our clients never resume one.
        """
        if list(auth_context.get("ssl_session_reused", ())) != [b"false"]:
            raise BlixardError("UNAUTHENTICATED", "a resumed TLS session proves no identity")
        certificates = list(auth_context.get("x509_pem_cert", ()))
        known = self._parsed.get(certificates[0]) if len(certificates) == 1 else None
        if known is not None:
            return known
        peer = identity.from_auth_context(auth_context)
        if peer.identity.kind != "node" or peer.identity.trust_domain != self._trust_domain:
            raise BlixardError("UNAUTHENTICATED", "the certificate is of no node of this cluster")
        if len(self._parsed) >= _CERTIFICATES_MAX:
            self._parsed.clear()
        self._parsed[certificates[0]] = peer
        return peer

    def refusal(self, peer: PeerCertificate, method: str) -> BlixardError | None:
        """Return why *peer* may not call *method* now, or None."""
        try:
            identity.check_valid_now(peer, self._wall_time_ms())
        except BlixardError as error:
            return error
        return self._authorize(peer.identity.name, peer.identity.epoch, method)

    def checked_peer(self, auth_context: Mapping[str, Any], method: str) -> PeerCertificate:
        """Return the peer if it may call *method*. Raises BlixardError."""
        peer = self.peer_of(auth_context)
        refusal = self.refusal(peer, method)
        if refusal is not None:
            raise refusal
        return peer


class _OpenCall:
    """A stream that is open: its peer and the future that ends it."""

    def __init__(self, peer: PeerCertificate, method: str) -> None:
        self.peer = peer
        self.method = method
        self.revoked: asyncio.Future[BlixardError] = asyncio.get_running_loop().create_future()


class NodeService:
    """The three methods of ``blixard.v1.Node``."""

    def __init__(self, *, check: PeerCheck, log: JsonLog, spawner: TaskSpawner) -> None:
        self._check = check
        self._log = log
        self._spawner = spawner
        self._open: dict[int, _OpenCall] = {}
        self._opened = 0
        self.message_handlers: dict[str, MessageHandler] = {}
        self.request_handlers: dict[str, RequestHandler] = {}
        self.stream_handlers: dict[str, StreamHandler] = {}

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """Return the handlers in the form that a server takes; bodies stay bytes."""
        handlers = {
            "Messages": grpc.stream_stream_rpc_method_handler(self.messages),
            "Call": grpc.unary_unary_rpc_method_handler(self.call),
            "Open": grpc.stream_stream_rpc_method_handler(self.open),
        }
        return grpc.method_handlers_generic_handler(wire.SERVICE, handlers)

    def recheck(self) -> int:
        """End the open streams of peers that are no longer allowed; return how many."""
        ended = 0
        for call in list(self._open.values()):
            refusal = self._check.refusal(call.peer, call.method)
            if refusal is not None and not call.revoked.done():
                call.revoked.set_result(refusal)
                ended += 1
        return ended

    async def call(self, data: bytes, context: Any) -> bytes:
        """Answer one request."""
        try:
            method, payload = wire.decode_call(data)
            peer = self._check.checked_peer(context.auth_context(), method)
            handler = self.request_handlers.get(method)
            if handler is None:
                raise BlixardError("METHOD_NOT_ALLOWED", f"nodes have no method {method}")
            return wire.encode_answer(await handler(peer.identity.name, payload))
        except BlixardError as error:
            return wire.encode_refusal(error)
        except Exception as error:
            return wire.encode_refusal(self._internal("request_failed", error))

    async def messages(self, _requests: Any, context: Any) -> None:
        """Take the messages of one peer until it or its right to send them ends."""
        try:
            peer = self._check.checked_peer(context.auth_context(), MESSAGES)
        except BlixardError as error:
            await _abort(context, error)
        await context.write(wire.RECEIPT)
        reading = self._spawner.spawn(
            self._read_messages(peer, context), name=f"messages of {peer.identity.name}"
        )
        refusal = await self._until_revoked(peer, MESSAGES, reading)
        if refusal is not None:
            await _abort(context, refusal)

    async def open(self, _requests: Any, context: Any) -> None:
        """Run a stream's handler until it returns or the peer's right to it ends."""
        stream = ServerStream(context)
        try:
            method, payload = await stream.read_opening()
            peer = self._check.checked_peer(context.auth_context(), method)
            handler = self.stream_handlers.get(method)
            if handler is None:
                raise BlixardError("METHOD_NOT_ALLOWED", f"nodes have no stream {method}")
        except BlixardError as error:
            await self._tell(stream, error)
            return
        await stream.accept()
        running = self._spawner.spawn(
            self._run_stream(handler, peer.identity.name, payload, stream), name=f"stream {method}"
        )
        refusal = await self._until_revoked(peer, method, running)
        if refusal is not None:
            await self._tell(stream, refusal)

    async def _until_revoked(
        self, peer: PeerCertificate, method: str, work: asyncio.Task[None]
    ) -> BlixardError | None:
        """Wait for the end of *work*; return the refusal if the peer was revoked before."""
        call = _OpenCall(peer, method)
        self._opened += 1
        number = self._opened
        self._open[number] = call
        try:
            await asyncio.wait((work, call.revoked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._open[number]
            work.cancel()
        if not call.revoked.done():
            return None
        # The work must not write to the call any more when the refusal does.
        await asyncio.gather(work, return_exceptions=True)
        return call.revoked.result()

    async def _read_messages(self, peer: PeerCertificate, context: Any) -> None:
        stream = ServerStream(context)
        uid = peer.identity.name
        while True:
            try:
                data = await stream.receive_raw()
                batch = [] if data is None else wire.decode_batch(data)
            except (ConnectionError, BlixardError) as error:
                self._log("warning", "message_stream_broken", peer=uid, why=str(error))
                return
            if data is None:
                return
            self._dispatch(peer, batch)

    def _dispatch(self, peer: PeerCertificate, batch: list[tuple[str, bytes]]) -> None:
        allowed: dict[str, bool] = {}
        for channel, payload in batch:
            if channel not in allowed:
                allowed[channel] = self._check.refusal(peer, channel) is None
            handler = self.message_handlers.get(channel)
            if handler is not None and allowed[channel]:
                handler(peer.identity.name, payload)
        refused = sorted(channel for channel, good in allowed.items() if not good)
        if refused:
            uid = peer.identity.name
            self._log("warning", "messages_refused", peer=uid, channels=refused)

    async def _run_stream(
        self, handler: StreamHandler, uid: str, payload: bytes, stream: ServerStream
    ) -> None:
        try:
            await handler(uid, payload, stream)
        except ConnectionError as error:
            self._log("info", "stream_closed_by_peer", peer=uid, why=str(error))
        except BlixardError as error:
            await self._tell(stream, error)
        except Exception as error:
            await self._tell(stream, self._internal("stream_failed", error))

    async def _tell(self, stream: ServerStream, error: BlixardError) -> None:
        try:
            await stream.refuse(error)
        except ConnectionError:
            self._log("info", "stream_error_unsent", code=error.code, why=error.message)

    def _internal(self, event: str, error: Exception) -> BlixardError:
        self._log("error", event, trace=describe_crash(error))
        return BlixardError("INTERNAL", f"{type(error).__name__}: {error}")


async def _abort(context: Any, error: BlixardError) -> NoReturn:
    """End the call with a status; its text is for the peer's log."""
    status = _STATUS.get(error.code, grpc.StatusCode.PERMISSION_DENIED)
    await context.abort(status, f"{error.code}: {error.message}")
    raise AssertionError("abort returns never")
