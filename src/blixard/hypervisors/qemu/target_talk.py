"""Both directions of the stream from the source of a migration: memory out, words to and fro."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu.migration import DONE, REFUSED, STALL_S, failing, failure
from blixard.ports.transport import Stream

PIECE_BYTES = 512 * 1024
_T = TypeVar("_T")


class TargetTalk:
    """The stream to the target, and the daemon's end *own* of the sockets that QEMU writes to.

    ``passing``: a piece of memory was read and is not sent yet.
    """

    def __init__(self, stream: Stream, own: socket.socket) -> None:
        self._stream = stream
        self._own = own
        self._loop = asyncio.get_running_loop()
        self.sent_bytes = self.checksum = 0
        self.passing = False
        self._failed: asyncio.Future[BlixardError] = self._loop.create_future()
        self._words: asyncio.Queue[int] = asyncio.Queue(4)
        self._out: asyncio.Task[None] | None = None
        self._ear: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Begin to take what the target says."""
        self._ear = self._loop.create_task(self._listen(), name="migration ear")

    def pass_on(self) -> None:
        """Begin to send what QEMU writes."""
        self._out = self._loop.create_task(self._pump(), name="migration pump")

    async def all_passed(self) -> None:
        """Return once QEMU has written all, and it is sent. Raises BlixardError."""
        assert self._out is not None
        await self.unless_failed(self._out)

    async def end(self) -> None:
        """Send and take nothing more; the stream stays open."""
        for task in (self._out, self._ear):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if not self._failed.done():
            self._failed.cancel()

    async def _pump(self) -> None:
        """From QEMU to the stream, until QEMU has written all."""
        with self._telling():
            while data := await self._loop.sock_recv(self._own, PIECE_BYTES):
                self.passing = True
                await self._send(data)
                self.sent_bytes += len(data)
                self.checksum = zlib.crc32(data, self.checksum)
                self.passing = False

    async def say(self, kind: int, payload: bytes = b"") -> None:
        """Say something that is no memory; the pump has nothing to send just now."""
        await self._send(b"")
        await self._send(bytes((kind,)) + payload)

    async def _send(self, frame: bytes) -> None:
        async with asyncio.timeout(STALL_S):
            await self._stream.send(frame)

    async def _listen(self) -> None:
        with self._telling():
            while (frame := await self._stream.receive()) is not None:
                if frame[:1] == bytes((REFUSED,)):
                    raise failure(frame[1:].decode(errors="replace")[:2000])
                if self._words.full():
                    raise failure("the target says more than it was asked")
                self._words.put_nowait(frame[0] if frame else 0)
                if frame == bytes((DONE,)):
                    return
            raise failure("the target closed the stream")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Make an error of a task in the background one of the whole."""
        try:
            with failing("the stream to the target"):
                yield
        except BlixardError as error:
            if not self._failed.done():
                self._failed.set_result(error)

    async def hear(self, wanted: int) -> None:
        """Wait for the target's next word. Raises BlixardError, if it is another one."""
        said = await self.unless_failed(self._words.get())
        if said != wanted:
            raise failure(f"the target said {said} instead of {wanted}")

    async def unless_failed(self, waited: Awaitable[_T]) -> _T:
        """Await; an error in the background ends it."""
        task: asyncio.Future[_T] = asyncio.ensure_future(waited)
        both: set[asyncio.Future[Any]] = {task, self._failed}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._failed.result()
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
