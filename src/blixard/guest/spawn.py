"""Starts processes without ``subprocess``: an emulated guest needs half a second to import it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Action = tuple[Any, ...]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME = "/root"
IGNORED = (13, 25)  # SIGPIPE, SIGXFSZ: Python ignores them, what it starts must not


class Child:
    """A process that was started; whoever waits for it sets *returncode*."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None


def spawn(command: list[str], env: dict[str, str], actions: Sequence[Action], folder: str) -> Child:
    """Start *command* in a session of its own, in *folder*, after the file *actions*.

    Raises OSError, ValueError.
    """
    if not command:
        raise ValueError("the command is empty")
    # One thread: nobody else sees the change of folder.
    os.chdir(folder)
    try:
        return Child(_started(command, env, actions))
    finally:
        os.chdir("/")


def joined(stdout: int, stderr: int) -> tuple[Action, Action]:
    """Return the file actions that make these descriptors the standard ones."""
    return (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2)


def _started(command: list[str], env: dict[str, str], actions: Sequence[Action]) -> int:
    name = command[0]
    folders = [""] if "/" in name else env.get("PATH", PATH).split(":")
    failed = OSError(2, os.strerror(2), name)
    for place in folders:
        try:
            return os.posix_spawn(
                os.path.join(place, name) if place else name,
                command,
                env,
                file_actions=actions,
                setsid=True,
                setsigdef=IGNORED,
            )
        except OSError as error:
            # As shells do: what cannot be run is told only if nothing later can.
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                failed = OSError(error.errno, error.strerror, name)
    raise failed
