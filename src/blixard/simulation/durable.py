"""What a host's disk really holds of the log, read from the durable bytes and from nothing else.

Records are read as they become durable, each once. Whatever is not a plain continuation (another
disk, a removed or a rewritten file) makes it read everything again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from zlib import crc32

from blixard.consensus.log import HEADER_BYTES, decode_record
from blixard.simulation.disk_image import DiskImage
from blixard.simulation.inodes import DirectoryNode, FileNode

_RECORD_BYTES = 256 << 20
_NUMBERS = struct.Struct("<QQQ")
_PAIR = struct.Struct("<QQ")
_COUNT = struct.Struct("<I")
_KEPT = 4_096
_READ = 4_096  # an entry stands, byte for byte, on the disks of all hosts
_HAS_STATE, _HAS_SNAPSHOT = 1, 2

Entry = tuple[int, int]  # (term, checksum of the data)


class DurableLog:
    """The consensus state of one host as a restart would find it."""

    def __init__(
        self,
        image: DiskImage,
        *,
        directory: str = "raft",
        on_conflict: Callable[[], None] = lambda: None,
    ) -> None:
        self._image = image
        self._on_conflict = on_conflict  # an entry of another term was written over
        self._directory = directory
        self.forget()

    def forget(self) -> None:
        """Read everything again when next asked."""
        self.term = self.vote = 0
        self.went_back = False
        self.first = 1
        self.entries: list[Entry] = []
        self.snapshot = 0
        self._read: dict[str, tuple[FileNode, int]] = {}
        self._snapshots: dict[str, object] = {}
        self._image_root: object = None

    @property
    def excused(self) -> bool:
        """Whether the disk was damaged on purpose: what it lacks proves nothing."""
        return bool(self._image.hurt)

    @property
    def last(self) -> int:
        """The index of the last entry, or of the snapshot."""
        return max(self.first + len(self.entries) - 1, self.snapshot)

    def holds(self, index: int, entry: Entry) -> bool:
        """Tell whether the entry, or a snapshot that contains it, is durable."""
        if index <= self.snapshot or self.excused:
            return True
        place = index - self.first
        return 0 <= place < len(self.entries) and self.entries[place] == entry

    def refresh(self) -> None:
        """Read what has become durable since the last time."""
        directory = self._image.root.durable.get(self._directory)
        if self._image_root is not self._image.root or not isinstance(directory, DirectoryNode):
            self.forget()
            self._image_root = self._image.root
        if not isinstance(directory, DirectoryNode):
            return
        segments, snapshots = directory.durable.get("log"), directory.durable.get("snap")
        if isinstance(snapshots, DirectoryNode) and snapshots.durable != self._snapshots:
            self._snapshots = dict(snapshots.durable)
            indexes = [int(n[:16], 16) for n in self._snapshots if n.endswith(".snap")]
            self.snapshot = max(indexes, default=0)
        if not isinstance(segments, DirectoryNode):
            return
        files = segments.durable
        if self._changed(files):
            self.forget()
            self.refresh()
            return
        for name in files if len(files) == 1 else sorted(files):
            node = files[name]
            if isinstance(node, FileNode):
                _, offset = self._read.get(name, (node, 0))
                if offset < len(node.durable):
                    whole = self._records(bytes(node.durable[offset:]))
                    self._read[name] = (node, offset + whole)
        if len(self.entries) > 2 * _KEPT and self.first + _KEPT < self.snapshot:
            del self.entries[:_KEPT]
            self.first += _KEPT

    def _changed(self, files: dict[str, object] | dict[str, FileNode | DirectoryNode]) -> bool:
        for name, (node, offset) in self._read.items():
            if name in files and (files[name] is not node or len(node.durable) < offset):
                return True
        if len(self._read) > len(files) + 8:
            self._read = {name: kept for name, kept in self._read.items() if name in files}
        return False

    def _records(self, data: bytes) -> int:
        """Read whole records; return where they end."""
        offset = 0
        while offset < len(data):
            record = decode_record(data, offset, _RECORD_BYTES)
            if record is None:
                break
            payload = record[3]
            offset += HEADER_BYTES + len(payload)
            self._groups(payload)
        return offset

    def _groups(self, payload: bytes) -> None:
        position, size = 0, len(payload)
        while position < size:
            flags = payload[position]
            position += 1
            if flags & _HAS_STATE:
                term, self.vote, _ = _NUMBERS.unpack_from(payload, position)
                self.went_back = self.went_back or term < self.term
                self.term = term
                position += _NUMBERS.size
            if flags & _HAS_SNAPSHOT:
                index, _ = _PAIR.unpack_from(payload, position)
                position += _PAIR.size
                self._restart_at(index + 1)
            (count,) = _COUNT.unpack_from(payload, position)
            position += _COUNT.size
            for _ in range(count):
                (length,) = _COUNT.unpack_from(payload, position)
                start = position + _COUNT.size
                position = start + length
                self._entry(*read_entry(payload[start:position]))

    def _restart_at(self, first: int) -> None:
        self.first, self.entries = first, []

    def _entry(self, index: int, entry: Entry) -> None:
        place, entries = index - self.first, self.entries
        if place != len(entries) or not entries:
            if not entries or place < 0 or place > len(entries):
                self._restart_at(index)
            else:
                if entries[place][0] != entry[0]:
                    self._on_conflict()
                del entries[place:]
        self.entries.append(entry)


@lru_cache(_READ)
def read_entry(message: bytes) -> tuple[int, Entry]:
    """Return (index, (term, checksum of the data)) of an entry in the engine's encoding."""
    term = index = checksum = position = 0
    size = len(message)
    while position < size:
        tag = message[position]
        position += 1
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if tag == 0x10:
            term = value
        elif tag == 0x18:
            index = value
        elif tag & 7 == 2:
            if tag == 0x22:
                checksum = crc32(message[position : position + value])
            position += value
    return index, (term, checksum)
