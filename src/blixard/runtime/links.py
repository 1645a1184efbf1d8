"""Outgoing side of the transport: one link per peer, with its channel, queue and message stream."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any, Literal

import grpc
import msgspec
from grpc import aio

from blixard.base.errors import BlixardError
from blixard.runtime import wire
from blixard.runtime.logs import JsonLog
from blixard.runtime.settings import TransportConfig
from blixard.runtime.streams import ClientStream
from blixard.runtime.tasks import TaskSpawner, is_being_cancelled
from blixard.security.tls import TlsMaterial, grpc_name_override

_NOT_CONNECTED = "failed to connect to all addresses"
_CODES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "TIMEOUT",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "OVERLOADED",
    grpc.StatusCode.PERMISSION_DENIED: "FORBIDDEN",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
}


StreamEnd = Literal["broken", "refused", "renewed"]


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one link; ``messages_dropped``: did not fit, or lost while unconnected."""

    uid: str
    address: str
    connected: bool
    messages_queued: int
    messages_sent: int
    messages_dropped: int
    last_error: str


class Link:
    """The way to one peer at one address."""

    def __init__(
        self,
        uid: str,
        address: str,
        *,
        tls: TlsMaterial,
        config: TransportConfig,
        log: JsonLog,
        generator: random.Random,
        spawner: TaskSpawner,
    ) -> None:
        self.uid = uid
        self.address = address
        self._tls = tls
        self._config = config
        self._log = log
        self._random = generator
        self._spawner = spawner
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._channel: aio.Channel | None = None
        self._stale = False
        self._connected = False
        self._sent = 0
        self._dropped = 0
        self._last_error = ""
        self._task = spawner.spawn(self._run(), name=f"link {uid}")

    def status(self) -> LinkStatus:
        """Return the figures of now."""
        return LinkStatus(
            uid=self.uid,
            address=self.address,
            connected=self._connected,
            messages_queued=len(self._queue),
            messages_sent=self._sent,
            messages_dropped=self._dropped,
            last_error=self._last_error,
        )

    def send(self, channel: str, payload: bytes) -> bool:
        """Queue a message; False if it does not fit."""
        fits = (
            len(payload) <= self._config.message_bytes_max
            and len(self._queue) < self._config.queue_messages_max
            and self._queued_bytes + len(payload) <= self._config.queue_bytes_max
        )
        if not fits:
            self._count_dropped(1, "queue full" if self._queue else "message too large")
            return False
        self._queue.append((channel, payload))
        self._queued_bytes += len(payload)
        self._wake.set()
        return True

    async def request(self, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Call a method of the peer; see ``ports.transport.Transport.request``."""
        if len(payload) > self._config.message_bytes_max:
            raise BlixardError("TOO_LARGE", f"a request of {len(payload)} bytes to {self.uid}")
        call = self._open_channel().unary_unary(f"/{wire.SERVICE}/Call")
        try:
            answer = await call(wire.encode_call(method, payload), timeout=max(timeout_s, 0.001))
        except aio.AioRpcError as error:
            raise self._translated(error, method) from error
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise BlixardError("UNREACHABLE", f"the link to {self.uid} was closed") from None
        return wire.decode_answer(answer)

    async def open_stream(self, method: str, payload: bytes) -> ClientStream:
        """Open a stream; returns once the peer has accepted it."""
        call = self._open_channel().stream_stream(f"/{wire.SERVICE}/Open")()
        stream = ClientStream(call)
        try:
            async with asyncio.timeout(self._config.open_timeout_s):
                await call.write(wire.encode_frame("opening", wire.encode_call(method, payload)))
                await stream.wait_until_accepted()
        except TimeoutError as error:
            call.cancel()
            raise BlixardError(
                "UNREACHABLE", f"{self.uid} did not open {method} in time"
            ) from error
        except (aio.AioRpcError, asyncio.InvalidStateError, ConnectionError) as error:
            call.cancel()
            raise BlixardError("UNREACHABLE", f"{self.uid}: {describe(error)}") from error
        except asyncio.CancelledError:
            call.cancel()
            if is_being_cancelled():
                raise
            raise BlixardError("UNREACHABLE", f"the link to {self.uid} was closed") from None
        return stream

    def renew(self) -> None:
        """Use a new channel from now on (new certificate); the old one ends by itself."""
        self._stale = True
        self._wake.set()

    async def close(self) -> None:
        """End the link; calls on it fail."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _open_channel(self) -> aio.Channel:
        if self._stale and self._channel is not None:
            self._spawner.spawn(self._drain(self._channel), name=f"drain {self.uid}")
            self._channel = None
        self._stale = False
        if self._channel is None:
            options = [*self._config.channel_options(), grpc_name_override(self.uid)]
            credentials = self._tls.grpc_channel_credentials()
            self._channel = aio.secure_channel(self.address, credentials, options=options)
        return self._channel

    async def _drain(self, channel: aio.Channel) -> None:
        await channel.close(self._config.drain_s)

    async def _run(self) -> None:
        """Keep one message stream open while there is something to send."""
        failures = 0
        while True:
            await self._wake.wait()
            if not self._queue:
                self._wake.clear()
                continue
            end = await self._stream_until_its_end()
            if end == "renewed":
                continue
            failures = 0 if end == "broken" else failures + 1
            # What waits is old by now, and messages may be lost: the sender will say it again.
            self._drop_queue()
            await asyncio.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        if failures == 0:
            return 0.0
        ceiling = self._config.backoff_first_s * 2.0 ** min(failures, 16)
        return min(ceiling, self._config.backoff_max_s) * self._random.uniform(0.5, 1.0)

    async def _stream_until_its_end(self) -> StreamEnd:
        """Send until the stream ends or a new channel takes over."""
        channel = self._open_channel()
        call = channel.stream_stream(f"/{wire.SERVICE}/Messages")()
        accepted = False
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                accepted = await call.read() is not aio.EOF
            if accepted:
                self._connected = True
                call.add_done_callback(lambda _call: self._wake.set())
                await self._pump(call, channel)
            if not self._is_current(channel):
                return "renewed"
            self._failed("the peer ended the stream")
        except (aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            self._failed(describe(error))
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            self._failed("the channel was closed")
        finally:
            self._connected = False
            call.cancel()
        return "broken" if accepted else "refused"

    def _is_current(self, channel: aio.Channel) -> bool:
        return channel is self._channel and not self._stale

    async def _pump(self, call: Any, channel: aio.Channel) -> None:
        while not call.done() and self._is_current(channel):
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take_batch()
            await call.write(wire.encode_batch(batch))
            self._sent += len(batch)

    def _take_batch(self) -> list[tuple[str, bytes]]:
        """Return what is queued, up to the size of a batch, but at least one message."""
        queue = self._queue
        batch = [queue.popleft()]
        size = len(batch[0][1])
        while queue and size + len(queue[0][1]) <= self._config.batch_bytes_max:
            batch.append(queue.popleft())
            size += len(batch[-1][1])
        self._queued_bytes -= size
        return batch

    def _drop_queue(self) -> None:
        if self._queue:
            self._count_dropped(len(self._queue), "not connected")
            self._queue.clear()
            self._queued_bytes = 0

    def _count_dropped(self, count: int, why: str) -> None:
        # Powers of two keep a flood of drops from becoming a flood of lines.
        before, self._dropped = self._dropped, self._dropped + count
        if before.bit_length() != self._dropped.bit_length():
            self._log("warning", "messages_dropped", peer=self.uid, total=self._dropped, why=why)

    def _failed(self, why: str) -> None:
        if why != self._last_error:
            self._log("warning", "link_down", peer=self.uid, address=self.address, why=why)
        self._last_error = why

    def _translated(self, error: aio.AioRpcError, method: str) -> BlixardError:
        code = _CODES.get(error.code(), "UNREACHABLE")
        if code == "OVERLOADED" and "larger than max" in (error.details() or ""):
            code = "TOO_LARGE"
        # No connection was made, so nothing was sent; any other failure leaves that open.
        unsent = code == "UNREACHABLE" and (error.details() or "").startswith(_NOT_CONNECTED)
        details: dict[str, object] = {"sent": False} if unsent else {}
        return BlixardError(code, f"{method} on {self.uid}: {describe(error)}", details=details)


def describe(error: BaseException) -> str:
    """Return one line that says what went wrong on a connection."""
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
