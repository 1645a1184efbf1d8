"""The guest channel: framed, versioned, the host speaks first. Sans-IO.

A frame is ``magic(4) type(1) stream(4) length(4) payload``, big-endian. The magic lets either side
find its feet after a restart of the other left half a frame behind. The agent carries the same few
lines (``guest/protocol.py`` needs the standard library only); a test holds both together.

Input and output of an exec are bounded by a window in each direction: a sender stops once
WINDOW_BYTES of frames are not yet consumed, the receiver says with a WINDOW frame (a decimal number
of bytes, headers counted) what it has consumed. So a slow client, or a command that reads nothing,
holds up neither the other streams nor the health checks.

LOAD and INVOKE (from version 2 on) open a stream each: JSON that says ``bytes``, a line feed, the
body's first piece; the rest of the body follows as STDIN under the window. The body of a LOAD is
the variables as JSON, a line feed, the source; that of an INVOKE the event. The answer is RESULT,
built the same way, its body's rest follows as STDOUT; a result that cannot be ended is an ERROR.
An agent of version 1 skips frames that it does not know, so the host looks at what its HELLO said.
"""

from __future__ import annotations

import struct

from blixard.ports.hypervisor import PAYLOAD_MAX_BYTES

VERSION = 2
VERSION_WITH_FUNCTIONS = 2
MAGIC = b"BLX1"
HEADER = struct.Struct(">4sBII")
PAYLOAD_BYTES_MAX = 64 * 1024
WINDOW_BYTES = 256 * 1024
BODY_BYTES_MAX = PAYLOAD_MAX_BYTES

HELLO, STATUS, EXEC, STDIN, STDOUT, STDERR, EXIT, RESIZE, SHUTDOWN, ERROR, CLOSE, WINDOW = range(
    1, 13
)
LOAD, INVOKE, RESULT = 13, 14, 15

# First byte of each frame on the stream that joins a client to an exec (API and CLI). An empty
# STDIN is the end of the input, RESIZE is ``COLSxROWS``, EXIT the exit code as text.
CLIENT_STDIN, CLIENT_STDOUT, CLIENT_STDERR = 0, 1, 2
CLIENT_EXIT, CLIENT_RESIZE, CLIENT_ERROR = 3, 4, 5

_LARGEST = HEADER.size + PAYLOAD_BYTES_MAX


def encode(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame; *payload* is at most PAYLOAD_BYTES_MAX."""
    assert len(payload) <= PAYLOAD_BYTES_MAX
    return HEADER.pack(MAGIC, kind, stream, len(payload)) + payload


def cost(payload: bytes) -> int:
    """Return what a frame takes of its stream's window."""
    return HEADER.size + len(payload)


class Decoder:
    """Bytes in, frames out; skips what is no frame; holds at most one frame and one piece."""

    def __init__(self) -> None:
        self._buffer = b""
        self.skipped = 0

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the frames completed by *data* as (type, stream, payload)."""
        buffer = self._buffer + data
        frames: list[tuple[int, int, bytes]] = []
        at = 0
        while True:
            start = _find_magic(buffer, at)
            self.skipped += start - at
            at = start
            if len(buffer) - at < HEADER.size:
                break
            _, kind, stream, length = HEADER.unpack_from(buffer, at)
            if length > PAYLOAD_BYTES_MAX or not HELLO <= kind <= RESULT:
                at += 1
                self.skipped += 1
                continue
            end = at + HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((kind, stream, buffer[at + HEADER.size : end]))
            at = end
        self._buffer = buffer[at:]
        assert len(self._buffer) < _LARGEST
        return frames


def _find_magic(buffer: bytes, at: int) -> int:
    """Return where the next magic, or what may become one, begins."""
    found = buffer.find(MAGIC, at)
    if found >= 0:
        return found
    for length in range(len(MAGIC) - 1, 0, -1):
        if len(buffer) - length >= at and buffer.endswith(MAGIC[:length]):
            return len(buffer) - length
    return len(buffer)
