"""Whole reads and writes: one call of the system may move fewer bytes than it was asked for.

POSIX permits it at any time, and Linux does it where room ends or a signal comes in.
"""

from __future__ import annotations

from collections.abc import Callable


def write_whole(
    write: Callable[[memoryview, int], int], data: bytes | bytearray | memoryview, offset: int = 0
) -> None:
    """Call *write* with what is left, and where it goes, until all of *data* is written."""
    left = memoryview(data)
    while left:
        written = write(left, offset)
        left = left[written:]
        offset += written


def read_whole(read: Callable[[int, int], bytes], length: int, offset: int = 0) -> bytes:
    """Call *read* with what is missing, and where it is, until *length* bytes or the end."""
    parts: list[bytes] = []
    while length > 0:
        part = read(length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
