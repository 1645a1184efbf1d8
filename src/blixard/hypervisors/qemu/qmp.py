"""QMP, QEMU's control protocol: a sans-IO codec and a small client around it.

Source: docs/interop/qmp-spec of QEMU. One JSON document per line; a greeting, then answers by id,
and events at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

from blixard.base.errors import BlixardError

LINE_BYTES_MAX = 1 << 20
CALL_S = 5.0


class QmpCodec:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the complete messages. Raises ValueError on what is no QMP."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > LINE_BYTES_MAX:
            raise ValueError("a QMP line is too long")
        try:
            messages = [json.loads(line) for line in lines if line.strip()]
        except RecursionError as error:
            raise ValueError("a QMP message is nested too deeply") from error
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a QMP message is no object")
        return messages

    @staticmethod
    def command(name: str, number: int, arguments: dict[str, Any] | None = None) -> bytes:
        """Return the bytes of a command."""
        message: dict[str, Any] = {"execute": name, "id": number}
        if arguments:
            message["arguments"] = arguments
        return json.dumps(message).encode() + b"\n"


class QmpClient:
    """One connection to a monitor; a monitor takes one at a time."""

    def __init__(self, path: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._path = path
        self._on_event = on_event
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next = 0

    async def connect(self) -> None:
        """Connect and negotiate. Raises OSError, BlixardError HYPERVISOR_UNAVAILABLE."""
        reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_BYTES_MAX)
        self._writer = writer
        self._reading = asyncio.get_running_loop().create_task(self._read(reader), name="qmp")
        await self.execute("qmp_capabilities")

    @property
    def connected(self) -> bool:
        """Tell whether the connection stands."""
        return self._writer is not None and not self._writer.is_closing()

    async def execute(self, name: str, **arguments: Any) -> Any:
        """Run a command. Raises BlixardError HYPERVISOR_UNAVAILABLE with QEMU's own words."""
        return await self._run(name, arguments)

    async def give(self, name: str, descriptor: int) -> None:
        """Give QEMU a copy of a descriptor, which it keeps under *name*. Raises as `execute`."""
        await self._run("getfd", {"fdname": name}, descriptor)

    async def _run(self, name: str, arguments: dict[str, Any], descriptor: int = -1) -> Any:
        if self._writer is None:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", "QMP is not connected")
        self._next += 1
        number = self._next
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        try:
            async with asyncio.timeout(CALL_S):
                self._write(QmpCodec.command(name, number, arguments), descriptor)
                await self._writer.drain()
                answer = await future
        except (OSError, TimeoutError) as error:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"QMP {name}: {error!r}") from error
        finally:
            self._answers.pop(number, None)
        if "error" in answer:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"QMP {name}: {answer['error']}")
        return answer.get("return")

    def _write(self, command: bytes, descriptor: int) -> None:
        """Write a command, with a descriptor beside its bytes if one is given."""
        assert self._writer is not None
        if descriptor < 0:
            self._writer.write(command)
            return
        if self._writer.transport.get_write_buffer_size():
            raise BlockingIOError("QMP takes no more")
        with self._writer.get_extra_info("socket").dup() as own:
            socket.send_fds(own, [command], [descriptor])

    async def _read(self, reader: asyncio.StreamReader) -> None:
        codec = QmpCodec()
        with contextlib.suppress(OSError, ValueError):
            while data := await reader.read(65_536):
                for message in codec.feed(data):
                    self._take(message)
        if self._writer is not None:
            self._writer.close()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ConnectionResetError("QMP closed"))

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        number = message.get("id")  # may be anything: a guest may have taken its QEMU over
        future = self._answers.get(number) if isinstance(number, int) else None
        if future is not None and not future.done():
            future.set_result(message)

    async def close(self) -> None:
        """End the connection; the hypervisor stays."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
