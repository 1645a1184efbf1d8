"""The daemon's side of the talker: starts it when it is needed, ends it when it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

import msgspec

from blixard.base.errors import BlixardError

ANSWER_BYTES_MAX = 64 << 20
TALKER = (sys.executable, "-m", "blixard.storage.ceph.talker")


class CephConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the cluster is reached: its configuration, and Blixard's own user with its keyring.

    ``call_s``: without an answer for so long, the cluster counts as unavailable.
    """

    conf: str
    user: str
    keyring: str
    call_s: float = 10.0


class CephFailed(Exception):
    """Ceph answered with an error; ``code`` is an errno, mostly."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def check_files(config: CephConfig) -> None:
    """Name the file that is missing. Raises BlixardError STORAGE_UNAVAILABLE."""
    for path in (config.conf, config.keyring):
        if not os.path.exists(path):
            raise BlixardError(
                "STORAGE_UNAVAILABLE",
                f"{path} is not there",
                hint="storage.ceph in the node's configuration says where Ceph's files are",
            )


class CephLink:
    """One talker and the questions that wait for its answers."""

    def __init__(self, config: CephConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._changing = asyncio.Lock()
        self._next = 0

    async def ask(self, target: str, prefix: str, **arguments: Any) -> bytes:
        """Put a command to ``mon``, ``mon.NAME``, ``mgr`` or ``osd.N``; return what it says.

        Raises:
            CephFailed: the command was refused.
            BlixardError: STORAGE_UNAVAILABLE: no answer before the deadline, or no connection.
        """
        check_files(self._config)
        process = None
        try:
            async with asyncio.timeout(self._config.call_s):
                process = await self._started()
                command = {"prefix": prefix, **arguments}
                answer = await self._answered(process, target, command)
        except TimeoutError as error:
            # It may hang for ever, with all that came after it. Another may have ended it before.
            why = f"no answer within {self._config.call_s:g} s"
            async with self._changing:
                if process is self._process:
                    await self._end(why)
            raise BlixardError("STORAGE_UNAVAILABLE", f"{prefix}: {why}") from error
        except OSError as error:
            raise BlixardError("STORAGE_UNAVAILABLE", f"{prefix}: {error}") from error
        if answer["code"]:
            words = answer["err"] or os.strerror(int(answer["code"]))
            raise CephFailed(int(answer["code"]), f"{prefix}: {words}")
        return str(answer["out"]).encode()

    async def _answered(
        self, process: asyncio.subprocess.Process, target: str, command: dict[str, Any]
    ) -> dict[str, Any]:
        assert process.stdin is not None
        self._next += 1
        number = self._next
        self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            request = {"id": number, "target": target, "command": command}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
            return await self._answers[number]
        finally:
            self._answers.pop(number, None)

    async def _started(self) -> asyncio.subprocess.Process:
        async with self._changing:
            if self._process is None or self._process.returncode is not None:
                await self._end("the connection to Ceph ended")
                config = self._config
                self._process = await asyncio.create_subprocess_exec(
                    *(*TALKER, config.conf, config.user, config.keyring),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    limit=ANSWER_BYTES_MAX,
                )
                loop = asyncio.get_running_loop()
                self._reading = loop.create_task(self._read(self._process), name="ceph")
            return self._process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        why = "the connection to Ceph ended"
        with contextlib.suppress(OSError, ValueError):
            while line := await process.stdout.readline():
                answer = json.loads(line)
                if not answer["id"]:
                    why = f"no connection to Ceph: {answer['err']}"
                    continue
                future = self._answers.get(answer["id"])
                if future is not None and not future.done():
                    future.set_result(answer)
        self._fail(why)

    def _fail(self, why: str) -> None:
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ConnectionResetError(why))

    async def close(self) -> None:
        """End the talker, and whatever waits for it."""
        async with self._changing:
            await self._end("the connection to Ceph is closed")

    async def _end(self, why: str) -> None:
        self._fail(why)
        process, self._process = self._process, None
        reading, self._reading = self._reading, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)
