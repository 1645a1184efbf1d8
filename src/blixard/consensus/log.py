"""The log on disk: segments of checksummed records, one record and one sync for each batch.

A record is ``magic, previous checksum, length, kind, index, checksum`` and its payload. As every
record is synced before the next one is written, a damaged record with a valid one after it was
damaged later: that is corruption. A damaged record with nothing valid after it is a write that a
crash cut short.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.disk import Disk, File

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
MAGIC = b"BxR1"
HEAD, GROUP = 1, 2
_HEADER = struct.Struct("<4sIIBQ")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size
_READ_BYTES = 1 << 20


class Record(msgspec.Struct, frozen=True):
    """One record as read back: where it stands and what it holds."""

    path: str
    offset: int
    kind: int
    index: int
    payload: bytes
    checksum: int

    @property
    def end(self) -> int:
        """The offset after the record."""
        return self.offset + HEADER_BYTES + len(self.payload)


class Segment(msgspec.Struct):
    """One file of the log; ``last_index`` is the highest entry index in it."""

    number: int
    path: str
    size: int
    last_index: int


class Recovered(msgspec.Struct, frozen=True):
    """What the log held: the records, and how many bytes of a torn tail were cut off."""

    records: list[Record]
    cut_bytes: int


def encode_record(previous: int, kind: int, index: int, payload: bytes) -> tuple[bytes, int]:
    """Return the bytes of a record and its checksum, which the next record names."""
    head = _HEADER.pack(MAGIC, previous, len(payload), kind, index)
    checksum = crc32(payload, crc32(head))
    return b"".join((head, _CHECK.pack(checksum), payload)), checksum


def decode_record(data: bytes, offset: int, limit: int) -> tuple[int, int, int, bytes, int] | None:
    """Return (previous, kind, index, payload, checksum), or None without a whole record."""
    start = offset + HEADER_BYTES
    if start > len(data):
        return None
    magic, previous, length, kind, index = _HEADER.unpack_from(data, offset)
    if magic != MAGIC or kind not in (HEAD, GROUP) or length > limit or start + length > len(data):
        return None
    (checksum,) = _CHECK.unpack_from(data, offset + _HEADER.size)
    payload = data[start : start + length]
    if crc32(payload, crc32(data[offset : offset + _HEADER.size])) != checksum:
        return None
    return previous, kind, index, payload, checksum


def has_record_after(data: bytes, offset: int, limit: int) -> bool:
    """Tell whether any whole record starts after *offset*."""
    place = data.find(MAGIC, offset + 1)
    while place >= 0:
        if decode_record(data, place, limit) is not None:
            return True
        place = data.find(MAGIC, place + 1)
    return False


def corrupt(path: str, offset: int, what: str) -> BlixardError:
    """Return the error that names the file and the place."""
    return BlixardError(
        "LOG_CORRUPT",
        f"{path} at byte {offset}: {what}",
        details={"file": path, "offset": offset},
    )


@contextmanager
def no_raw_errors(what: str) -> Iterator[None]:
    """Give whatever the disk refuses a code and the name of what was under way.

    Raises:
        BlixardError: DISK_FULL, DISK_FAILED.
    """
    try:
        yield
    except OSError as error:
        code = "DISK_FULL" if error.errno in NO_ROOM else "DISK_FAILED"
        raise BlixardError(code, f"{what}: {error}") from error


async def sync_file(file: File, path: str) -> None:
    """Return once the file is durable; after a failure the system may have dropped the data."""
    try:
        await file.sync()
    except OSError as error:
        raise BlixardError("DISK_FAILED", f"sync of {path}: {error}") from error


async def sync_directory(disk: Disk, path: str) -> None:
    """Return once the names are durable; a failure is final."""
    try:
        await disk.sync_dir(path)
    except OSError as error:
        raise BlixardError("DISK_FAILED", f"sync of directory {path}: {error}") from error


def read_file(file: File) -> bytes:
    """Return the whole content, in bounded reads."""
    size, parts, offset = file.size(), [], 0
    while offset < size:
        part = file.pread(offset, min(_READ_BYTES, size - offset))
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


class Log:
    """The segments of one node."""

    def __init__(
        self, disk: Disk, directory: str, *, segment_bytes: int, record_bytes: int
    ) -> None:
        self._disk = disk
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._record_bytes = record_bytes
        self.segments: list[Segment] = []
        self.size = 0  # the bytes of all segments
        self._file: File | None = None
        self._chain = 0

    async def open(self) -> Recovered:
        """Read all segments, cut a torn tail off, and get ready to append.

        Raises:
            BlixardError: LOG_CORRUPT, naming file and offset; DISK_FAILED.
        """
        # A process killed after it made a segment may have left a name that is not durable.
        await sync_directory(self._disk, self.directory)
        numbers = self._numbers()
        records: list[Record] = []
        cut = 0
        for place, number in enumerate(numbers):
            last = place == len(numbers) - 1
            if place and number != numbers[place - 1] + 1:
                raise corrupt(self._path(number - 1), 0, "the segment is missing")
            cut += await self._open_segment(number, last=last, first=place == 0, records=records)
        return Recovered(records, cut)

    def _numbers(self) -> list[int]:
        names = self._disk.listdir(self.directory)
        return sorted(int(n[:-4]) for n in names if n.endswith(".log") and n[:-4].isdigit())

    def _path(self, number: int) -> str:
        return f"{self.directory}/{number:012d}.log"

    async def _open_segment(
        self, number: int, *, last: bool, first: bool, records: list[Record]
    ) -> int:
        path = self._path(number)
        file = self._disk.open(path)
        data = read_file(file)
        found = self._scan(path, data, first=first)
        end = found[-1].end if found else 0
        if end < len(data) or not found:
            self._judge_tail(path, data, end, last=last, alone=first)
        if not found:
            file.close()
            self._disk.unlink(path)
            await sync_directory(self._disk, self.directory)
            return len(data)
        if end < len(data):
            file.truncate(end)
        if last:
            # A killed process leaves a record that only the system's cache holds. If its sync
            # failed, the cache calls it clean: it is written anew, or a sync would do nothing.
            file.pwrite(found[-1].offset, data[found[-1].offset : end])
            await sync_file(file, path)
        records += found
        highest = max(record.index for record in found)
        self.segments.append(Segment(number, path, end, highest))
        self.size += end
        self._use(file, found[-1].checksum)
        return len(data) - end

    def _scan(self, path: str, data: bytes, *, first: bool) -> list[Record]:
        """Return the records up to the first damaged place, each chained to the one before."""
        found: list[Record] = []
        offset = 0
        while offset < len(data):
            record = decode_record(data, offset, self._record_bytes)
            if record is None:
                break
            previous, kind, index, payload, checksum = record
            if (kind == HEAD) != (offset == 0):
                raise corrupt(path, offset, "a record of the wrong kind")
            if previous != self._chain and not (first and offset == 0):
                raise corrupt(path, offset, "the record does not follow the one before it")
            found.append(Record(path, offset, kind, index, payload, checksum))
            self._chain = checksum
            offset = found[-1].end
        return found

    def _judge_tail(self, path: str, data: bytes, end: int, *, last: bool, alone: bool) -> None:
        if not last:
            raise corrupt(path, end, "the record is damaged, and later segments exist")
        if has_record_after(data, end, self._record_bytes):
            raise corrupt(path, end, "the record is damaged, and valid records follow")
        if end == 0 and alone:
            raise corrupt(path, 0, "the only segment has no valid head")

    def _use(self, file: File, chain: int) -> None:
        if self._file is not None:
            self._file.close()
        self._file = file
        self._chain = chain

    async def start_segment(self, state: bytes) -> None:
        """Begin a new file whose head repeats the hard state, so that older files may go.

        The head is durable, and so is the file's name, before this returns.
        """
        number = self.segments[-1].number + 1 if self.segments else 1
        path = self._path(number)
        record, checksum = encode_record(self._chain, HEAD, 0, state)
        file = self._disk.open(path, create=True)
        try:
            file.truncate(0)
            file.pwrite(0, record)
        except OSError:
            file.close()
            self._disk.unlink(path)
            raise
        await sync_file(file, path)
        await sync_directory(self._disk, self.directory)
        self.segments.append(Segment(number, path, len(record), 0))
        self.size += len(record)
        self._use(file, checksum)

    @property
    def full(self) -> bool:
        """Whether the next group belongs in a new segment."""
        return self.segments[-1].size >= self._segment_bytes

    def write(self, payload: bytes, last_index: int) -> None:
        """Write one group at the end, buffered; on OSError nothing of it stays.

        The caller syncs before it writes the next one: the judgement of damage rests on that.
        """
        assert self._file is not None
        assert len(payload) <= self._record_bytes, "a group beyond what recovery accepts"
        segment = self.segments[-1]
        record, checksum = encode_record(self._chain, GROUP, last_index, payload)
        try:
            self._file.pwrite(segment.size, record)
        except OSError:
            self._file.truncate(segment.size)
            raise
        segment.size += len(record)
        self.size += len(record)
        segment.last_index = max(segment.last_index, last_index)
        self._chain = checksum

    async def sync(self) -> None:
        """Return once what was written is durable. An OSError is final."""
        assert self._file is not None
        await sync_file(self._file, self.segments[-1].path)

    async def remove_before(self, index: int) -> int:
        """Remove the oldest segments that hold nothing after *index*; returns how many.

        The names go one by one, oldest first, each made durable: a crash leaves no gap.
        """
        removed = 0
        while len(self.segments) > 1 and self.segments[0].last_index <= index:
            segment = self.segments.pop(0)
            self.size -= segment.size
            self._disk.unlink(segment.path)
            await sync_directory(self._disk, self.directory)
            removed += 1
        return removed

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
