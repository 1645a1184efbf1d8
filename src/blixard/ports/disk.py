"""Files with explicit durability, so that the simulator can lose, tear and corrupt what was not
synced.

Writes are buffered by the system and may raise ``OSError`` (ENOSPC, EIO) at once; nothing is
durable
before ``sync`` returns, and no name is durable before ``sync_dir`` of its directory returns.
Paths are relative to the node's data directory, with ``/``.
"""

from __future__ import annotations

from typing import Protocol


class File(Protocol):
    """One open file."""

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of *data* at *offset*; buffered. Raises OSError."""

    def pread(self, offset: int, length: int) -> bytes:
        """Read at most *length* bytes; fewer only at the end of the file. Raises OSError."""

    def truncate(self, size: int) -> None:
        """Set the size in bytes. Raises OSError."""

    def size(self) -> int:
        """Return the size in bytes, buffered writes included."""

    async def sync(self) -> None:
        """Return once data and size are durable.

        After an OSError the file must not be used again.
        """

    def close(self) -> None:
        """Release the file; unsynced data may still be lost."""


class Disk(Protocol):
    """The node's data directory."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and writing; the parent directory exists. Raises FileNotFoundError."""

    def exists(self, path: str) -> bool:
        """Tell whether the name exists."""

    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in a directory; an absent directory is empty."""

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; existing ones are fine."""

    def rename(self, source: str, target: str) -> None:
        """Replace *target* atomically; durable after ``sync_dir`` of the parent."""

    def unlink(self, path: str) -> None:
        """Remove a file; absent is fine."""

    async def sync_dir(self, path: str) -> None:
        """Return once the names in the directory are durable."""

    def free_bytes(self) -> int:
        """Return the room left for this node."""
