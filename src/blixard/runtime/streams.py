"""Both ends of a stream between nodes, as ``ports.transport.Stream``."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc import aio

from blixard.base.errors import BlixardError
from blixard.runtime import wire
from blixard.runtime.tasks import is_being_cancelled


class ClientStream:
    """The caller's end."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._ended = False

    async def wait_until_accepted(self) -> None:
        """Return once the peer runs its handler. Raises its BlixardError, or ConnectionError."""
        kind, payload = await self._read_frame()
        if kind == "error":
            raise wire.decode_error(payload)
        if kind != "opening":
            raise ConnectionError("the peer did not accept the stream")

    async def send(self, frame: bytes) -> None:
        """Send one frame; waits while the peer is slow."""
        try:
            await self._call.write(wire.encode_frame("data", frame))
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise ConnectionError("the stream is closed") from error
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise ConnectionError("the stream is closed") from None

    async def receive(self) -> bytes | None:
        """Return the next frame, or None at the end; a handler's BlixardError is raised here."""
        kind, payload = await self._read_frame()
        if kind == "error":
            raise wire.decode_error(payload)
        return payload if kind == "data" else None

    async def close(self) -> None:
        """End both directions."""
        self._ended = True
        self._call.cancel()

    async def _read_frame(self) -> tuple[str, bytes]:
        try:
            data = await self._call.read()
        except aio.AioRpcError as error:
            raise ConnectionError(f"{error.code().name}: {error.details()}") from error
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            if self._ended:
                return "end", b""
            raise ConnectionError("the connection was closed") from None
        if data is aio.EOF:
            return "end", b""
        return wire.decode_frame(data)


class ServerStream:
    """The handler's end."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._closed = False

    async def read_opening(self) -> tuple[str, bytes]:
        """Return method and payload of the first frame. Raises BlixardError BAD_REQUEST."""
        data = await self._context.read()
        kind, payload = ("end", b"") if data is aio.EOF else wire.decode_frame(data)
        if kind != "opening":
            raise BlixardError("BAD_REQUEST", "the stream did not begin with an opening")
        return wire.decode_call(payload)

    async def accept(self) -> None:
        """Tell the caller that the handler runs."""
        await self._context.write(wire.encode_frame("opening", b""))

    async def refuse(self, error: BlixardError) -> None:
        """End the stream with an error."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._context.write(wire.encode_frame("error", wire.encode_error(error)))
        except (aio.BaseError, asyncio.InvalidStateError) as gone:
            raise ConnectionError("the stream is closed") from gone

    async def send(self, frame: bytes) -> None:
        """Send one frame; waits while the peer is slow."""
        if self._closed:
            raise ConnectionError("the stream is closed")
        try:
            await self._context.write(wire.encode_frame("data", frame))
        except (aio.BaseError, asyncio.InvalidStateError) as error:
            raise ConnectionError("the stream is closed") from error

    async def receive(self) -> bytes | None:
        """Return the next frame, or None at the end."""
        data = await self.receive_raw()
        if data is None:
            return None
        kind, payload = wire.decode_frame(data)
        return payload if kind == "data" else None

    async def receive_raw(self) -> bytes | None:
        """Return the next message of the call as it came, or None at the end."""
        if self._closed:
            return None
        try:
            data = await self._context.read()
        except (aio.BaseError, asyncio.InvalidStateError) as error:
            raise ConnectionError("the stream is closed") from error
        return None if data is aio.EOF else bytes(data)

    async def close(self) -> None:
        """End both directions; the call itself ends when the handler returns."""
        self._closed = True
