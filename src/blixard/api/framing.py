"""Frames inside a chunked body: 4 bytes of length, then data; the top bit marks an error document.

Chunk borders mean nothing: a frame may span chunks, a chunk may hold many frames.
"""

from __future__ import annotations

FRAME_MAX = 1 << 20
_ERROR_BIT = 1 << 31


class FrameError(ValueError):
    """The other side broke the framing."""


def encode_frame(data: bytes, *, error: bool = False) -> bytes:
    """Return a frame on the wire."""
    assert len(data) <= FRAME_MAX, "the sender splits what is longer"
    return (len(data) | (_ERROR_BIT if error else 0)).to_bytes(4) + data


class FrameReader:
    """Cuts a sequence of byte pieces into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """Return the frames complete so far as (is an error, data). Raises FrameError."""
        rest = self._rest
        rest += data
        found: list[tuple[bool, bytes]] = []
        start = 0
        while len(rest) - start >= 4:
            head = int.from_bytes(rest[start : start + 4])
            length = head & ~_ERROR_BIT
            if length > FRAME_MAX:
                raise FrameError(f"a frame of {length} bytes; at most {FRAME_MAX}")
            if len(rest) - start - 4 < length:
                break
            found.append((bool(head & _ERROR_BIT), bytes(rest[start + 4 : start + 4 + length])))
            start += 4 + length
        del rest[:start]
        return found
