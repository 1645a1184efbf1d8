"""Runs ``rbd`` and ``rados``, and asks the monitors, all with a deadline.

Without a quorum Ceph waits for ever. No secret is ever an argument: the programs read Blixard's own
key from its keyring, and the keys of node epochs come through a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from blixard.base.errors import BlixardError
from blixard.storage.ceph.link import CephConfig, CephFailed, CephLink, check_files

AT_ONCE_MAX = 8
# errno values, which the programs end with.
ENOENT, EBUSY, EEXIST, ENOSPC, EDQUOT = 2, 16, 17, 28, 122


class CephCommands:
    """Ceph under Blixard's own user; at most a few programs at once."""

    def __init__(self, config: CephConfig) -> None:
        self._config = config
        self._link = CephLink(config)
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    async def ask(self, prefix: str, *, target: str = "mon", **arguments: Any) -> bytes:
        """Put a command of Ceph's to a monitor or another daemon; return its answer, JSON."""
        return await self._link.ask(target, prefix, **arguments)

    async def rbd(self, *words: str, deadline_s: float = 0.0) -> bytes:
        """Run ``rbd``; answers in JSON must be asked for."""
        return await self._run("rbd", *words, deadline_s=deadline_s)

    async def rados(self, pool: str, *words: str) -> bytes:
        """Run ``rados`` in a pool."""
        return await self._run("rados", "--pool", pool, *words)

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()

    async def _run(self, program: str, *words: str, deadline_s: float = 0.0) -> bytes:
        """Run to the end.

        Raises:
            CephFailed: it ended with an error.
            BlixardError: STORAGE_UNAVAILABLE: program or files are absent, or the deadline passed.
        """
        config = self._config
        check_files(config)
        reach = ["--conf", config.conf, "--id", config.user, "--keyring", config.keyring]
        deadline_s = deadline_s or config.call_s
        said = f"{program} {' '.join(words[:4])}"
        try:
            async with self._room, asyncio.timeout(deadline_s):
                code, out, err = await _finish(program, *reach, *words)
        except TimeoutError as error:
            raise BlixardError(
                "STORAGE_UNAVAILABLE", f"{said}: no answer within {deadline_s:g} s"
            ) from error
        except OSError as error:
            raise BlixardError(
                "STORAGE_UNAVAILABLE",
                f"{program}: {error.strerror}",
                hint="apt-get install ceph-common",
            ) from error
        if code != 0:
            raise CephFailed(code, f"{said}: {_last_words(err)}")
        return out


async def _finish(*argv: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, out, err


def _last_words(err: bytes) -> str:
    lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
