"""The host's end of the guest channel: connects, says hello, asks, joins execs to streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.hypervisors.qemu.execution import Execution
from blixard.ports.hypervisor import GuestStatus
from blixard.ports.transport import Stream

HELLO_S = 2.0
HELLO_AGAIN_S = 0.2
HELLO_NUMBER = 0
ANSWER_S = 2.0
Send = Callable[[int, bytes], None]


class OnStream(Protocol):
    """One side of something that has a stream of the channel for itself."""

    ended: bool  # in the guest too

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame from the guest; never waits."""

    def lost(self, reason: str) -> None:
        """End it with an error."""


Joined = TypeVar("Joined", bound=OnStream)


class AgentLink:
    """One connection to one guest's agent, made again whenever it breaks."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._streams: dict[int, OnStream] = {}
        self._version = 0
        self._next = 0
        self._connecting = asyncio.Lock()

    async def status(self) -> GuestStatus:
        """Ask how the guest is. Raises BlixardError GUEST_UNREACHABLE."""
        kind, payload = await self._ask(c.STATUS, b"")
        if kind != c.STATUS:
            raise BlixardError("GUEST_UNREACHABLE", "the agent gave no status")
        try:
            return msgspec.json.decode(payload, type=GuestStatus)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BlixardError("GUEST_UNREACHABLE", f"the agent's status: {error}") from error

    async def shutdown(self) -> None:
        """Ask the guest to stop; the answer is its end. Raises BlixardError GUEST_UNREACHABLE."""
        await self._connected()
        self._send(c.SHUTDOWN, 0)

    async def exec(self, command: list[str], *, tty: bool, stream: Stream) -> None:
        """Run a command and join it to *stream* until it ends or the client leaves."""
        request = json.dumps({"command": command, "tty": tty}).encode()
        if len(request) > c.PAYLOAD_BYTES_MAX:
            raise BlixardError("TOO_LARGE", "the command is too long")
        async with self.stream(Execution) as execution:
            execution.send(c.EXEC, request)
            await execution.join(stream)

    async def agent_version(self) -> int:
        """Return the version that the agent said. Raises BlixardError GUEST_UNREACHABLE."""
        await self._connected()
        return self._version

    @contextlib.asynccontextmanager
    async def stream(self, make: Callable[[Send], Joined]) -> AsyncIterator[Joined]:
        """Give what *make* returns a stream of its own; it is closed if it has not ended there.

        Raises:
            BlixardError: GUEST_UNREACHABLE.
        """
        await self._connected()
        number = self._number()
        made = make(lambda kind, payload: self._send(kind, number, payload))
        self._streams[number] = made
        try:
            yield made
        finally:
            self._streams.pop(number, None)
            if not made.ended:
                with contextlib.suppress(BlixardError):
                    self._send(c.CLOSE, number)

    async def close(self) -> None:
        """End the connection; the guest stays."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._drop()

    async def _ask(self, kind: int, payload: bytes) -> tuple[int, bytes]:
        await self._connected()
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._asked(kind, payload)
        except (TimeoutError, OSError) as error:
            raise BlixardError("GUEST_UNREACHABLE", f"no answer: {error!r}") from error

    async def _asked(self, kind: int, payload: bytes) -> tuple[int, bytes]:
        number = self._number()
        self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(kind, number, payload)
            return await self._answers[number]
        finally:
            self._answers.pop(number, None)

    def _number(self) -> int:
        self._next = self._next % 0xFFFFFFFE + 1
        return self._next

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
                    kind, payload = await self._open()
            except (OSError, TimeoutError) as error:
                self._drop()
                raise BlixardError("GUEST_UNREACHABLE", "the agent does not answer yet") from error
            if kind != c.HELLO:
                self._drop()
                raise BlixardError("GUEST_UNREACHABLE", "the agent did not say hello")
            self._version = _version(payload)

    async def _open(self) -> tuple[int, bytes]:
        """Connect and say hello."""
        reader, self._writer = await asyncio.open_unix_connection(self._path)
        reading = self._read(reader, self._writer)
        self._reading = asyncio.get_running_loop().create_task(reading, name="agent")
        return await self._greeted()

    async def _greeted(self) -> tuple[int, bytes]:
        """Say hello until it is answered; answers to further hellos find nobody that waits.

        An agent that learns late that one host left and the next came throws its answer away with
        all that was for the one before.
        """
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[HELLO_NUMBER] = answer
        try:
            while not answer.done():
                # The guest may have no clock of its own, so each hello tells the time.
                hello = {"version": c.VERSION, "time": time.time()}
                self._send(c.HELLO, HELLO_NUMBER, json.dumps(hello).encode())
                await asyncio.wait([answer], timeout=HELLO_AGAIN_S)
            return answer.result()
        finally:
            self._answers.pop(HELLO_NUMBER, None)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = c.Decoder()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                for kind, number, payload in decoder.feed(data):
                    self._take(kind, number, payload)
        if self._writer is writer:
            self._drop()

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        answer = self._answers.get(number)
        on_stream = self._streams.get(number)
        if answer is not None and not answer.done():
            answer.set_result((kind, payload))
        elif on_stream is not None:
            on_stream.take(kind, payload)

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the channel was closed"))
        for on_stream in self._streams.values():
            on_stream.lost("the connection to the guest was lost")


def _version(hello: bytes) -> int:
    """Return the version of the channel that an agent's hello says; 0 if it says none."""
    try:
        version = json.loads(hello)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0
