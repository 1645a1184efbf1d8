"""A stream in memory."""

from __future__ import annotations

import asyncio


class MemoryStream:
    """What the client says is put into *said*; what it is told stands in *told*."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes | ConnectionError | None] = asyncio.Queue()
        self.told: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, frame: bytes) -> None:
        await self.reads.wait()
        self.told.append(frame)

    async def receive(self) -> bytes | None:
        frame = await self.said.get()
        if isinstance(frame, ConnectionError):
            raise frame
        return frame

    async def close(self) -> None:
        self.said.put_nowait(None)

    def of(self, kind: int) -> bytes:
        """Return all payloads of a kind."""
        return b"".join(frame[1:] for frame in self.told if frame[0] == kind)
