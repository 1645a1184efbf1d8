"""Snapshots on disk: written aside, synced, renamed, read back; the newest two are kept.

A file is ``magic, header length, header, payload length, payload, checksum``.
"""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import Member
from blixard.consensus.log import corrupt, read_file, sync_directory, sync_file
from blixard.ports.disk import Disk

MAGIC = b"BxS1"
KEPT = 2
_LENGTHS = struct.Struct("<IQ")
_CHECK = struct.Struct("<I")
_WRITE_BYTES = 4 << 20
_SUFFIX = ".snap"

Conf = tuple[list[int], list[int], list[int], list[int], bool]


class SnapshotMeta(msgspec.Struct, frozen=True):
    """What a snapshot is of: the state after *index*, with the members at that index.

    ``genesis`` marks the first one, which holds no state: the machine starts as it is made.
    """

    cluster_id: str
    index: int
    term: int
    conf: Conf
    members: tuple[Member, ...]
    removed: tuple[int, ...] = ()
    genesis: bool = False


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(SnapshotMeta)


def encode_snapshot(meta: SnapshotMeta, payload: bytes) -> bytes:
    """Return the bytes of a snapshot file."""
    header = _ENCODER.encode(meta)
    lengths = _LENGTHS.pack(len(header), len(payload))
    body = b"".join((MAGIC, lengths, header, payload))
    return body + _CHECK.pack(crc32(body))


def decode_snapshot(data: bytes, path: str) -> tuple[SnapshotMeta, bytes]:
    """Return what the file holds.

    Raises:
        BlixardError: LOG_CORRUPT, naming the file.
    """
    start = len(MAGIC) + _LENGTHS.size
    if len(data) < start + _CHECK.size or data[: len(MAGIC)] != MAGIC:
        raise corrupt(path, 0, "no snapshot stands there")
    header, payload = _LENGTHS.unpack_from(data, len(MAGIC))
    end = start + header + payload
    if end + _CHECK.size != len(data):
        raise corrupt(path, len(MAGIC), f"{len(data)} bytes, {end + _CHECK.size} expected")
    if _CHECK.unpack_from(data, end)[0] != crc32(memoryview(data)[:end]):
        raise corrupt(path, end, "the checksum does not fit")
    try:
        meta = _DECODER.decode(memoryview(data)[start : start + header])
    except msgspec.MsgspecError as error:
        raise corrupt(path, start, f"the header cannot be read: {error}") from error
    return meta, data[start + header : end]


class SnapshotStore:
    """The snapshot directory of one node."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self.directory = directory

    def path(self, index: int, term: int) -> str:
        """Return where the snapshot of an index stands."""
        return f"{self.directory}/{index:016x}-{term:016x}{_SUFFIX}"

    def index_of(self, path: str) -> int:
        """Return the index in a snapshot's name."""
        return int(path.rsplit("/", 1)[1][:16], 16)

    def paths(self) -> list[str]:
        """Return the snapshot files, newest first."""
        names = [n for n in self._disk.listdir(self.directory) if n.endswith(_SUFFIX)]
        return [f"{self.directory}/{name}" for name in sorted(names, reverse=True)]

    def load(self, path: str) -> tuple[SnapshotMeta, bytes]:
        """Return a snapshot, verified. Raises BlixardError LOG_CORRUPT."""
        file = self._disk.open(path)
        try:
            return decode_snapshot(read_file(file), path)
        finally:
            file.close()

    async def save(self, meta: SnapshotMeta, payload: bytes) -> None:
        """Make a snapshot durable and verified; OSError (a full disk) leaves nothing behind."""
        path = self.path(meta.index, meta.term)
        aside = path + ".tmp"
        await self._write(aside, encode_snapshot(meta, payload))
        await self.adopt(aside, meta)

    async def _write(self, path: str, data: bytes) -> None:
        file = self._disk.open(path, create=True)
        try:
            file.truncate(0)
            for offset in range(0, len(data), _WRITE_BYTES):
                file.pwrite(offset, data[offset : offset + _WRITE_BYTES])
                # In steps: one long sync would keep the log's syncs waiting.
                await sync_file(file, path)
        except OSError:
            self._disk.unlink(path)
            raise
        finally:
            file.close()

    async def adopt(self, aside: str, expected: SnapshotMeta | None = None) -> SnapshotMeta:
        """Verify a synced file by reading it back, give it its name, drop the oldest.

        Raises:
            BlixardError: LOG_CORRUPT; the file is removed then.
        """
        try:
            meta, _ = self.load(aside)
            if expected is not None and meta != expected:
                raise corrupt(aside, 0, "another snapshot was read back")
        except BlixardError:
            self._disk.unlink(aside)
            raise
        self._disk.rename(aside, self.path(meta.index, meta.term))
        await sync_directory(self._disk, self.directory)
        await self.prune()
        return meta

    async def prune(self) -> None:
        """Keep the newest two, and no file of an unfinished write."""
        stale = self.paths()[KEPT:]
        for path in stale:
            self._disk.unlink(path)
        if stale:
            await sync_directory(self._disk, self.directory)

    def sweep(self) -> None:
        """Remove what unfinished writes left."""
        for name in self._disk.listdir(self.directory):
            if name.endswith(".tmp"):
                self._disk.unlink(f"{self.directory}/{name}")
