"""An instance's log and serial console, joined to a client's stream."""

from __future__ import annotations

import asyncio

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu import console
from blixard.ports.transport import Stream

FOLLOW_S = 0.1
_PIECE = 16_384


async def send_log(path: str, stream: Stream, *, tail: int, follow: bool) -> None:
    """Send the last lines, then new ones until the client leaves; a frame is a line."""
    follower = console.Follower(path)
    for line in console.tail(path, tail):
        await stream.send(line.encode() + b"\n")
    if not follow:
        return
    leaving = asyncio.get_running_loop().create_task(_left(stream), name="log reader")
    try:
        while not leaving.done():
            for line in follower.new_lines():
                await stream.send(line.encode() + b"\n")
            await asyncio.wait({leaving}, timeout=FOLLOW_S)
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


async def _left(stream: Stream) -> None:
    """Return once the client has left; one that says nothing more still listens."""
    try:
        while await stream.receive() is not None:
            pass
        await asyncio.Event().wait()
    except ConnectionError:
        return


class Consoles:
    """Who uses which console: QEMU takes one client at a time, and lets the next one hang."""

    def __init__(self) -> None:
        self._joined_s: dict[str, float] = {}

    async def join(self, uid: str, path: str, stream: Stream) -> None:
        """Join a console that nobody uses.

        Raises:
            BlixardError: CONFLICT, saying since when it is used; GUEST_UNREACHABLE.
        """
        now_s = asyncio.get_running_loop().time()
        if uid in self._joined_s:
            since_s = now_s - self._joined_s[uid]
            raise BlixardError(
                "CONFLICT",
                f"the console is in use: another client joined it {since_s:.0f} s ago",
                hint="one client at a time; blixard vm logs NAME --follow shows what it prints",
            )
        self._joined_s[uid] = now_s
        try:
            await join_console(path, stream)
        finally:
            del self._joined_s[uid]


async def join_console(path: str, stream: Stream) -> None:
    """Pass raw bytes both ways until the guest is gone or the client ends its side.

    Raises:
        BlixardError: GUEST_UNREACHABLE.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        raise BlixardError("GUEST_UNREACHABLE", f"no console: {error}") from error
    typing = asyncio.get_running_loop().create_task(_type(stream, writer), name="console")
    try:
        while data := await reader.read(_PIECE):
            await stream.send(data)
    finally:
        typing.cancel()
        await asyncio.gather(typing, return_exceptions=True)
        writer.close()


async def _type(stream: Stream, writer: asyncio.StreamWriter) -> None:
    """Pass keys on; the end closes the console, which takes one client at a time."""
    try:
        while (frame := await stream.receive()) is not None:
            writer.write(frame)
            await writer.drain()
    finally:
        writer.close()
