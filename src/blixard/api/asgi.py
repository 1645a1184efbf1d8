"""The service as an ASGI application, without a framework: the path of a write is short."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from blixard.api.framing import FrameError, FrameReader, encode_frame
from blixard.api.messages import FRAMES, Caller, Request, Response
from blixard.api.service import ApiService, RunStream
from blixard.api.vigil import Presence, while_present
from blixard.base.errors import BlixardError, to_body

BODY_MAX = 1 << 20
DRAIN_MAX = 16 << 20
BODY_S = 30.0
STALL_S = 30.0
QUERY_FIELDS_MAX = 64

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Log = Callable[..., None]


class ApiApp:
    """Translates between ASGI messages and the service's values."""

    def __init__(self, service: ApiService, log: Log) -> None:
        self._service = service
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = read_head(scope)
        try:
            if self._service.is_stream(request):
                await self._stream(request, receive, _checked(send, scope), _presence(scope))
                return
            most = self._service.body_max(request, BODY_MAX)
            request.body = await _read_body(request, receive, most)
            response = await self._service.handle(request)
        except BlixardError as error:
            response = self._service.problem(request, error)
        except Exception as error:
            self._log(
                "error",
                "request_failed",
                path=request.path,
                request=request.request_id,
                detail=f"{type(error).__name__}: {error}",
            )
            unexpected = BlixardError("INTERNAL", "an error nobody expected; the log has it")
            response = self._service.problem(request, unexpected)
        try:
            if response.chunks is not None:
                chunks = _send_chunks(response, _checked(send, scope))
                await while_present(_presence(scope), chunks)
            else:
                await _send_whole(response, request, send)
        except (ConnectionError, TimeoutError) as error:
            self._log("debug", "client_left", path=request.path, detail=str(error))

    async def _stream(
        self, request: Request, receive: Receive, send: Send, presence: Presence
    ) -> None:
        run = await self._service.open(request)
        await _start(send, 200, FRAMES, {"blixard-request-id": request.request_id})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        stream = BodyStream(receive, send)
        try:
            await while_present(presence, _carry_out(run, stream))
        except (ConnectionError, TimeoutError) as error:
            self._log("info", "stream_cut", path=request.path, detail=str(error))
            return
        await stream.close()


def _never() -> bool:
    return False


def _presence(scope: Scope) -> Presence:
    presence = scope["state"].get("presence")
    return presence if isinstance(presence, Presence) else Presence()


def _checked(send: Send, scope: Scope) -> Send:
    """Return *send* that fails once the client left: the server library would go on silently."""
    gone = scope["state"].get("gone", _never)

    async def checked(message: dict[str, Any]) -> None:
        if gone():
            raise ConnectionError("the client left")
        await send(message)

    return checked


async def _carry_out(run: RunStream, stream: BodyStream) -> None:
    try:
        await run(stream)
    except BlixardError as error:
        await stream.send_error(error)


class BodyStream:
    """Frames over the request's body (in) and the answer's body (out)."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._reader = FrameReader()
        self._ready: deque[bytes] = deque()
        self._ended = False
        self._closed = False

    async def receive(self) -> bytes | None:
        """Return the client's next frame, None once it said that there are no more."""
        while not self._ready:
            if self._ended:
                return None
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client left")
            self._ended = not message.get("more_body", False)
            try:
                frames = self._reader.feed(message.get("body", b""))
            except FrameError as error:
                raise ConnectionError(str(error)) from error
            self._ready.extend(data for _, data in frames)
        return self._ready.popleft()

    async def send(self, frame: bytes) -> None:
        """Send a frame; a client that reads nothing for long is cut."""
        await self._write(encode_frame(frame))

    async def send_error(self, error: BlixardError) -> None:
        """Send the error that ends the stream."""
        await self._write(encode_frame(msgspec.json.encode(to_body(error)), error=True))

    async def close(self) -> None:
        """End the answer."""
        if not self._closed:
            self._closed = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, data: bytes) -> None:
        if self._closed:
            raise ConnectionError("the stream is closed")
        async with asyncio.timeout(STALL_S):
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


def read_head(scope: Scope) -> Request:
    """Return the request without its body."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    raw = scope["query_string"]
    query: dict[str, str] = {}
    if raw:
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
        query = dict(pairs[:QUERY_FIELDS_MAX])
    caller: Caller = scope["state"].get("caller") or Caller()
    authorization = headers.get("authorization", "")
    if authorization[:7].lower() == "bearer ":
        caller = msgspec.structs.replace(caller, api_key=authorization[7:].strip())
    return Request(
        method=scope["method"], path=scope["path"], query=query, headers=headers, caller=caller
    )


async def _read_body(request: Request, receive: Receive, most: int) -> bytes:
    """Return the body. One that is too large is read on for a while, so that the client can
    read the refusal.
    """
    length = request.headers.get("content-length", "")
    if length in {"", "0"} and "transfer-encoding" not in request.headers:
        return b""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BlixardError("BAD_REQUEST", "the client left before its body ended")
                piece = message.get("body", b"")
                size += len(piece)
                if size <= most:
                    parts.append(piece)
                if size > DRAIN_MAX or not message.get("more_body", False):
                    break
    except TimeoutError as error:
        raise BlixardError("TIMEOUT", f"the body took longer than {BODY_S:.0f} s") from error
    if size > most:
        raise _too_large(most)
    return b"".join(parts)


def _too_large(most: int) -> BlixardError:
    return BlixardError("TOO_LARGE", f"the body is larger than {most} bytes")


async def _send_whole(response: Response, request: Request, send: Send) -> None:
    headers = {**response.headers, "content-length": str(len(response.body))}
    if response.status in {408, 413}:
        headers["connection"] = "close"
    await _start(send, response.status, response.content_type, headers)
    body = b"" if request.method == "HEAD" else response.body
    await send({"type": "http.response.body", "body": body})


async def _send_chunks(response: Response, send: Send) -> None:
    """Send until the source ends, the client leaves or reads nothing for long."""
    assert response.chunks is not None
    source = response.chunks
    started = False
    try:
        async for chunk in source:
            if not started:
                await _start(send, response.status, response.content_type, response.headers)
                started = True
            async with asyncio.timeout(STALL_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _start(send: Send, status: int, content_type: str, headers: dict[str, str]) -> None:
    pairs = [(b"content-type", content_type.encode("latin-1"))]
    pairs += [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
