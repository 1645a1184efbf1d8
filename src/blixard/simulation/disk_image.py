"""A host's disk as it outlives the processes: what it holds, how much, and how ill it is."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from functools import lru_cache

from blixard.simulation.damage import Trouble
from blixard.simulation.inodes import DirectoryNode, FileNode, Node
from blixard.simulation.process import Process

DEFAULT_CAPACITY = 1 << 30
_SLOW_SYNC = 0.01
_PATHS = 256  # remembered, for the same ones are looked up again and again


class DiskImage:
    """What outlives the processes of a host."""

    def __init__(self, generator: random.Random, *, capacity: int = DEFAULT_CAPACITY) -> None:
        self.root = DirectoryNode()
        self.generator = generator
        self.capacity = capacity
        self.full = False
        self.trouble: Trouble | None = None
        self.hurt = False  # it has failed, lied or lost something: its node may stop
        self.cut_short = 0  # reads and writes that moved fewer bytes than they were asked for
        self.sync_failed_in: Process | None = None  # whose sync of a log failed last
        self.stalled_until_ns = 0
        self.sync_mean_s = 0.0005
        self.slow_sync_s = 0.05
        self.used = 0
        self.on_sync: Callable[[int, int], None] = lambda _size, _checksum: None
        self.tap: Callable[[str, str], None] | None = None  # told of each step: (what, path)

    def crash(self) -> None:
        """The host lost power: only what is durable, and what luck kept, remains."""
        self.root.crash(self.generator)
        self.used = sum(len(node.current) for _, node in self.files())
        self.stalled_until_ns = 0

    def replace(self) -> DiskImage:
        """An empty disk takes the place of this one; return that one."""
        lost = DiskImage(self.generator)
        lost.root, lost.hurt = self.root, self.hurt
        self.root = DirectoryNode()
        self.used = 0
        self.trouble = None
        self.full = self.hurt = False
        return lost

    @property
    def no_room(self) -> bool:
        """Whether writes may fail for want of room."""
        return self.full or (self.trouble is not None and self.trouble.room_bytes >= 0)

    def heal(self) -> None:
        """What it does from now on is right; what it holds stays as it is."""
        self.trouble = None
        self.full = False
        self.stalled_until_ns = 0

    def fails(self, chance: float) -> bool:
        """Draw whether a troubled disk fails now, and remember that it did."""
        if chance and self.generator.random() < chance:
            self.hurt = True
            return True
        return False

    def moves(self, length: int) -> int:
        """Draw how many bytes one call moves that was asked for *length*; fewer is no failure."""
        chance = self.trouble.short if self.trouble is not None else 0.0
        if length > 1 and chance and self.generator.random() < chance:
            self.cut_short += 1
            return self.generator.randint(1, length - 1)
        return length

    def lose_unsynced(self) -> None:
        """Keep nothing that was not synced: a crash right after it has no luck to hand out."""
        self.root.lose_unsynced()

    def files(self) -> list[tuple[str, FileNode]]:
        """Return all files by path."""
        return _walk("", self.root)

    def find(self, path: str) -> Node | None:
        """Return what stands at *path*."""
        node: Node = self.root
        for part in path_parts(path):
            if not isinstance(node, DirectoryNode) or part not in node.current:
                return None
            node = node.current[part]
        return node

    def directory(self, path: str) -> DirectoryNode:
        """Return a directory. Raises FileNotFoundError."""
        node = self.find(path)
        if not isinstance(node, DirectoryNode):
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        return node

    def latency_s(self, now_ns: int) -> float:
        """Draw how long a sync takes that begins now."""
        draw = self.generator.random
        delay = self.sync_mean_s * (0.5 + draw())
        if draw() < _SLOW_SYNC:
            delay += self.slow_sync_s * draw()
        return delay + max(0, self.stalled_until_ns - now_ns) / 1e9

    def take_room(self, growth: int) -> None:
        """Account for *growth* bytes. Raises OSError ENOSPC."""
        if growth > 0 and self.trouble is not None and self.trouble.room_bytes >= 0:
            self.trouble.take_room(growth)
        if growth > 0 and (self.full or self.used + growth > self.capacity):
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self.used += growth


@lru_cache(_PATHS)
def path_parts(path: str) -> tuple[str, ...]:
    """Return the names on the way to *path*."""
    return tuple(part for part in path.split("/") if part not in ("", "."))


def split_path(path: str) -> tuple[str, str]:
    """Return the path of the directory and the name in it."""
    parts = path_parts(path)
    return "/".join(parts[:-1]), parts[-1]


def _walk(prefix: str, directory: DirectoryNode) -> list[tuple[str, FileNode]]:
    found: list[tuple[str, FileNode]] = []
    for name in sorted(directory.current):
        node = directory.current[name]
        if isinstance(node, FileNode):
            found.append((prefix + name, node))
        else:
            found.extend(_walk(f"{prefix}{name}/", node))
    return found
