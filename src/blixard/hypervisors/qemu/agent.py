"""The host's end of the guest channel: connects, says hello, asks, joins execs to streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.ports.hypervisor import GuestStatus
from blixard.ports.transport import Stream

HELLO_S = 2.0
ANSWER_S = 2.0
QUEUE_MAX = 256


class AgentLink:
    """One connection to one guest's agent, made again whenever it breaks."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._streams: dict[int, asyncio.Queue[tuple[int, bytes] | None]] = {}
        self._next = 0
        self._connecting = asyncio.Lock()

    async def status(self) -> GuestStatus:
        """Ask how the guest is. Raises BlixardError GUEST_UNREACHABLE."""
        kind, payload = await self._ask(c.STATUS, b"")
        if kind != c.STATUS:
            raise BlixardError("GUEST_UNREACHABLE", "the agent gave no status")
        try:
            return msgspec.json.decode(payload, type=GuestStatus)
        except msgspec.MsgspecError as error:
            raise BlixardError("GUEST_UNREACHABLE", f"the agent's status: {error}") from error

    async def shutdown(self) -> None:
        """Ask the guest to stop; the answer is its end. Raises BlixardError GUEST_UNREACHABLE."""
        await self._connected()
        self._send(c.SHUTDOWN, 0)

    async def exec(self, command: list[str], *, tty: bool, stream: Stream) -> None:
        """Run a command and join it to *stream* until it ends or the client leaves."""
        await self._connected()
        number, queue = self._open()
        request = json.dumps({"command": command, "tty": tty}).encode()
        if len(request) > c.PAYLOAD_BYTES_MAX:
            raise BlixardError("TOO_LARGE", "the command is too long")
        self._send(c.EXEC, number, request)
        feeding = asyncio.get_running_loop().create_task(self._feed(number, stream), name="exec")
        try:
            await self._pass_on(queue, stream)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            self._streams.pop(number, None)
            with contextlib.suppress(BlixardError, OSError):
                self._send(c.CLOSE, number)

    async def _feed(self, number: int, stream: Stream) -> None:
        """Client to guest; the end of the client's input closes the command's."""
        while (received := await stream.receive()) is not None:
            kind, payload = received[0], received[1:]
            if kind == c.CLIENT_STDIN:
                for at in range(0, len(payload), c.PAYLOAD_BYTES_MAX):
                    self._send(c.STDIN, number, payload[at : at + c.PAYLOAD_BYTES_MAX])
                if not payload:
                    self._send(c.STDIN, number)
            elif kind == c.CLIENT_RESIZE:
                self._send(c.RESIZE, number, payload)
        self._send(c.CLOSE, number)

    async def _pass_on(
        self, queue: asyncio.Queue[tuple[int, bytes] | None], stream: Stream
    ) -> None:
        names = {
            c.STDOUT: c.CLIENT_STDOUT,
            c.STDERR: c.CLIENT_STDERR,
            c.EXIT: c.CLIENT_EXIT,
            c.ERROR: c.CLIENT_ERROR,
        }
        while (item := await queue.get()) is not None:
            kind, payload = item
            await stream.send(bytes((names.get(kind, c.CLIENT_ERROR),)) + payload)
            if kind in (c.EXIT, c.ERROR):
                return
        await stream.send(bytes((c.CLIENT_ERROR,)) + b"the connection to the guest was lost")

    async def _ask(self, kind: int, payload: bytes) -> tuple[int, bytes]:
        await self._connected()
        number, queue = self._open()
        try:
            self._send(kind, number, payload)
            async with asyncio.timeout(ANSWER_S):
                item = await queue.get()
        except (TimeoutError, OSError) as error:
            raise BlixardError("GUEST_UNREACHABLE", f"no answer: {error!r}") from error
        finally:
            self._streams.pop(number, None)
        if item is None:
            raise BlixardError("GUEST_UNREACHABLE", "the connection was lost")
        return item

    def _open(self) -> tuple[int, asyncio.Queue[tuple[int, bytes] | None]]:
        self._next = self._next % 0xFFFFFFFE + 1
        queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(QUEUE_MAX)
        self._streams[self._next] = queue
        return self._next, queue

    def _send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        if self._writer is None or self._writer.is_closing():
            raise BlixardError("GUEST_UNREACHABLE", "the channel is closed")
        self._writer.write(c.encode(kind, stream, payload))

    async def _connected(self) -> None:
        async with self._connecting:
            if self._writer is not None and not self._writer.is_closing():
                return
            try:
                async with asyncio.timeout(HELLO_S):
                    reader, self._writer = await asyncio.open_unix_connection(self._path)
                    number, queue = self._open()
                    loop = asyncio.get_running_loop()
                    self._reading = loop.create_task(self._read(reader), name="agent")
                    self._send(c.HELLO, number, b"{}")
                    item = await queue.get()
                    self._streams.pop(number, None)
            except (OSError, TimeoutError) as error:
                self._drop()
                raise BlixardError("GUEST_UNREACHABLE", "the agent does not answer yet") from error
            if item is None or item[0] != c.HELLO:
                self._drop()
                raise BlixardError("GUEST_UNREACHABLE", "the agent did not say hello")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = c.Decoder()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                for kind, number, payload in decoder.feed(data):
                    queue = self._streams.get(number)
                    if queue is not None:
                        await queue.put((kind, payload))
        self._drop()

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for queue in self._streams.values():
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
        self._streams.clear()

    async def close(self) -> None:
        """End the connection; the guest stays."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._drop()
