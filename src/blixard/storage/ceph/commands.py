"""Runs ``ceph``, ``rbd`` and ``rados`` with a deadline: without a quorum they wait for ever.

No secret is ever an argument: the programs read Blixard's own key from its keyring, and print the
keys of node epochs into our pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import msgspec

from blixard.base.errors import BlixardError

AT_ONCE_MAX = 8
# errno values, which the programs end with.
ENOENT, EBUSY, EEXIST, ENOSPC, EDQUOT = 2, 16, 17, 28, 122


class CephConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the cluster is reached: its configuration, and Blixard's own user with its keyring.

    ``call_s``: without an answer for so long, the cluster counts as unavailable.
    """

    conf: str
    user: str
    keyring: str
    call_s: float = 15.0


class CephFailed(Exception):
    """A program answered with an error; ``code`` is an errno, mostly."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class CephCommands:
    """Ceph's programs under Blixard's own user; at most a few at once."""

    def __init__(self, config: CephConfig) -> None:
        self._config = config
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    async def ceph(self, *words: str) -> bytes:
        """Run ``ceph`` and return what it printed, JSON where there is any."""
        return await self._run("ceph", *words, "--format", "json")

    async def rbd(self, *words: str, deadline_s: float = 0.0) -> bytes:
        """Run ``rbd``; answers in JSON must be asked for."""
        return await self._run("rbd", *words, deadline_s=deadline_s)

    async def rados(self, pool: str, *words: str) -> bytes:
        """Run ``rados`` in a pool."""
        return await self._run("rados", "--pool", pool, *words)

    async def _run(self, program: str, *words: str, deadline_s: float = 0.0) -> bytes:
        """Run to the end.

        Raises:
            CephFailed: it ended with an error.
            BlixardError: STORAGE_UNAVAILABLE: program or files are absent, or the deadline passed.
        """
        config = self._config
        for path in (config.conf, config.keyring):
            if not os.path.exists(path):
                raise BlixardError(
                    "STORAGE_UNAVAILABLE",
                    f"{path} is not there",
                    hint="storage.ceph in the node's configuration says where Ceph's files are",
                )
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
