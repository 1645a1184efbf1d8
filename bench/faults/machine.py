"""A real daemon with its own disk and network, and the hands that hurt and heal it."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable

from cluster import Node, run
from powercut import Disk

RULES = {  # In the table of the target's namespace; the other's address is %s.
    "cut": ("in saddr %s drop", "out daddr %s drop"),
    "cut inwards": ("in saddr %s drop",),
    "cut outwards": ("out daddr %s drop",),
    "cut from one": ("in saddr %s drop", "out daddr %s drop"),
    "loss": ("in saddr %s numgen random mod 100 < 30 drop",),
}


class Machine:
    """A node with its disk, and the hands that hurt and heal it."""

    def __init__(self, node: Node, disk: Disk) -> None:
        self.node, self.disk = node, disk
        self.up = False
        self.frozen = self.stopped = False
        self.log_from = 0
        self.said: list[str] = []
        self.filler = disk.place / "filler"

    @property
    def whole(self) -> bool:
        """Whether it runs with a disk that works."""
        return self.up and not self.frozen and not self.stopped

    def start(self) -> None:
        self.node.start()
        self.up = True

    def kill(self) -> None:
        self.thaw()
        self.up = False
        self.node.kill()
        self.node.kill_guard()

    def lose_power(self) -> Callable[[], None]:
        """End power; return what takes the disk's image and starts again."""
        self.thaw()
        self.up = False
        self.fatal_lines()
        self.disk.cut()  # a daemon that meets the dead disk before its end may say so
        self.kill()
        self.log_from = (self.node.place / "log").stat().st_size

        def restore() -> None:
            self.disk.take_copy()
            self.disk.mount()
            self.empty()
            self.start()

        return restore

    def stop(self) -> None:
        self.node.pause()
        self.stopped = True

    def resume(self) -> None:
        if self.stopped:
            self.node.resume()
        self.stopped = False

    def freeze(self) -> None:
        run("fsfreeze", "--freeze", str(self.disk.place))
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            run("fsfreeze", "--unfreeze", str(self.disk.place))
        self.frozen = False

    def fill(self) -> None:
        """Take all that is left on the file system."""
        handle = os.open(self.filler, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            free = os.fstatvfs(handle).f_bavail * os.fstatvfs(handle).f_frsize
            while free >= 4096:
                with contextlib.suppress(OSError):  # metadata needs blocks too: try with less
                    os.posix_fallocate(handle, os.fstat(handle).st_size, free)
                free = free // 2 // 4096 * 4096
        finally:
            os.close(handle)

    def empty(self) -> None:
        self.filler.unlink(missing_ok=True)

    def restart_full(self) -> None:
        """Kill it, and start it on a disk that has no room."""
        self.kill()
        self.fill()
        self.start()

    def cut(self, kind: str, addresses: list[str]) -> None:
        self._nft("add table inet chaos")
        self._nft("add chain inet chaos in { type filter hook input priority 0; }")
        self._nft("add chain inet chaos out { type filter hook output priority 0; }")
        for rule, address in itertools.product(RULES[kind], addresses):
            chain, words = (rule % address).split(" ", 1)
            self._nft(f"add rule inet chaos {chain} ip {words}")

    def connect(self) -> None:
        self._nft("add table inet chaos")
        self._nft("delete table inet chaos")

    def _nft(self, words: str) -> None:
        run(*self.node.inside("nft", words))

    def heal(self) -> None:
        """Undo whatever was done, and start the daemon if it is down."""
        self.thaw()
        self.resume()
        self.connect()
        self.empty()
        if not self.up:
            self.start()

    def fatal_lines(self) -> list[str]:
        """Return what the daemon said so far that it says only at its own fault."""
        data = (self.node.place / "log").read_bytes()
        for line in data[self.log_from :].decode(errors="replace").splitlines():
            if '"level":"critical"' in line or line.startswith("Traceback"):
                self.said.append(f"{self.node.name}: {line[:400]}")
        self.log_from = len(data)
        return self.said
