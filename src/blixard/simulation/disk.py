"""``ports.disk`` for the processes of a host: each call meets the disk as it is at that moment."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable
from typing import Any

from blixard.base.whole import read_whole, write_whole
from blixard.simulation.disk_image import DiskImage, path_parts, split_path
from blixard.simulation.inodes import MISDIRECTED_BYTES, DirectoryNode, FileNode
from blixard.simulation.nap import Nap
from blixard.simulation.process import Process

_LOG_FILE = ".log"


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
        parent, name = split_path(path)
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
        for part in path_parts(path):
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
        (old_parent, old_name), (parent, name) = split_path(source), split_path(target)
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
        parent, name = split_path(path)
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
