"""``ports.transport.Transport`` of one process over the simulated network."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError, ErrorBody, from_body, to_body
from blixard.ports.transport import MessageHandler, RequestHandler, Stream, StreamHandler
from blixard.simulation.network import Network
from blixard.simulation.process import Process
from blixard.simulation.trace import Trace

STREAM_WINDOW = 64
_OPEN_TIMEOUT_S = 5.0


class SimTransport:
    """The node's end; peers are known by uid, addresses are remembered only."""

    def __init__(
        self,
        uid: str,
        process: Process,
        network: Network,
        *,
        trace: Trace,
        on_crash: Callable[[str, BaseException], None],
    ) -> None:
        self.uid = uid
        self._on_crash = on_crash
        self.process = process
        self._network = network
        self._trace = trace
        self._peers: dict[str, str] = {}
        self._messages: dict[str, MessageHandler] = {}
        self._requests: dict[str, RequestHandler] = {}
        self._streams: dict[str, StreamHandler] = {}
        self.knows_all = False

    # peers and handlers

    def set_peer(self, uid: str, address: str) -> None:
        """Remember a peer."""
        self._peers[uid] = address

    def remove_peer(self, uid: str) -> None:
        """Forget a peer."""
        self._peers.pop(uid, None)

    def on_message(self, channel: str, handler: MessageHandler) -> None:
        """Handle messages of *channel*."""
        self._messages[channel] = handler

    def on_request(self, method: str, handler: RequestHandler) -> None:
        """Handle requests of *method*."""
        self._requests[method] = handler

    def on_stream(self, method: str, handler: StreamHandler) -> None:
        """Handle streams of *method*."""
        self._streams[method] = handler

    # messages

    def send(self, uid: str, channel: str, payload: bytes) -> bool:
        """Send a message that may be lost."""
        if uid not in self._peers or not self.process.alive:
            return False
        self._network.message(self, uid, channel, payload)
        return True

    def deliver(self, source: str, channel: str, payload: bytes) -> None:
        """Take a message in: runs in the receiving process."""
        process = self.process
        self._trace.add(process.loop.now_ns, process.host, "message", source, zlib.crc32(payload))
        handler = self._messages.get(channel)
        if handler is not None:
            handler(source, payload)

    # requests

    async def request(self, uid: str, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Call a method of a peer."""
        if uid not in self._peers and not self.knows_all:
            raise BlixardError(
                "UNREACHABLE", f"no address of node {uid} is known", details={"sent": False}
            )
        target = self._network.target(uid)
        if target is None:
            await asyncio.sleep(min(timeout_s, 0.001))
            raise BlixardError(
                "UNREACHABLE", f"node {uid} refuses connections", details={"sent": False}
            )
        loop = self.process.loop
        answer: asyncio.Future[bytes] = loop.create_future()
        self._network.call(
            self.uid, uid, target.process, target.serve, self, answer, method, payload, timeout_s
        )
        expiry = loop.call_later(timeout_s, _expire, answer)
        try:
            return await answer
        except TimeoutError:
            raise BlixardError("TIMEOUT", f"{method} of {uid}: {timeout_s} s") from None
        finally:
            expiry.cancel()
            del answer  # its error refers to this frame: freed at once, not by the collector

    def serve(
        self,
        caller: SimTransport,
        answer: asyncio.Future[bytes],
        method: str,
        payload: bytes,
        timeout_s: float,
    ) -> None:
        """Start the handler of a request: runs in the receiving process."""
        process = self.process
        self._trace.add(process.loop.now_ns, process.host, method, caller.uid, zlib.crc32(payload))
        work = self._handle(caller, answer, method, payload, timeout_s)
        process.spawn(work, name=method)

    async def _handle(
        self,
        caller: SimTransport,
        answer: asyncio.Future[bytes],
        method: str,
        payload: bytes,
        timeout_s: float,
    ) -> None:
        handler = self._requests.get(method)
        body: ErrorBody | None = None
        result = b""
        loop = self.process.loop
        task = asyncio.current_task(loop)  # without the loop it costs a system call
        assert task is not None
        # asyncio.timeout costs more, and nobody waits for an error of the deadline.
        expiry = loop.call_later(timeout_s, task.cancel)
        try:
            if handler is None:
                raise BlixardError("UNREACHABLE", f"{method} is not served by {self.uid}")
            result = await handler(caller.uid, payload)
        except BlixardError as error:
            body = to_body(error, node=self.uid)
        except TimeoutError:
            return
        except Exception as error:
            self._on_crash(method, error)
            return
        finally:
            expiry.cancel()
        self._network.call(self.uid, caller.uid, caller.process, _take_answer, answer, result, body)

    # streams

    async def open_stream(self, uid: str, method: str, payload: bytes) -> Stream:
        """Open a stream handled by the peer."""
        target = self._network.target(uid)
        if target is None or (uid not in self._peers and not self.knows_all):
            raise BlixardError("UNREACHABLE", f"node {uid} refuses connections")
        near = SimStream(self, uid)
        far = SimStream(target, self.uid)
        near.join(far)
        far.join(near)
        accepted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._network.call(
            self.uid, uid, target.process, target.serve_stream, self, accepted, far, method, payload
        )
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                await accepted
        except TimeoutError:
            raise BlixardError("UNREACHABLE", f"{method} of {uid} did not open") from None
        return near

    def serve_stream(
        self,
        caller: SimTransport,
        accepted: asyncio.Future[bytes],
        stream: SimStream,
        method: str,
        payload: bytes,
    ) -> None:
        """Start the handler of a stream: runs in the receiving process."""
        handler = self._streams.get(method)
        body = None
        if handler is None:
            missing = BlixardError("UNREACHABLE", f"{method} is not served by {self.uid}")
            body = to_body(missing, node=self.uid)
        self._network.call(self.uid, caller.uid, caller.process, _take_answer, accepted, b"", body)
        if handler is not None:
            work = _run_stream(handler, caller.uid, payload, stream)
            self.process.spawn(work, name=method)


async def _run_stream(
    handler: StreamHandler, caller: str, payload: bytes, stream: SimStream
) -> None:
    try:
        await handler(caller, payload, stream)
    except BlixardError as error:
        stream.refuse(to_body(error))
    except ConnectionError:
        return
    finally:
        await stream.close()


def _expire(answer: asyncio.Future[bytes]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _take_answer(answer: asyncio.Future[bytes], result: bytes, body: ErrorBody | None) -> None:
    if answer.done():
        return
    if body is None:
        answer.set_result(result)
    else:
        answer.set_exception(from_body(_over_the_wire(body)))


def _over_the_wire(body: ErrorBody) -> ErrorBody:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=ErrorBody)


class SimStream:
    """One end of a stream; a cut way breaks it for good."""

    def __init__(self, transport: SimTransport, peer: str) -> None:
        self._transport = transport
        self._peer = peer
        self._inbox: deque[bytes | ErrorBody | None] = deque()
        self._arrived = asyncio.Event()
        self._other: SimStream | None = None
        self._ended = False

    def join(self, other: SimStream) -> None:
        """Say which end is the other."""
        self._other = other

    async def send(self, frame: bytes) -> None:
        """Send one frame; waits while the peer's window is full."""
        other = self._other
        assert other is not None
        while not self._ended and len(other._inbox) >= STREAM_WINDOW:
            await asyncio.sleep(0.01)
        self._push(frame)

    def refuse(self, body: ErrorBody) -> None:
        """End with an error that the other side raises."""
        if not self._ended:
            self._push(body)

    async def receive(self) -> bytes | None:
        """Return the next frame, None at the end."""
        while not self._inbox:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        item = self._inbox.popleft()
        if isinstance(item, ErrorBody):
            raise from_body(item)
        if item is None:
            self._ended = True
        return item

    async def close(self) -> None:
        """End both directions."""
        if not self._ended:
            self._ended = True
            self._push(None, closing=True)
        self._arrived.set()

    def _push(self, item: bytes | ErrorBody | None, *, closing: bool = False) -> None:
        if self._ended and not closing:
            raise ConnectionError("the stream is closed")
        other, transport = self._other, self._transport
        assert other is not None
        sent = transport._network.call(
            transport.uid, self._peer, other._transport.process, other._take, item
        )
        if not sent and not closing:
            self._ended = True
            raise ConnectionError(f"the way to {self._peer} is cut")

    def _take(self, item: bytes | ErrorBody | None) -> None:
        self._inbox.append(item)
        self._arrived.set()
