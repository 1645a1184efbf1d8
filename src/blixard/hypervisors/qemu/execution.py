"""One command in a guest joined to a client's stream, with a window in each direction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.ports.transport import Stream

_NAMES = {
    c.STDOUT: c.CLIENT_STDOUT,
    c.STDERR: c.CLIENT_STDERR,
    c.EXIT: c.CLIENT_EXIT,
    c.ERROR: c.CLIENT_ERROR,
}
_LAST = (c.EXIT, c.ERROR)
_PIECE = 16 * 1024
# A guest that keeps to the protocol has at most the window and one last frame under way.
_HELD_MAX = c.WINDOW_BYTES + c.PAYLOAD_BYTES_MAX


class Execution:
    """The host's side of one exec; *send* writes a frame of its stream to the guest."""

    def __init__(self, send: Callable[[int, bytes], None]) -> None:
        self.ended = False
        self.send = send
        self._queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._held = 0
        self._credit = c.WINDOW_BYTES
        self._more_credit = asyncio.Event()

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame from the guest; never waits."""
        if kind == c.WINDOW:
            granted = int(payload) if payload.isdigit() and len(payload) < 10 else 0
            self._credit = min(c.WINDOW_BYTES, self._credit + granted)
            self._more_credit.set()
        elif kind in _NAMES:
            self._held += c.cost(payload)
            self.ended = self.ended or kind in _LAST
            if self._held > _HELD_MAX:
                self.lost("the guest sends more than it may")
            else:
                self._queue.put_nowait((kind, payload))

    def lost(self, reason: str) -> None:
        """End it with an error."""
        self._queue.put_nowait((c.ERROR, reason.encode()))

    async def join(self, stream: Stream) -> None:
        """Pass both ways until the command ends. Raises ConnectionError if the client leaves."""
        loop = asyncio.get_running_loop()
        feeding = loop.create_task(self._feed(stream), name="exec")
        try:
            await self._pass_on(stream)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _pass_on(self, stream: Stream) -> None:
        consumed = 0
        while True:
            kind, payload = await self._queue.get()
            await stream.send(bytes((_NAMES[kind],)) + payload)
            if kind in _LAST:
                return
            self._held -= c.cost(payload)
            consumed += c.cost(payload)
            if consumed >= c.WINDOW_BYTES // 4:
                self.send(c.WINDOW, str(consumed).encode())
                consumed = 0

    async def _feed(self, stream: Stream) -> None:
        """Client to guest. The end of the stream is the end of the input: output still follows."""
        try:
            while (received := await stream.receive()) is not None:
                kind, payload = received[:1], received[1:]
                if kind == bytes((c.CLIENT_STDIN,)):
                    await self._input(payload)
                elif kind == bytes((c.CLIENT_RESIZE,)):
                    self.send(c.RESIZE, terminal_size(payload))
            self.send(c.STDIN, b"")
        except (ConnectionError, BlixardError) as error:
            self.lost(str(error))

    async def _input(self, data: bytes) -> None:
        if not data:
            self.send(c.STDIN, b"")
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            while self._credit < c.cost(piece):
                self._more_credit.clear()
                await self._more_credit.wait()
            self._credit -= c.cost(piece)
            self.send(c.STDIN, piece)


def terminal_size(payload: bytes) -> bytes:
    """Return ``COLSxROWS`` of itself or of ``{"rows": R, "columns": C}``; else nothing."""
    try:
        if payload.startswith(b"{"):
            size = json.loads(payload)
            columns, rows = int(size["columns"]), int(size["rows"])
        else:
            columns, rows = (int(part) for part in payload.split(b"x"))
    except (ValueError, KeyError, TypeError):
        return b""
    return f"{columns}x{rows}".encode() if 0 < columns < 10_000 and 0 < rows < 10_000 else b""
