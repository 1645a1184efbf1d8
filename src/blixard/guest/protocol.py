"""The guest's end of the channel's frames; ``hypervisors/channel.py`` is the host's."""

from __future__ import annotations

import struct

MAGIC = b"BLX1"
HEADER = struct.Struct(">4sBII")
PAYLOAD_BYTES_MAX = 64 * 1024
WINDOW_BYTES = 256 * 1024
BODY_BYTES_MAX = 6 << 20
HELLO, STATUS, EXEC, STDIN, STDOUT, STDERR, EXIT, RESIZE, SHUTDOWN, ERROR, CLOSE, WINDOW = range(
    1, 13
)
LOAD, INVOKE, RESULT = 13, 14, 15
VERSION = 2


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame of the channel."""
    return HEADER.pack(MAGIC, kind, stream, len(payload)) + payload


class Decoder:
    """Bytes in, frames out; the same rules as the host's decoder."""

    def __init__(self) -> None:
        self.buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return completed frames as (type, stream, payload)."""
        self.buffer += data
        frames: list[tuple[int, int, bytes]] = []
        while True:
            at = self.buffer.find(MAGIC)
            if at < 0:
                self.buffer = self.buffer[1 - len(MAGIC) :]
                return frames
            self.buffer = self.buffer[at:]
            if len(self.buffer) < HEADER.size:
                return frames
            _, kind, stream, length = HEADER.unpack_from(self.buffer)
            if length > PAYLOAD_BYTES_MAX or not HELLO <= kind <= RESULT:
                self.buffer = self.buffer[1:]
                continue
            end = HEADER.size + length
            if len(self.buffer) < end:
                return frames
            frames.append((kind, stream, self.buffer[HEADER.size : end]))
            self.buffer = self.buffer[end:]
