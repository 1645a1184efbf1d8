"""Memory and state of a guest from one QEMU to another, over a stream between two daemons.

Each QEMU has one end of a pair of sockets, its daemon the other: the process is sandboxed and opens
nothing itself. Frames on the stream begin with their kind, but those of the memory are nothing but
memory, for each copy of it takes time while the guest stands still: from the source, an empty frame
says that the next one is no memory.

    source                          target
    HELLO likeness        ->
                          <-        READY, or REFUSED with the reason (also at any time later)
    memory ...            ->        into QEMU
    MARK                  ->        (the CPUs have stopped; what was sent is in the target's QEMU)
                          <-        MARKED
    (the owner is switched)
    memory ..., END length, checksum  ->
                          <-        DONE, once QEMU says that it has a whole state

A stream that ends early never looks whole: QEMU's own format has an end, and END tells the length.
Until the switch the guest can go on at the source; QEMU stands still *before* it sends the state of
the devices (``pause-before-switchover``), also when the CPUs were stopped long before.

A QEMU that was running when it came to the switch-over would let its CPUs run again if it could not
write the rest, and it must not: once the owner is switched it holds both ends of the pair itself,
so that a daemon that dies leaves it writing to nobody, with its CPUs stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu.likeness import Likeness, differences
from blixard.hypervisors.qemu.qmp import QmpClient
from blixard.ports.hypervisor import MigrationFigures
from blixard.ports.transport import Stream

HELLO, READY, REFUSED, MARK, MARKED, END, DONE = range(1, 8)
MEMORY = 0  # what Arrival calls a frame without a kind
PIECE_BYTES = 512 * 1024
BUFFER_BYTES = 4 << 20
HELLO_S = 60.0  # both ends may have to read a root file system for its digest
STALL_S = 30.0
SWITCH_S = 300.0  # how long the target waits for the source's word on the owner
LIVE_S = 60.0  # a guest that changes its memory faster than it can be sent is stopped then
SETTLE_S = 10.0
ASK_S = 1.0
DOWNTIME_MS = 300
BANDWIDTH_BYTES = 1 << 40  # what the stream takes is the limit
OUTGOING, INCOMING, HELD = "blixard-outgoing", "blixard-incoming", "blixard-held"
# What a migration of QEMU is called that has begun and not ended.
UNDER_WAY = ("setup", "cancelling", "active", "device", "pre-switchover", "wait-unplug")
_FAILED = ("failed", "cancelled", "cancelling")
_SO_SNDBUFFORCE = 32
_T = TypeVar("_T")


class Progress:
    """What a QEMU says of its migration, as its events tell."""

    def __init__(self) -> None:
        self.status = ""
        self._changed = asyncio.Event()

    def note(self, event: dict[str, Any]) -> None:
        """Take an event; others than of a migration are nothing to us."""
        data = event.get("data")
        if event.get("event") == "MIGRATION" and isinstance(data, dict):
            self.status = str(data.get("status", ""))
            self._changed.set()

    async def reaches(self, wanted: str, qmp: QmpClient) -> None:
        """Return once it has come to *wanted*. Raises BlixardError MIGRATION_FAILED."""
        while self.status != wanted:
            if self.status in _FAILED:
                raise failure(f"QEMU says that it is {self.status}")
            if not qmp.connected:
                raise failure("the process has ended")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_S):
                    await self._changed.wait()


class Process(msgspec.Struct, frozen=True):
    """One end's QEMU and what may be done to it.

    ``stop`` stops its CPUs and tells the guard, ``stopped`` tells the guard alone, ``go_on`` lets
    them run, ``words`` returns the last thing that the process said.
    """

    qmp: QmpClient
    progress: Progress
    likeness: Likeness
    stop: Callable[[], Awaitable[None]]
    stopped: Callable[[], Awaitable[None]]
    go_on: Callable[[], Awaitable[None]]
    kill: Callable[[], Awaitable[None]]
    words: Callable[[], str]


def failure(message: str) -> BlixardError:
    """Return the error that moving a guest ends with."""
    return BlixardError("MIGRATION_FAILED", message)


@contextlib.contextmanager
def failing(doing: str) -> Iterator[None]:
    """Turn what connections and QEMU raise into the one error of a migration."""
    try:
        yield
    except TimeoutError as error:
        raise failure(f"{doing}: it took too long") from error
    except OSError as error:
        raise failure(f"{doing}: {error}") from error
    except BlixardError as error:
        if error.code == "MIGRATION_FAILED":
            raise
        raise failure(f"{doing}: {error.message}") from error


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await bounded work that must not be left half done; who is cancelled hears it afterwards.

    A handler of a stream is cancelled more than once when its caller hangs up.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def settle(qmp: QmpClient) -> None:
    """End a migration of this QEMU that somebody left under way; nothing to do is fine."""
    async with asyncio.timeout(SETTLE_S):
        asked = False
        while (await migration_status(qmp)) in UNDER_WAY:
            if not asked:
                await qmp.execute("migrate_cancel")
            asked = True
            await asyncio.sleep(0.005)


async def check_whole(qmp: QmpClient) -> None:
    """Refuse to run a guest whose state is not here yet, or not here any more.

    Raises:
        BlixardError: MIGRATION_FAILED.
    """
    state = (await qmp.execute("query-status"))["status"]
    if state == "inmigrate":
        raise failure("it waits for the state of a guest on another node")
    if state == "postmigrate" and await migration_status(qmp) == "completed":
        raise failure("its state has gone to another node")


async def migration_status(qmp: QmpClient) -> str:
    """Return how QEMU's migration stands; empty if there was none."""
    answer = await qmp.execute("query-migrate")
    return str(answer.get("status", "")) if isinstance(answer, dict) else ""


class Departure:
    """A guest that leaves."""

    def __init__(self, process: Process, stream: Stream, *, live: bool) -> None:
        self._process = process
        self._qmp = process.qmp
        self._stream = stream
        self._live = live
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._stopped_s = 0.0
        self._own, self._theirs = _pair()
        self._sent_bytes = self._checksum = 0
        self._failed: asyncio.Future[BlixardError] = self._loop.create_future()
        self._words: asyncio.Queue[int] = asyncio.Queue(4)
        self._sending = False
        self._pump: asyncio.Task[None] | None = None
        self._ear: asyncio.Task[None] | None = None

    async def run(self, switch: Callable[[], Awaitable[None]]) -> MigrationFigures:
        """Send all of it. Raises as ``ports.hypervisor.Hypervisor.send_state`` does."""
        try:
            await self._to_the_switch()
            # Whatever this raises, QEMU waits with stopped CPUs; letting them run ends its wait.
            await switch()
            with failing("sending the rest"):
                await self._rest()
        except BaseException:
            await to_the_end(self._leave())
            await to_the_end(self._stream.close())
            raise
        await self._leave()
        now_s = self._loop.time()
        return MigrationFigures(
            total_ms=round((now_s - self._began_s) * 1000),
            downtime_ms=round((now_s - self._stopped_s) * 1000),
            bytes_sent=self._sent_bytes,
        )

    async def _to_the_switch(self) -> None:
        begun = False
        try:
            with failing("sending the memory"):
                await self._greet()
                begun = True
                await self._begin()
                await self._until_stopped()
                await self._mark()
        except BaseException:
            if begun:
                await to_the_end(self._go_on())
            raise

    async def _greet(self) -> None:
        """Tell the target what this guest is; its refusal costs the guest nothing."""
        await settle(self._qmp)
        async with asyncio.timeout(HELLO_S):
            hello = msgspec.msgpack.encode(self._process.likeness)
            await self._say(HELLO, hello)
            self._ear = self._loop.create_task(self._listen(), name="migration ear")
            await self._hear(READY)

    async def _begin(self) -> None:
        await self._qmp.give(OUTGOING, self._theirs.fileno())
        self._theirs.close()
        await set_up(self._qmp, "pause-before-switchover")
        if not self._live:
            self._stopped_s = self._loop.time()
            await self._process.stop()
        self._process.progress.status = ""
        self._pump = self._loop.create_task(self._pass_on(), name="migration pump")
        await self._qmp.execute("migrate", uri=f"fd:{OUTGOING}")

    async def _until_stopped(self) -> None:
        """Return once QEMU has stopped the CPUs, the guard knows, and all it sent is on its way."""
        waiting = self._process.progress.reaches("pre-switchover", self._qmp)
        if self._live:
            await self._unless_failed(self._converge(waiting))
            if not self._stopped_s:
                self._stopped_s = self._loop.time()
            await self._process.stopped()
        else:
            await self._unless_failed(waiting)
        async with asyncio.timeout(STALL_S):
            while self._sending or _unread_bytes(self._own):
                await self._unless_failed(asyncio.sleep(0.001))

    async def _converge(self, waiting: Awaitable[None]) -> None:
        """Wait for a running guest; stop one that changes its memory faster than it can be sent."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({task}, timeout=LIVE_S)
            if not task.done():
                self._stopped_s = self._loop.time()
                await self._process.stop()
            await task
        finally:
            task.cancel()

    async def _mark(self) -> None:
        """Make sure that the target has everything but the rest before the owner is switched."""
        await self._say(MARK)
        async with asyncio.timeout(STALL_S):
            await self._hear(MARKED)

    async def _rest(self) -> None:
        assert self._pump is not None
        await self._qmp.give(HELD, self._own.fileno())
        try:
            await self._qmp.execute("migrate-continue", state="pre-switchover")
            async with asyncio.timeout(STALL_S):
                await self._unless_failed(self._process.progress.reaches("completed", self._qmp))
                await self._unless_failed(self._pump)
        except BaseException:
            if self._process.progress.status in _FAILED:
                await self._process.kill()  # it may have let its CPUs run again
            raise
        end = msgspec.msgpack.encode([self._sent_bytes, self._checksum])
        await self._say(END, end)
        async with asyncio.timeout(STALL_S):
            await self._hear(DONE)

    async def _go_on(self) -> None:
        """Let the guest run on here, as if nothing had been."""
        await self._leave()
        with contextlib.suppress(BlixardError, TimeoutError):
            await self._process.go_on()

    async def _leave(self) -> None:
        for task in (self._pump, self._ear):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._own.close()
        self._theirs.close()
        if not self._failed.done():
            self._failed.cancel()

    # -- both directions of the stream --

    async def _pass_on(self) -> None:
        """From QEMU to the stream, until QEMU has written all."""
        with self._telling():
            while data := await self._loop.sock_recv(self._own, PIECE_BYTES):
                self._sending = True
                await self._send(data)
                self._sent_bytes += len(data)
                self._checksum = zlib.crc32(data, self._checksum)
                self._sending = False

    async def _say(self, kind: int, payload: bytes = b"") -> None:
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

    async def _hear(self, wanted: int) -> None:
        said = await self._unless_failed(self._words.get())
        if said != wanted:
            raise failure(f"the target said {said} instead of {wanted}")

    async def _unless_failed(self, waited: Awaitable[_T]) -> _T:
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


class Arrival:
    """A guest that comes."""

    def __init__(self, process: Process, stream: Stream) -> None:
        self._process = process
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._own, self._theirs = _pair()
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


async def set_up(qmp: QmpClient, *capabilities: str) -> None:
    """Set what a migration of this QEMU may do."""
    wanted = [{"capability": name, "state": True} for name in ("events", *capabilities)]
    await qmp.execute("migrate-set-capabilities", capabilities=wanted)
    limits = {"max-bandwidth": BANDWIDTH_BYTES, "downtime-limit": DOWNTIME_MS}
    await qmp.execute("migrate-set-parameters", **limits)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Return ours and QEMU's end, with room for what one side does while the other is busy."""
    pair = socket.socketpair()
    pair[0].setblocking(False)
    for end in pair:
        try:
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER_BYTES)
        except PermissionError:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return pair


def _unread_bytes(end: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, bytes(4)))
    return int(count)
