"""What must hold in every run; each broken promise is named once, with the time and the hosts."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.disk import DirectoryNode, DiskImage, FileNode
from blixard.simulation.effects import Effects
from blixard.simulation.hypervisor import Observer
from blixard.simulation.votes import record_of

MAX_VIOLATIONS = 20
_TAIL_BYTES = 65_536


class RaftView(Protocol):
    """What the oracles look at in a Raft node."""

    @property
    def role(self) -> str:
        """Its role now."""

    @property
    def term(self) -> int:
        """Its term now."""

    @property
    def last_index(self) -> int:
        """The last entry of the log."""


class Oracles(Observer):
    """Collects what the nodes do, and objects."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.now_ns: Callable[[], int] = lambda: 0
        self.on_violation: Callable[[], None] = lambda: None
        self._leaders: dict[int, int] = {}
        self._entries: dict[int, tuple[int, int]] = {}
        self._hashes: dict[int, bytes] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._applied: dict[int, int] = {}
        self._committed: dict[int, int] = {}  # term -> highest index applied anywhere
        self._running: dict[str, dict[int, LaunchPlan]] = {}
        self.effects = Effects(self.fail)
        self.runs = 0

    def fail(self, name: str, text: str) -> None:
        """Record a broken promise."""
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(f"{name} at {self.now_ns() / 1e9:.6f} s: {text}")
        self.on_violation()

    # consensus

    def role_changed(self, host: int, view: RaftView) -> None:
        """One leader per term, and it holds all that was committed before."""
        if view.role != "leader" or self._leaders.get(view.term) == host:
            return
        other = self._leaders.setdefault(view.term, host)
        if other != host:
            self.fail("election safety", f"hosts {other} and {host} lead term {view.term}")
        before = [index for term, index in self._committed.items() if term < view.term]
        if before and view.last_index < max(before):
            self.fail(
                "leader completeness",
                f"host {host} leads term {view.term} with {view.last_index} entries, "
                f"{max(before)} were committed",
            )

    def voted(self, host: int, term: int, candidate: int, image: DiskImage) -> None:
        """A node votes once per term, and says so only when that is durable."""
        first = self._votes.setdefault((host, term), candidate)
        if first != candidate:
            self.fail("votes", f"host {host} votes for {first} and {candidate} in term {term}")
        if not _holds(image, record_of(term, candidate)):
            self.fail("votes", f"host {host} sends a vote of term {term} that is not durable")

    def restarted(self, host: int) -> None:
        """A new incarnation applies from its snapshot on."""
        self._applied.pop(host, None)

    def applied(self, host: int, index: int, term: int, data: bytes, state_hash: bytes) -> None:
        """The same entry at each index, in order, with the same state after it."""
        last = self._applied.get(host, 0)
        if index <= last:
            self.fail("apply order", f"host {host} applies {index} after {last}")
        self._applied[host] = index
        entry = (term, zlib.crc32(data))
        if self._entries.setdefault(index, entry) != entry:
            self.fail("log matching", f"host {host} applies another entry at {index}")
        if self._hashes.setdefault(index, state_hash) != state_hash:
            self.fail("state hash", f"host {host} has another state at {index}")
        if self._committed.get(term, 0) < index:
            self._committed[term] = index

    def restored(self, host: int, state_hash: bytes, index: int) -> None:
        """A snapshot is the state that the entries before it lead to."""
        if self._hashes.setdefault(index, state_hash) != state_hash:
            self.fail("snapshot", f"host {host} restores another state at {index}")

    # writes

    def acknowledged(self, token: bytes, groups: list[list[DiskImage]]) -> None:
        """At the acknowledgement a majority of one of the groups holds the write durably."""
        held = [(sum(_holds(image, token) for image in group), len(group)) for group in groups]
        if all(holders <= size // 2 for holders, size in held):
            said = " or ".join(f"{holders} of {size}" for holders, size in held)
            self.fail("durability", f"{token!r} acknowledged with {said} durable")

    # guests

    def started(self, host: int, plan: LaunchPlan) -> None:
        """No instance runs on two hosts at one instant."""
        self.runs += 1
        self.effects.started(plan)
        running = self._running.setdefault(plan.instance_uid, {})
        for other in sorted(running):
            if other != host:
                self.fail(
                    "double run",
                    f"{plan.instance_uid} starts on host {host} (run {plan.run}, epoch "
                    f"{plan.node_epoch}) while it runs on host {other} (run {running[other].run}, "
                    f"epoch {running[other].node_epoch})",
                )
        running[host] = plan

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """The instance runs there no longer."""
        self._running.get(plan.instance_uid, {}).pop(host, None)


def _holds(image: DiskImage, token: bytes) -> bool:
    files = _durable_files(image.root)
    if any(file.durable.rfind(token, max(0, len(file.durable) - _TAIL_BYTES)) >= 0
           for file in files):  # fmt: skip
        return True
    return any(token in file.durable for file in files)


def _durable_files(directory: DirectoryNode) -> list[FileNode]:
    found: list[FileNode] = []
    for name in sorted(directory.durable):
        node = directory.durable[name]
        if isinstance(node, FileNode):
            found.append(node)
        else:
            found.extend(_durable_files(node))
    return found
