"""The node's data directory on a real file system.

One thread does all syncs, so the event loop never waits for the disk and syncs never overtake each
other. Files are 0600, directories 0700. A lock file keeps a second daemon out.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from blixard.base.errors import BlixardError
from blixard.base.whole import read_whole, write_whole

LOCK_NAME = ".lock"
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class RealFile:
    """One open file; implements ``ports.disk.File``."""

    def __init__(self, descriptor: int, path: str, syncer: ThreadPoolExecutor) -> None:
        self._descriptor = descriptor
        self._path = path
        self._syncer = syncer
        self._syncs_pending = 0
        self._closed = False
        self._failed = False

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of *data* at *offset*."""
        descriptor = self._usable()
        write_whole(lambda left, at: os.pwrite(descriptor, left, at), data, offset)

    def pread(self, offset: int, length: int) -> bytes:
        """Read at most *length* bytes; fewer only at the end of the file."""
        descriptor = self._usable()
        return read_whole(lambda missing, at: os.pread(descriptor, missing, at), length, offset)

    def truncate(self, size: int) -> None:
        """Set the size in bytes."""
        os.ftruncate(self._usable(), size)

    def size(self) -> int:
        """Return the size in bytes."""
        return os.fstat(self._usable()).st_size

    async def sync(self) -> None:
        """Return once data and size are durable; a failure makes the file unusable for good.

        After a failed fdatasync the kernel may have dropped the dirty pages: a second one would
        succeed and prove nothing.
        """
        descriptor = self._usable()
        loop = asyncio.get_running_loop()
        self._syncs_pending += 1
        # The future is kept apart from the caller's await: a cancelled caller does not stop the
        # thread, and the descriptor must stay open until the thread is done with it.
        future = loop.run_in_executor(self._syncer, os.fdatasync, descriptor)
        future.add_done_callback(self._sync_done)
        await asyncio.shield(future)

    def close(self) -> None:
        """Release the file, after syncs that are under way."""
        if self._closed:
            return
        self._closed = True
        if self._syncs_pending == 0:
            os.close(self._descriptor)

    def _sync_done(self, future: asyncio.Future[None]) -> None:
        self._syncs_pending -= 1
        if future.cancelled() or future.exception() is not None:
            self._failed = True
        if self._closed and self._syncs_pending == 0:
            os.close(self._descriptor)

    def _usable(self) -> int:
        if self._closed:
            raise OSError(errno.EBADF, "the file is closed", self._path)
        if self._failed:
            raise OSError(errno.EIO, "an earlier sync of the file failed", self._path)
        return self._descriptor


class RealDisk:
    """A data directory; implements ``ports.disk.Disk``. Refuses whatever lies outside of it."""

    def __init__(self, root: str) -> None:
        os.makedirs(root, mode=_DIRECTORY_MODE, exist_ok=True)
        self.root = os.path.realpath(root)
        self._lock_descriptor = _lock(os.path.join(self.root, LOCK_NAME))
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk-sync")

    def close(self) -> None:
        """Finish the syncs under way and let another process use the directory."""
        self._syncer.shutdown(wait=True)
        os.close(self._lock_descriptor)

    def open(self, path: str, *, create: bool = False) -> RealFile:
        """Open for reading and writing; the parent directory exists."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        descriptor = os.open(self._inside(path), flags, _FILE_MODE)
        return RealFile(descriptor, path, self._syncer)

    def exists(self, path: str) -> bool:
        """Tell whether the name exists."""
        return os.path.lexists(self._inside(path))

    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in a directory; an absent directory is empty."""
        try:
            names = os.listdir(self._inside(path))
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name != LOCK_NAME)

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; existing ones are fine."""
        os.makedirs(self._inside(path), mode=_DIRECTORY_MODE, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """Replace *target* atomically."""
        os.replace(self._inside(source), self._inside(target))

    def unlink(self, path: str) -> None:
        """Remove a file; absent is fine."""
        try:
            os.unlink(self._inside(path))
        except FileNotFoundError:
            return

    async def sync_dir(self, path: str) -> None:
        """Return once the names in the directory are durable."""
        await self._in_thread(_sync_directory, self._inside(path))

    def free_bytes(self) -> int:
        """Return the room left for this process on the file system."""
        figures = os.statvfs(self.root)
        return figures.f_bavail * figures.f_frsize

    async def _in_thread(self, action: Callable[[str], None], argument: str) -> None:
        await asyncio.get_running_loop().run_in_executor(self._syncer, action, argument)

    def _inside(self, path: str) -> str:
        """Return the absolute path of *path*. Raises PermissionError if it leaves the root."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or ".." in parts or "\0" in path or parts == [LOCK_NAME]:
            raise PermissionError(errno.EPERM, "the path leaves the data directory", path)
        full = os.path.join(self.root, *parts)
        parent = os.path.realpath(os.path.dirname(full)) if parts else self.root
        if parent != self.root and not parent.startswith(self.root + "/"):
            raise PermissionError(errno.EPERM, "a link leads out of the data directory", path)
        return full


def _lock(path: str) -> int:
    """Return the descriptor that holds the lock until it is closed or the process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise
        directory = os.path.dirname(path)
        raise BlixardError("DATA_DIR_IN_USE", f"another daemon uses {directory}") from error
    return descriptor


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
