"""The target's end of a migration: from the stream into a QEMU that waits for a guest."""

from __future__ import annotations

import asyncio
import contextlib
import zlib

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu.likeness import Likeness, differences
from blixard.hypervisors.qemu.migration import (
    ASK_S,
    DONE,
    END,
    HELLO,
    HELLO_S,
    MARK,
    MARKED,
    READY,
    REFUSED,
    STALL_S,
    failing,
    failure,
    to_the_end,
)
from blixard.hypervisors.qemu.migration_monitor import INCOMING, Process, set_up
from blixard.hypervisors.qemu.socket_pair import socket_pair
from blixard.ports.transport import Stream

SWITCH_S = 300.0  # how long the source's word on the owner is waited for
MEMORY = 0  # what a frame without a kind is called here


class Arrival:
    """A guest that comes."""

    def __init__(self, process: Process, stream: Stream) -> None:
        self._process = process
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._own, self._theirs = socket_pair()
        self._got_bytes = self._checksum = 0

    async def run(self) -> None:
        """Take all of it. Raises as ``ports.hypervisor.Hypervisor.receive_state`` does."""
        try:
            with failing("taking a guest"):
                await self._greeted()
                await self._take()
                async with asyncio.timeout(STALL_S):
                    await self._process.progress.reaches("completed", self._process.qmp)
        except BaseException as error:
            await to_the_end(self._end(error))
            raise
        finally:
            self._own.close()
            self._theirs.close()
        # All is here, and here alone it may go on: a source that does not hear it changes nothing.
        with contextlib.suppress(OSError, BlixardError):
            async with asyncio.timeout(ASK_S):
                await self._stream.send(bytes((DONE,)))

    async def _greeted(self) -> None:
        kind, payload = await self._next(HELLO_S)
        if kind != HELLO:
            raise failure("the source did not say hello")
        try:
            source = msgspec.msgpack.decode(payload, type=Likeness)
        except msgspec.MsgspecError as error:
            raise failure(f"the source's hello is none: {error}") from error
        why = differences(source, self._process.likeness)
        if why:
            raise failure("; ".join(why))
        qmp = self._process.qmp
        await set_up(qmp)
        await qmp.give(INCOMING, self._theirs.fileno())
        self._theirs.close()
        await qmp.execute("migrate-incoming", uri=f"fd:{INCOMING}")
        await self._stream.send(bytes((READY,)))

    async def _take(self) -> None:
        """From the stream to QEMU, until the source says that it was all."""
        wait_s = STALL_S
        while True:
            kind, payload = await self._next(wait_s)
            if kind == MEMORY:
                self._got_bytes += len(payload)
                self._checksum = zlib.crc32(payload, self._checksum)
                await self._write(payload)
                wait_s = STALL_S
            elif kind == MARK:
                await self._stream.send(bytes((MARKED,)))
                wait_s = SWITCH_S
            elif kind == END:
                self._check(payload)
                return
            else:
                raise failure(f"the source said {kind}")

    async def _write(self, payload: bytes) -> None:
        try:
            async with asyncio.timeout(STALL_S):
                await self._loop.sock_sendall(self._own, payload)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise failure(f"QEMU did not take the state: {self._process.words()}") from error

    def _check(self, payload: bytes) -> None:
        try:
            told = msgspec.msgpack.decode(payload, type=tuple[int, int])
        except msgspec.MsgspecError as error:
            raise failure(f"the source's end is none: {error}") from error
        if told != (self._got_bytes, self._checksum):
            raise failure(f"what came is not what was sent ({self._got_bytes} of {told[0]} bytes)")

    async def _next(self, wait_s: float) -> tuple[int, bytes]:
        async with asyncio.timeout(wait_s):
            frame = await self._stream.receive()
            if frame:
                return MEMORY, frame
            if frame is not None and (frame := await self._stream.receive()):
                return frame[0], frame[1:]
        raise failure("the source closed the stream before the end")

    async def _end(self, error: BaseException) -> None:
        """Tell the source why, if it still listens; half a guest is of no use."""
        reason = error.message if isinstance(error, BlixardError) else repr(error)
        with contextlib.suppress(OSError, TimeoutError, BlixardError):
            async with asyncio.timeout(ASK_S):
                await self._stream.send(bytes((REFUSED,)) + reason.encode())
        await self._process.kill()
