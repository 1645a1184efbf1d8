"""Snapshots between nodes: chunks by request, with back-off, and always a report to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import RaftConfig
from blixard.consensus.log import no_raw_errors, sync_file
from blixard.consensus.room import Room, is_full
from blixard.consensus.snapshots import SnapshotStore
from blixard.consensus.wire import SNAPSHOT_METHOD, Chunk, ChunkAnswer, Hello
from blixard.ports.disk import File
from blixard.ports.environment import Environment

_ENCODER = msgspec.msgpack.Encoder()
_CHUNK = msgspec.msgpack.Decoder(Chunk)
_ANSWER = msgspec.msgpack.Decoder(ChunkAnswer)
_FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S = 0.2, 10.0
_MAX_RESTARTS = 3


class Offer(msgspec.Struct, frozen=True):
    """A snapshot that the engine wants a peer to have."""

    to: int
    uid: str
    index: int
    term: int
    message: bytes


class SnapshotSender:
    """Sends to each peer at most one snapshot at a time."""

    def __init__(
        self,
        env: Environment,
        store: SnapshotStore,
        hello: Hello,
        config: RaftConfig,
        *,
        report: Callable[[int, bool], None],
        renew: Callable[[], None],
    ) -> None:
        self._env = env
        self._store = store
        self._hello = hello
        self._config = config
        self._report = report
        self._renew = renew
        self._failures: dict[int, int] = {}
        self._busy: dict[int, int] = {}

    def offer(self, offer: Offer) -> None:
        """Start sending, unless one is under way to that peer: its report counts then."""
        if offer.to not in self._busy:
            self._busy[offer.to] = offer.index
            self._env.spawn(self._send(offer), name=f"raft-snapshot-{offer.to}")

    async def _send(self, offer: Offer) -> None:
        try:
            await self._send_file(offer)
            self._failures.pop(offer.to, None)
            sent = True
        except (BlixardError, OSError) as error:
            self._env.log("warning", "snapshot_send_failed", to=offer.uid, message=str(error))
            if not self._readable(offer):
                self._renew()
            failures = self._failures[offer.to] = self._failures.get(offer.to, 0) + 1
            wait = _FIRST_BACK_OFF_S * 2 ** min(failures, 8)
            await asyncio.sleep(min(wait, _LONGEST_BACK_OFF_S))
            sent = False
        del self._busy[offer.to]
        self._report(offer.to, sent)

    def _readable(self, offer: Offer) -> bool:
        """Tell whether the file is whole; one that compaction has removed is no concern."""
        path = self._store.path(offer.index, offer.term)
        try:
            self._store.load(path)
        except FileNotFoundError:
            return True
        except (BlixardError, OSError) as error:
            self._env.log("error", "snapshot_unreadable", path=path, message=str(error))
            return False
        return True

    async def _send_file(self, offer: Offer) -> None:
        file = self._env.disk.open(self._store.path(offer.index, offer.term))
        try:
            total, offset, restarts = file.size(), 0, 0
            while offset < total:
                received = await self._send_chunk(offer, file, offset, total)
                if received <= offset:
                    restarts += 1
                    if restarts > _MAX_RESTARTS:
                        raise BlixardError("TIMEOUT", f"{offer.uid} keeps asking for the start")
                offset = received
        finally:
            file.close()

    async def _send_chunk(self, offer: Offer, file: File, offset: int, total: int) -> int:
        data = file.pread(offset, self._config.snapshot_chunk_bytes)
        last = offset + len(data) >= total
        message = offer.message if last else b""
        chunk = Chunk(self._hello, offer.index, offer.term, offset, total, data, message)
        answer = await self._env.transport.request(
            offer.uid,
            SNAPSHOT_METHOD,
            _ENCODER.encode(chunk),
            timeout_s=self._config.snapshot_request_s,
        )
        return _ANSWER.decode(answer).received


class SnapshotReceiver:
    """Collects chunks in a file aside; a whole and verified snapshot gets its name at once.

    It is committed state, so it may stand there before the log knows of it.
    """

    def __init__(
        self,
        env: Environment,
        store: SnapshotStore,
        *,
        room: Room,
        may_speak: Callable[[str, Hello], bool],
        install: Callable[[bytes], None],
    ) -> None:
        self._env = env
        self._store = store
        self._room = room
        self._may_speak = may_speak
        self._install = install
        self._from = ("", 0, 0)
        self._received = 0
        self._finishing = False

    async def handle(self, uid: str, payload: bytes) -> bytes:
        """Take one chunk; the answer says how many bytes are held."""
        try:
            chunk = _CHUNK.decode(payload)
        except msgspec.MsgspecError as error:
            raise BlixardError("BAD_REQUEST", f"snapshot chunk: {error}") from error
        return _ENCODER.encode(ChunkAnswer(await self._take(uid, chunk)))

    async def _take(self, uid: str, chunk: Chunk) -> int:
        if not self._may_speak(uid, chunk.hello):
            raise BlixardError("FORBIDDEN", f"{uid} may not send snapshots here")
        source = (uid, chunk.index, chunk.term)
        if self._finishing:
            raise BlixardError("OVERLOADED", "another snapshot is being installed")
        if chunk.offset == 0:
            self._from, self._received = source, 0
        elif source != self._from or chunk.offset != self._received:
            return self._received if source == self._from else 0
        self._write(chunk)
        if self._received == chunk.total:
            await self._finish(chunk)
        return self._received

    @property
    def _aside(self) -> str:
        return f"{self._store.directory}/incoming.tmp"

    def _write(self, chunk: Chunk) -> None:
        try:
            self._put(chunk)
        except OSError as error:
            self._from, self._received = ("", 0, 0), 0
            self._env.disk.unlink(self._aside)
            if not is_full(error):
                self._env.fatal(f"an incoming snapshot could not be written: {error}")
            self._room.ran_out()
            raise BlixardError("DISK_FULL", "no room for the snapshot") from error
        self._received = chunk.offset + len(chunk.data)

    def _put(self, chunk: Chunk) -> None:
        file = self._env.disk.open(self._aside, create=True)
        try:
            if chunk.offset == 0:
                file.truncate(0)
            file.pwrite(chunk.offset, chunk.data)
        finally:
            file.close()

    async def _finish(self, chunk: Chunk) -> None:
        self._finishing = True
        try:
            file = self._env.disk.open(self._aside)
            try:
                await sync_file(file, self._aside)
            finally:
                file.close()
            with no_raw_errors(f"the snapshot in {self._aside}"):
                meta = await self._store.adopt(self._aside)
            if (meta.index, meta.term, meta.cluster_id) != (
                chunk.index,
                chunk.term,
                chunk.hello.cluster_id,
            ):
                raise BlixardError("BAD_REQUEST", "the snapshot is not the one announced")
            self._install(chunk.message)
        except BlixardError as error:
            if error.code == "DISK_FAILED":
                self._env.fatal(error.message)
            raise
        finally:
            self._finishing = False
            self._from = ("", 0, 0)
