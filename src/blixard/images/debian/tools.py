"""Runs Debian's tools: bounded, without a shell, with their last words in the error."""

from __future__ import annotations

import asyncio
import os
import shutil

from blixard.base.errors import BlixardError
from blixard.base.priority import come_last

LAST_LINES = 8
NICE = 15  # a build must not keep the daemon from renewing its leases
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Whoever starts a tool may be killed: then all of the tool's processes end as well.
_TIED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
_FULL = "No space left on device"


async def run(argv: list[str], *, timeout_s: float, cwd: str = "/", check: bool = True) -> str:
    """Return what the command printed on standard output.

    Raises:
        BlixardError: DISK_FULL, IMAGE_BUILD_FAILED with the last lines of its output.
    """
    environment = {
        "PATH": PATH,
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        # The build happens at a fixed time, so that like inputs give like images.
        "SOURCE_DATE_EPOCH": "1700000000",
        **{k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")},
    }
    if shutil.which(argv[0], path=PATH) is None:
        raise BlixardError(
            "IMAGE_BUILD_FAILED", f"{argv[0]} is not installed", hint=f"apt-get install {argv[0]}"
        )
    tied = _TIED if os.geteuid() == 0 else ()
    slow = ("nice", "-n", str(max(0, NICE - os.getpriority(os.PRIO_PROCESS, 0))))
    try:
        process = await asyncio.create_subprocess_exec(
            *(*tied, *slow, *argv),
            cwd=cwd,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            umask=0o022,
        )
    except FileNotFoundError as error:
        raise BlixardError(
            "IMAGE_BUILD_FAILED", f"{error.filename} is not installed: apt-get install util-linux"
        ) from error
    come_last(process.pid, NICE)
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except (TimeoutError, asyncio.CancelledError) as error:
        os.killpg(process.pid, 9)
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        raise BlixardError(
            "IMAGE_BUILD_FAILED", f"{argv[0]} did not end within {timeout_s:.0f} s"
        ) from error
    text = err.decode(errors="replace")
    if check and process.returncode != 0:
        said = (text or out.decode(errors="replace")).strip().splitlines()
        words = " | ".join(said[-LAST_LINES:])
        code = "DISK_FULL" if _FULL in words else "IMAGE_BUILD_FAILED"
        raise BlixardError(code, f"{argv[0]} failed: {words}")
    return out.decode(errors="replace")


def make_durable(directory: str) -> None:
    """Return once all files of a directory are on the disk: its new name must not outlive them."""
    for place, _, names in os.walk(directory):
        for name in [".", *names]:
            descriptor = os.open(os.path.join(place, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
