"""A host's disk in bytes: what is durable, and what a crash may still lose, tear or keep."""

from __future__ import annotations

import errno
import random
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from blixard.base.whole import read_whole, write_whole
from blixard.simulation.damage import Trouble
from blixard.simulation.nap import Nap
from blixard.simulation.process import Process

DEFAULT_CAPACITY = 1 << 30
SECTORS = (512, 4096)
MISDIRECTED_BYTES = 4096
_APPLIED, _TORN, _ZEROED = 0.4, 0.2, 0.05  # the rest is lost
_SLOW_SYNC = 0.01
_LOG_FILE = ".log"
_PATHS = 256  # remembered, for the same ones are looked up again and again

Operation = tuple[int, bytes | None]  # (offset, data), or (new size, None)


def apply_operation(image: bytearray, operation: Operation) -> None:
    """Write or truncate; a gap before the written bytes reads as zeros."""
    offset, data = operation
    size = len(image)
    if data is None:
        if offset < size:
            del image[offset:]
        else:
            image.extend(bytes(offset - size))
        return
    if offset > size:
        image.extend(bytes(offset - size))
    image[offset : offset + len(data)] = data


def tear(generator: random.Random, operation: Operation) -> list[Operation]:
    """Return the sectors of a write that reached the disk."""
    offset, data = operation
    if data is None:
        return [operation] if generator.random() < 0.5 else []
    sector = generator.choice(SECTORS)
    kept: list[Operation] = []
    position = 0
    while position < len(data):
        end = min(len(data), (offset + position) // sector * sector + sector - offset)
        if generator.random() < 0.5:
            kept.append((offset + position, data[position:end]))
        position = end
    return kept


class FileNode:
    """One file: its bytes as read, as durable, and the operations between the two."""

    __slots__ = ("current", "done", "durable", "pending", "solid")

    def __init__(self) -> None:
        self.solid = 0  # bytes that were durable before the last sync
        self.current = bytearray()
        self.durable = bytearray()
        self.pending: list[Operation] = []
        self.done = 0  # operations that have left ``pending``

    def write(self, operation: Operation) -> None:
        """Change what is read; durable later."""
        apply_operation(self.current, operation)
        self.pending.append(operation)

    def persist(self, until: int) -> None:
        """Make the first *until* operations ever made durable."""
        count = until - self.done
        if count <= 0:
            return
        self.solid = self.pending[0][0]
        for operation in self.pending[:count]:
            apply_operation(self.durable, operation)
        del self.pending[:count]
        self.done = until

    def crash(self, generator: random.Random) -> None:
        """Decide what each pending operation left behind."""
        for operation in self.pending:
            fate = generator.random()
            if fate < _APPLIED:
                apply_operation(self.durable, operation)
            elif fate < _APPLIED + _TORN:
                for piece in tear(generator, operation):
                    apply_operation(self.durable, piece)
            elif fate < _APPLIED + _TORN + _ZEROED:
                # The new size reached the disk, the bytes did not.
                size = operation[0] + len(operation[1] or b"")
                self.durable.extend(bytes(max(0, size - len(self.durable))))
        self.done += len(self.pending)
        self.pending.clear()
        self.current = bytearray(self.durable)

    def lose_unsynced(self) -> None:
        """Forget all that is pending."""
        self.done += len(self.pending)
        self.pending.clear()
        self.current = bytearray(self.durable)

    def misdirect(self, operation: Operation) -> None:
        """Write where it was asked as far as reads can tell, and too early in the file really."""
        apply_operation(self.current, operation)
        self.pending.append((operation[0] - MISDIRECTED_BYTES, operation[1]))

    def drop(self, until: int) -> None:
        """A sync failed: what it should have written counts as clean, and is never written."""
        count = until - self.done
        if count > 0:
            del self.pending[:count]
            self.done = until


class DirectoryNode:
    """One directory: its names as seen, as durable, and the changes between the two."""

    __slots__ = ("current", "done", "durable", "pending")

    def __init__(self) -> None:
        self.current: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.pending: list[tuple[str, Node | None, str]] = []  # (name, node or gone, old name)
        self.done = 0

    def change(self, name: str, node: Node | None, source: str = "") -> None:
        """Set or remove a name; *source* is the old name in this directory, if it was moved."""
        change = (name, node, source)
        _apply_change(self.current, change)
        self.pending.append(change)

    def persist(self, until: int) -> None:
        """Make the first *until* changes ever made durable."""
        count = until - self.done
        if count <= 0:
            return
        for change in self.pending[:count]:
            _apply_change(self.durable, change)
        del self.pending[:count]
        self.done = until

    def crash(self, generator: random.Random) -> None:
        """Keep or lose each pending change, then do the same below."""
        for change in self.pending:
            if generator.random() < 0.5:
                _apply_change(self.durable, change)
        self.done += len(self.pending)
        self.pending.clear()
        self.current = dict(self.durable)
        for name in sorted(self.current):
            self.current[name].crash(generator)

    def lose_unsynced(self) -> None:
        """Forget all that is pending, here and below."""
        self.done += len(self.pending)
        self.pending.clear()
        self.current = dict(self.durable)
        for name in sorted(self.current):
            self.current[name].lose_unsynced()


Node = FileNode | DirectoryNode


def _apply_change(names: dict[str, Node], change: tuple[str, Node | None, str]) -> None:
    name, node, source = change
    if source:
        names.pop(source, None)
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class DiskImage:
    """What outlives the processes of a host."""

    def __init__(self, generator: random.Random, *, capacity: int = DEFAULT_CAPACITY) -> None:
        self.root = DirectoryNode()
        self.generator = generator
        self.capacity = capacity
        self.full = False
        self.trouble: Trouble | None = None
        self.hurt = False  # it has failed, lied or lost something: its node may stop
        self.cut_short = 0  # reads and writes that moved fewer bytes than they were asked for
        self.sync_failed_in: Process | None = None  # whose sync of a log failed last
        self.stalled_until_ns = 0
        self.sync_mean_s = 0.0005
        self.slow_sync_s = 0.05
        self.used = 0
        self.on_sync: Callable[[int, int], None] = lambda _size, _checksum: None
        self.tap: Callable[[str, str], None] | None = None  # told of each step: (what, path)

    def crash(self) -> None:
        """The host lost power: only what is durable, and what luck kept, remains."""
        self.root.crash(self.generator)
        self.used = sum(len(node.current) for _, node in self.files())
        self.stalled_until_ns = 0

    def replace(self) -> DiskImage:
        """An empty disk takes the place of this one; return that one."""
        lost = DiskImage(self.generator)
        lost.root, lost.hurt = self.root, self.hurt
        self.root = DirectoryNode()
        self.used = 0
        self.trouble = None
        self.full = self.hurt = False
        return lost

    @property
    def no_room(self) -> bool:
        """Whether writes may fail for want of room."""
        return self.full or (self.trouble is not None and self.trouble.room_bytes >= 0)

    def heal(self) -> None:
        """What it does from now on is right; what it holds stays as it is."""
        self.trouble = None
        self.full = False
        self.stalled_until_ns = 0

    def fails(self, chance: float) -> bool:
        """Draw whether a troubled disk fails now, and remember that it did."""
        if chance and self.generator.random() < chance:
            self.hurt = True
            return True
        return False

    def moves(self, length: int) -> int:
        """Draw how many bytes one call moves that was asked for *length*; fewer is no failure."""
        chance = self.trouble.short if self.trouble is not None else 0.0
        if length > 1 and chance and self.generator.random() < chance:
            self.cut_short += 1
            return self.generator.randint(1, length - 1)
        return length

    def lose_unsynced(self) -> None:
        """Keep nothing that was not synced: a crash right after it has no luck to hand out."""
        self.root.lose_unsynced()

    def files(self) -> list[tuple[str, FileNode]]:
        """Return all files by path."""
        return _walk("", self.root)

    def find(self, path: str) -> Node | None:
        """Return what stands at *path*."""
        node: Node = self.root
        for part in _parts(path):
            if not isinstance(node, DirectoryNode) or part not in node.current:
                return None
            node = node.current[part]
        return node

    def directory(self, path: str) -> DirectoryNode:
        """Return a directory. Raises FileNotFoundError."""
        node = self.find(path)
        if not isinstance(node, DirectoryNode):
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        return node

    def latency_s(self, now_ns: int) -> float:
        """Draw how long a sync takes that begins now."""
        draw = self.generator.random
        delay = self.sync_mean_s * (0.5 + draw())
        if draw() < _SLOW_SYNC:
            delay += self.slow_sync_s * draw()
        return delay + max(0, self.stalled_until_ns - now_ns) / 1e9

    def take_room(self, growth: int) -> None:
        """Account for *growth* bytes. Raises OSError ENOSPC."""
        if growth > 0 and self.trouble is not None and self.trouble.room_bytes >= 0:
            self.trouble.take_room(growth)
        if growth > 0 and (self.full or self.used + growth > self.capacity):
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self.used += growth


@lru_cache(_PATHS)
def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _split(path: str) -> tuple[str, str]:
    parts = _parts(path)
    return "/".join(parts[:-1]), parts[-1]


def _walk(prefix: str, directory: DirectoryNode) -> list[tuple[str, FileNode]]:
    found: list[tuple[str, FileNode]] = []
    for name in sorted(directory.current):
        node = directory.current[name]
        if isinstance(node, FileNode):
            found.append((prefix + name, node))
        else:
            found.extend(_walk(f"{prefix}{name}/", node))
    return found


class SimFile:
    """``ports.disk.File`` for one process; a dead process changes nothing any more."""

    __slots__ = ("_disk", "_failed", "_node", "_path")

    def __init__(self, disk: SimDisk, node: FileNode, path: str) -> None:
        self._disk = disk
        self._node = node
        self._path = path
        self._failed = False

    def _usable(self) -> None:
        if self._failed:
            raise OSError(errno.EIO, "an earlier sync of the simulated file failed")

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write; buffered. Without room for all, what there is room for is written first."""
        self._usable()
        disk, node = self._disk, self._node
        if not disk.process.alive:
            return
        image = disk.image
        if image.tap is not None:
            disk.step("write", self._path)
        trouble = image.trouble
        if trouble is not None:
            if image.fails(trouble.write_error):
                raise OSError(errno.EIO, "the simulated disk fails to write")
            if trouble.misdirect and offset >= MISDIRECTED_BYTES and data:
                trouble.misdirect = False
                image.hurt = True
                node.misdirect((offset, bytes(data)))
                return
            room = trouble.room_bytes
            fits = room - max(0, offset - len(node.current))
            if room >= 0 and 0 < fits < offset + len(data) - len(node.current):
                node.write((offset, bytes(data[:fits])))
        growth = offset + len(data) - len(node.current)
        image.take_room(max(growth, 0))
        if trouble is not None and trouble.short:
            write_whole(self._write_some, data, offset)
        else:
            node.write((offset, bytes(data)))
        if image.tap is not None:
            disk.step("written", self._path)

    def _write_some(self, data: memoryview, offset: int) -> int:
        """One call of the system: writes at least one byte, and says how many."""
        count = self._disk.image.moves(len(data))
        self._node.write((offset, bytes(data[:count])))
        return count

    def pread(self, offset: int, length: int) -> bytes:
        """Read what was written last."""
        self._usable()
        image = self._disk.image
        trouble = image.trouble
        if trouble is not None:
            if image.fails(trouble.read_error):
                raise OSError(errno.EIO, "the simulated disk fails to read")
            if trouble.short:
                return read_whole(self._read_some, length, offset)
        return bytes(self._node.current[offset : offset + length])

    def _read_some(self, length: int, offset: int) -> bytes:
        """One call of the system: returns nothing only at the end of the file."""
        return bytes(self._node.current[offset : offset + self._disk.image.moves(length)])

    def truncate(self, size: int) -> None:
        """Set the size."""
        self._usable()
        if self._disk.process.alive:
            growth = size - len(self._node.current)
            self._disk.image.take_room(growth)
            self._node.write((size, None))

    def size(self) -> int:
        """Return the size, buffered writes included."""
        return len(self._node.current)

    async def sync(self) -> None:
        """Make what was written before the call durable, a little later."""
        self._usable()
        node, image = self._node, self._disk.image
        until = node.done + len(node.pending)
        self._disk.step("sync", self._path)
        await self._disk.wait()
        if image.trouble is not None and image.fails(image.trouble.sync_error):
            self._failed = True
            node.drop(until)
            if self._path.endswith(_LOG_FILE):
                image.sync_failed_in = self._disk.process
            raise OSError(errno.EIO, "the simulated disk fails to sync")
        checksum = zlib.crc32(node.current[-64:])
        node.persist(until)
        image.on_sync(len(node.current), checksum)
        self._disk.step("synced", self._path)

    def close(self) -> None:
        """Nothing is held."""


class SimDisk:
    """``ports.disk.Disk`` for one process on the host's image."""

    def __init__(self, image: DiskImage, process: Process, now_ns: Callable[[], int]) -> None:
        self.image = image
        self.process = process
        self._now_ns = now_ns

    def step(self, what: str, path: str) -> None:
        """Tell whoever waits for this moment, who may end the process in it."""
        if self.image.tap is not None and self.process.alive:
            self.image.tap(what, path)

    async def wait(self) -> None:
        """Take as long as the device does."""
        await Nap(self.process, self.image.latency_s(self._now_ns()))

    def open(self, path: str, *, create: bool = False) -> SimFile:
        """Open for reading and writing."""
        parent, name = _split(path)
        directory = self.image.directory(parent)
        node = directory.current.get(name)
        if node is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            node = FileNode()
            if self.process.alive:
                self.image.take_room(1 if self.image.full else 0)
                directory.change(name, node)
        if isinstance(node, DirectoryNode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        return SimFile(self, node, path)

    def exists(self, path: str) -> bool:
        """Tell whether the name exists."""
        return self.image.find(path) is not None

    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in a directory; an absent directory is empty."""
        node = self.image.find(path)
        return sorted(node.current) if isinstance(node, DirectoryNode) else []

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents."""
        directory = self.image.root
        for part in _parts(path):
            node = directory.current.get(part)
            if node is None:
                node = DirectoryNode()
                if self.process.alive:
                    directory.change(part, node)
            if not isinstance(node, DirectoryNode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
            directory = node

    def rename(self, source: str, target: str) -> None:
        """Replace *target*."""
        node = self.image.find(source)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", source)
        if not self.process.alive:
            return
        self.step("rename", target)
        (old_parent, old_name), (parent, name) = _split(source), _split(target)
        destination = self.image.directory(parent)
        self._release(destination.current.get(name))
        if old_parent == parent:
            destination.change(name, node, old_name)
        else:
            self.image.directory(old_parent).change(old_name, None)
            destination.change(name, node)
        self.step("renamed", target)

    def unlink(self, path: str) -> None:
        """Remove a file; absent is fine."""
        node = self.image.find(path)
        if node is None or not self.process.alive:
            return
        self.step("unlink", path)
        parent, name = _split(path)
        self._release(node)
        self.image.directory(parent).change(name, None)
        self.step("unlinked", path)

    def _release(self, node: Any) -> None:
        if isinstance(node, FileNode):
            self.image.used -= len(node.current)

    async def sync_dir(self, path: str) -> None:
        """Make the changes of names before the call durable."""
        directory = self.image.directory(path)
        until = directory.done + len(directory.pending)
        self.step("sync_dir", path)
        await self.wait()
        trouble = self.image.trouble
        if trouble is not None and self.image.fails(trouble.sync_error):
            raise OSError(errno.EIO, "the simulated disk fails to sync a directory", path)
        directory.persist(until)
        self.step("synced_dir", path)

    def free_bytes(self) -> int:
        """Return the room left."""
        image = self.image
        if image.trouble is not None and image.trouble.room_bytes >= 0:
            return image.trouble.room_bytes
        return 0 if image.full else image.capacity - image.used
