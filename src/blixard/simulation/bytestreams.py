"""Byte streams between two ends: cut anywhere, delivered in pieces, late, slowly, or no longer.

An end is a non-blocking socket as far as our code uses one; :class:`SimStreamTransport` makes an
asyncio transport of it. No byte is lost, doubled or overtaken: so sockets promise it, and it is all
that they promise.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from blixard.simulation.loop import SimLoop

_HIGH_WATER_BYTES = 64 << 10
_MILLISECOND = 1_000_000
_NEVER = 1 << 62


class StreamFaults(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream behaves: sizes in bytes, times in ms; where it ends counts both directions.

    ``cut_at``: there the connection breaks; ``silent_at``: from there on nothing arrives for
    ``silent_ms``, and neither end is told (half-open); ``room_bytes``: what is under way to a
    reader at most. A peer on the same machine that is stopped is silent until it goes on.
    """

    piece_bytes: int = 1 << 16
    delay_ms: float = 0.1
    room_bytes: int = 1 << 16
    cut_at: int = _NEVER
    silent_at: int = _NEVER
    silent_ms: int = 10**12
    cut_is_reset: bool = True


def draw_faults(
    draw: random.Random, *, ends: bool = True, most_bytes: int = 4_000, silent_ms: int = 10**12
) -> StreamFaults:
    """Draw how one stream behaves; without *ends* all of it arrives without long silence."""
    end = draw.choice(("cut", "silent", "")) if ends else ""
    at = draw.randint(0, most_bytes)
    return StreamFaults(
        piece_bytes=draw.choice((1, 3, 64, 1 << 16)),
        delay_ms=draw.choice((0.01, 1.0, 5.0)),
        room_bytes=draw.choice((1, 100, 1 << 16)),
        cut_at=at if end == "cut" else _NEVER,
        silent_at=at if end == "silent" else _NEVER,
        silent_ms=silent_ms,
        cut_is_reset=draw.random() < 0.5,
    )


class ByteStream:
    """One connection: its two ends, and what is under way between them."""

    def __init__(self, loop: SimLoop, draw: random.Random, faults: StreamFaults) -> None:
        self.loop = loop
        self.draw = draw
        self.faults = faults
        self.moved = 0  # bytes that have arrived, both ways
        self.silent_until_ns = 0
        self.ends = (StreamEnd(self, 0), StreamEnd(self, 1))

    def cut(self) -> None:
        """Break the connection: what has arrived can still be read."""
        for end in self.ends:
            end.broken = end.broken or ("reset" if self.faults.cut_is_reset else "end")
            end.tell()


class StreamEnd:
    """One end, like a non-blocking socket; ``on_ready`` is called when it may be worth a look."""

    def __init__(self, stream: ByteStream, side: int) -> None:
        self._stream = stream
        self._side = side
        self._arrived = bytearray()
        self._under_way = bytearray()  # to this end
        self._moving = False
        self._closed = False
        self.broken = ""  # "end": reads end here; "reset": they fail
        self.on_ready: Callable[[], None] = lambda: None

    @property
    def other(self) -> StreamEnd:
        """The end to which this one sends."""
        return self._stream.ends[1 - self._side]

    def setblocking(self, wanted: bool) -> None:
        """It never blocks."""
        assert not wanted

    def fileno(self) -> int:
        """Return a number of its own, -1 once closed."""
        return -1 if self._closed else 1_000 + self._side

    def getsockopt(self, _level: int, _name: int, size: int) -> bytes:
        """Say who is at the other end: this user."""
        return struct.pack("3i", os.getpid(), os.geteuid(), os.getegid())[:size]

    def recv(self, size: int) -> bytes:
        """Return what has arrived; nothing at the end. Raises BlockingIOError, OSError."""
        if self._arrived:
            data = bytes(self._arrived[:size])
            del self._arrived[:size]
            self.other.tell()  # there is room again
            return data
        if self._closed or self.broken == "reset":
            raise ConnectionResetError("the simulated connection was reset")
        if self.broken and not self._under_way:
            return b""
        raise BlockingIOError

    def send(self, data: bytes) -> int:
        """Take some of *data*. Raises BlockingIOError, OSError."""
        if self._closed or self.broken:
            raise BrokenPipeError("the simulated connection is gone")
        other = self.other
        room = self._stream.faults.room_bytes - len(other._under_way) - len(other._arrived)
        if room <= 0:
            raise BlockingIOError
        other._under_way += data[:room]
        other._move()
        return min(room, len(data))

    def close(self) -> None:
        """Close: the other end reads what is under way, then the end."""
        if not self._closed:
            self._closed = True
            self.other.broken = self.other.broken or "end"
            self.other.tell()

    def tell(self) -> None:
        """Call who waits, soon."""
        self._stream.loop.call_soon(self._look)

    def _look(self) -> None:
        self.on_ready()

    def _move(self) -> None:
        """Let the next piece arrive after a while."""
        if self._moving or not self._under_way:
            return
        self._moving = True
        stream = self._stream
        delay_ns = int(stream.faults.delay_ms * 2 * stream.draw.random() * _MILLISECOND) + 1
        stream.loop.root.call_at_ns(stream.loop.now_ns + delay_ns, self._arrive)

    def _arrive(self) -> None:
        stream, faults = self._stream, self._stream.faults
        now_ns = stream.loop.now_ns
        if not stream.silent_until_ns and faults.silent_at <= stream.moved:
            stream.silent_until_ns = now_ns + faults.silent_ms * _MILLISECOND
        if now_ns < stream.silent_until_ns:
            stream.loop.root.call_at_ns(stream.silent_until_ns, self._arrive)
            return
        left = faults.cut_at - stream.moved
        if left <= 0:
            stream.cut()
            return
        size = min(stream.draw.randint(1, faults.piece_bytes), len(self._under_way), left)
        self._moving = False
        self._arrived += self._under_way[:size]
        del self._under_way[:size]
        stream.moved += size
        self._move()
        self.tell()


class SimStreamTransport(asyncio.Transport):
    """One end as asyncio's streams use it."""

    def __init__(self, end: StreamEnd, loop: SimLoop, protocol: Any) -> None:
        super().__init__()
        self._end = end
        self._loop = loop
        self._protocol = protocol
        self._waiting = b""
        self._reading, self._full, self._closing, self._lost = True, False, False, False
        end.on_ready = self._ready
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, now or later."""
        if not self._lost:
            self._waiting += bytes(data)
            self._flush()

    def is_closing(self) -> bool:
        """Tell whether it ends."""
        return self._closing

    def close(self) -> None:
        """End once all is sent."""
        self._closing = True
        if not self._waiting:
            self._lose(None)

    def abort(self) -> None:
        """End at once."""
        self._closing = True
        self._lose(None)

    def pause_reading(self) -> None:
        """Take nothing more in."""
        self._reading = False

    def resume_reading(self) -> None:
        """Take in again."""
        self._reading = True
        self._end.tell()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return len(self._waiting)

    def _ready(self) -> None:
        if self._lost:
            return
        self._flush()
        try:
            while self._reading and not self._closing:
                data = self._end.recv(1 << 16)
                if not data:
                    self._protocol.eof_received()
                    self.close()
                    return
                self._protocol.data_received(data)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)

    def _flush(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._end.send(self._waiting) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(error)
            return
        full = len(self._waiting) > _HIGH_WATER_BYTES
        if full != self._full:
            self._full = full
            (self._protocol.pause_writing if full else self._protocol.resume_writing)()
        if self._closing and not self._waiting:
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._end.close()
            self._loop.call_soon(self._protocol.connection_lost, error)


def connect_with(loop: SimLoop, connect: Callable[[str], StreamEnd]) -> Callable[..., Any]:
    """Return what stands in for ``loop.create_unix_connection``; *connect* may raise OSError."""

    async def create(factory: Callable[[], Any], path: str, **_named: Any) -> tuple[Any, Any]:
        await asyncio.sleep(0)
        protocol = factory()
        return SimStreamTransport(connect(path), loop, protocol), protocol

    return create
