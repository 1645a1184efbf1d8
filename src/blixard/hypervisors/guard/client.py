"""The daemon's side of the guard: finds it or starts it, asks it, hears of exits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from blixard.base.errors import BlixardError
from blixard.hypervisors.guard.process import SOCKET

START_S = 10.0
RESTART_S = 1.0
ANSWER_BYTES_MAX = 4 << 20
CALL_S = 5.0


class GuardClient:
    """One connection to the guard of a state directory, made again when it breaks."""

    def __init__(self, state_dir: str, name: str, binaries: tuple[str, ...] = ()) -> None:
        self._dir = state_dir
        self._name = name
        self._binaries = binaries
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next = 0
        self._connecting = asyncio.Lock()
        self.on_exit: Callable[[dict[str, Any]], None] = lambda _facts: None
        self.on_lost: Callable[[], None] = lambda: None

    async def call(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask the guard. Raises BlixardError HYPERVISOR_UNAVAILABLE with its reason."""
        try:
            async with asyncio.timeout(CALL_S + START_S):
                try:
                    answer = await self._ask(op, fields)
                except ConnectionError:
                    # It ended for want of work just now. Starting twice is refused, the rest is
                    # the same done twice.
                    answer = await self._ask(op, fields)
        except (OSError, TimeoutError) as error:
            raise BlixardError(
                "HYPERVISOR_UNAVAILABLE", f"the guard does not answer: {error!r}"
            ) from error
        if "error" in answer:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"the guard refused: {answer['error']}")
        return answer

    async def _ask(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        writer = await self._connected()
        self._next += 1
        number = self._next
        self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(json.dumps({"id": number, "op": op, **fields}).encode() + b"\n")
            await writer.drain()
            return await self._answers[number]
        finally:
            self._answers.pop(number, None)

    async def close(self) -> None:
        """Leave; the guard and its instances stay."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None or self._writer.is_closing():
                reader, self._writer = await self._open()
                loop = asyncio.get_running_loop()
                reading = self._read(reader, self._writer)
                self._reading = loop.create_task(reading, name="guard")
            return self._writer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = os.path.join(self._dir, SOCKET)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + START_S
        started_s = 0.0
        while True:
            try:
                return await asyncio.open_unix_connection(path, limit=ANSWER_BYTES_MAX)
            except (FileNotFoundError, ConnectionRefusedError):
                if loop.time() > until_s:
                    raise
            if not started_s or loop.time() - started_s > RESTART_S:
                start_guard(self._dir, self._name, self._binaries)
                started_s = loop.time()
            await asyncio.sleep(0.02)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                message = json.loads(line)
                if message.get("event") == "exit":
                    self.on_exit(message)
                    continue
                future = self._answers.get(message.get("id"))
                if future is not None and not future.done():
                    future.set_result(message)
        writer.close()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the guard closed the connection"))
        self.on_lost()


def start_guard(state_dir: str, name: str, binaries: tuple[str, ...] = ()) -> None:
    """Start a guard in a session of its own; one that is there already makes the new one leave."""
    os.makedirs(state_dir, exist_ok=True, mode=0o711)
    with open(os.path.join(state_dir, "guard.log"), "ab") as log:
        # setsid --fork: the guard belongs to init, and the daemon has no child to wait for.
        subprocess.run(
            [
                "setsid",
                "--fork",
                sys.executable,
                "-m",
                "blixard.hypervisors.guard.process",
                state_dir,
                name,
                *binaries,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            check=True,
            timeout=START_S,
        )
