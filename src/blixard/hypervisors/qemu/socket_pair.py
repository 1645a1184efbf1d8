"""The pair of sockets between a QEMU that is moved and its daemon."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

BUFFER_BYTES = 4 << 20
_SO_SNDBUFFORCE = 32


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return ours and QEMU's end, with room for what one side does while the other is busy."""
    pair = socket.socketpair()
    pair[0].setblocking(False)
    for end in pair:
        try:
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER_BYTES)
        except PermissionError:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return pair


def unread_bytes(end: socket.socket) -> int:
    """Return how much of what the other side wrote stands in the socket."""
    (count,) = struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, bytes(4)))
    return int(count)
