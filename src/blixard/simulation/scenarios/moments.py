"""Named moments in the life of a node, at which a scenario may act: at its disk, and in its loop.

The moments of a disk are steps on a file, seen at the port; those of the loop stand before and
after a method of one running :class:`RaftNode`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from blixard.consensus.node import RaftNode
from blixard.consensus.snapshots import SnapshotMeta
from blixard.simulation.process import PROCESS, ProcessExitError
from blixard.simulation.world import Host

DISK_STEPS = (
    "write", "written", "sync", "synced", "rename", "renamed", "unlink", "unlinked", "sync_dir",
    "synced_dir",
)  # fmt: skip
LOOP_STEPS = ("apply", "applied one", "applied", "install", "installed", "load", "loaded")
LOG, SNAPSHOT, ASIDE = ".log", ".snap", ".tmp"
LOG_NAMES, SNAPSHOT_NAMES = "raft/log", "raft/snap"


class Moment(msgspec.Struct, frozen=True):
    """A step, on a path with this end if it is one of a disk; ``nth``: the first one is 1."""

    step: str
    path: str = ""
    nth: int = 1

    def text(self) -> str:
        """Return how counters name it."""
        return f"{self.step} {self.path}".strip()


class Trap:
    """Waits for one moment on one host, acts once, and ends the process if that killed it."""

    def __init__(self, moment: Moment, action: Callable[[], None]) -> None:
        assert moment.step in (*DISK_STEPS, *LOOP_STEPS), moment.step
        self._moment = moment
        self._action = action
        self._left = moment.nth
        self.sprung = False

    def step(self, what: str, path: str) -> None:
        """Look whether this is the moment."""
        if self.sprung or what != self._moment.step or not path.endswith(self._moment.path):
            return
        self._left -= 1
        if self._left:
            return
        self.sprung = True
        self._action()
        process = PROCESS.get()
        if not process.alive:
            raise ProcessExitError(f"killed at: {self._moment.text()}")


class Moments:
    """The traps of one host: an image and its nodes tell of every step."""

    def __init__(self, host: Host) -> None:
        self._traps: list[Trap] = []
        host.image.tap = self._step

    def add(self, trap: Trap) -> None:
        """Wait for one more moment."""
        self._traps = [old for old in self._traps if not old.sprung]
        self._traps.append(trap)

    def clear(self) -> None:
        """Wait for nothing any more."""
        self._traps.clear()

    def _step(self, what: str, path: str) -> None:
        for trap in list(self._traps):
            trap.step(what, path)

    def follow(self, raft: RaftNode) -> None:
        """Tell of the steps of a node's loop too."""
        apply, record, load = raft._apply, raft._states.add, raft._load
        install = raft._receiver._install
        last = 0

        def applying(committed: list[Any]) -> None:
            nonlocal last
            self._step("apply", "")
            last = committed[-1][0]
            apply(committed)
            last = 0
            self._step("applied", "")

        def recording(index: int, state_hash: bytes) -> None:
            record(index, state_hash)
            if index < last:
                self._step("applied one", "")

        def installing(message: bytes) -> None:
            self._step("install", "")
            install(message)
            self._step("installed", "")

        def loading(meta: SnapshotMeta, payload: bytes) -> None:
            self._step("load", "")
            load(meta, payload)
            self._step("loaded", "")

        raft._apply = applying  # type: ignore[method-assign]
        raft._states.add = recording  # type: ignore[method-assign]
        raft._receiver._install = installing
        raft._load = loading  # type: ignore[method-assign]
