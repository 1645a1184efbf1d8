"""The guest channel: framed, versioned, the host speaks first. Sans-IO.

A frame is ``magic(4) type(1) stream(4) length(4) payload``, big-endian. The magic lets either side
find its feet after a restart of the other left half a frame behind. The agent carries the same few
lines (``guest/agent.py`` needs the standard library only); a test holds both together.
"""

from __future__ import annotations

import struct

MAGIC = b"BLX1"
HEADER = struct.Struct(">4sBII")
PAYLOAD_BYTES_MAX = 64 * 1024

HELLO, STATUS, EXEC, STDIN, STDOUT, STDERR, EXIT, RESIZE, SHUTDOWN, ERROR, CLOSE = range(1, 12)

# First byte of each frame on the stream that joins a client to an exec (API and CLI).
CLIENT_STDIN, CLIENT_STDOUT, CLIENT_STDERR = 0, 1, 2
CLIENT_EXIT, CLIENT_RESIZE, CLIENT_ERROR = 3, 4, 5


def encode(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame; *payload* is at most PAYLOAD_BYTES_MAX."""
    assert len(payload) <= PAYLOAD_BYTES_MAX
    return HEADER.pack(MAGIC, kind, stream, len(payload)) + payload


class Decoder:
    """Bytes in, frames out; skips what is no frame; never holds more than one frame."""

    def __init__(self) -> None:
        self._buffer = b""
        self.skipped = 0

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the frames completed by *data* as (type, stream, payload)."""
        self._buffer += data
        frames = []
        while True:
            self._find_magic()
            if len(self._buffer) < HEADER.size:
                return frames
            _, kind, stream, length = HEADER.unpack_from(self._buffer)
            if length > PAYLOAD_BYTES_MAX or not HELLO <= kind <= CLOSE:
                self._skip(1)
                continue
            end = HEADER.size + length
            if len(self._buffer) < end:
                return frames
            frames.append((kind, stream, self._buffer[HEADER.size : end]))
            self._buffer = self._buffer[end:]

    def _find_magic(self) -> None:
        at = self._buffer.find(MAGIC)
        if at > 0:
            self._skip(at)
        elif at < 0 and len(self._buffer) >= len(MAGIC):
            self._skip(len(self._buffer) - len(MAGIC) + 1)

    def _skip(self, count: int) -> None:
        self.skipped += count
        self._buffer = self._buffer[count:]
