"""How a disk may be in trouble."""

from __future__ import annotations

import errno

import msgspec


class Trouble(msgspec.Struct):
    """What a disk does while it is ill: chances per call, and the room left, -1 for enough.

    After a failed sync the bytes can still be read, and are gone at the next power loss: so the
    page cache of Linux does it.
    """

    read_error: float = 0.0
    write_error: float = 0.0
    sync_error: float = 0.0
    misdirect: bool = False
    room_bytes: int = -1
    short: float = 0.0  # that a read or write moves fewer bytes than it was asked for

    def take_room(self, growth: int) -> None:
        """Use up some of the little room. Raises OSError ENOSPC."""
        if growth > self.room_bytes:
            self.room_bytes = 0
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self.room_bytes -= growth
