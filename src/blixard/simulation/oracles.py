"""What must hold in every run; each broken promise is named once, with the time and the hosts."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from blixard.ports.hypervisor import Invocation, LaunchPlan
from blixard.simulation.arrivals import Arrivals
from blixard.simulation.call_rules import CallRules
from blixard.simulation.capacity import Capacity
from blixard.simulation.contents import Contents
from blixard.simulation.durable import DurableLog, Entry
from blixard.simulation.effects import Effects
from blixard.simulation.guest_processes import Observer
from blixard.simulation.guest_runs import GuestRuns
from blixard.simulation.guest_state import GuestState
from blixard.simulation.stops import Stops
from blixard.simulation.stored import Stored

MAX_VIOLATIONS = 20
_CHANGE_IS_RECENT = 50
_KEPT = 50_000


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
        self.disk_of: Callable[[int], DurableLog | None] = lambda _raft_id: None
        self.seen: dict[str, int] = {}  # what happened at all, and how often
        self._leaders: dict[int, int] = {}
        self._entries: dict[int, Entry] = {}
        self.hashes: dict[int, bytes] = {}
        self._confs: dict[int, tuple[str, int]] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._applied: dict[int, int] = {}
        self._promised: dict[int, int] = {}  # raft id -> last durable entry before its start
        self._highest = self._bytes = 0
        self._voters: list[tuple[int, tuple[int, ...]]] = []  # since which index, who
        self.effects = Effects(self.fail)
        self.contents = Contents(self.fail)
        self.stops = Stops(self.fail, self._now_ns)
        self.capacity = Capacity(self.fail, self.stops.seen_by)
        self.under_load: Callable[[], bool] = lambda: False
        self.under_fault: Callable[[], bool] = lambda: False
        self.guest_runs = GuestRuns(self._now_ns)
        self.arrivals = Arrivals(self.fail, self._now_ns)
        self.stored: Stored | None = None
        self.calls = CallRules(self.fail, self.happened)

    def _now_ns(self) -> int:
        return self.now_ns()

    def fail(self, name: str, text: str) -> None:
        """Record a broken promise."""
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(f"{name} at {self.now_ns() / 1e9:.6f} s: {text}")
        self.on_violation()

    def happened(self, what: str) -> None:
        """Count something that has to happen in some runs, or the oracles see nothing."""
        self.seen[what] = self.seen.get(what, 0) + 1

    # consensus

    def role_changed(self, host: int, view: RaftView) -> None:
        """One leader per term, and it holds all that was committed before."""
        if view.role != "leader" or self._leaders.get(view.term) == host:
            return
        if self._leaders:
            self.happened("another leader")
            if self.under_load():
                self.happened("leader changed under load")
        other = self._leaders.setdefault(view.term, host)
        if other != host:
            self.fail("election safety", f"hosts {other} and {host} lead term {view.term}")
        if not self._highest or self._entries[self._highest][0] >= view.term:
            return
        if view.last_index < self._highest:
            self.fail(
                "leader completeness",
                f"host {host} leads term {view.term} with {view.last_index} entries, "
                f"{self._highest} were committed",
            )

    def voted(self, host: int, term: int, candidate: int) -> None:
        """A node votes once per term, and says so only when that is durable."""
        first = self._votes.setdefault((host, term), candidate)
        if first != candidate:
            self.fail("votes", f"host {host} votes for {first} and {candidate} in term {term}")
        disk = self.disk_of(host)
        if disk is None or disk.excused:
            return
        disk.refresh()
        if disk.went_back:
            self.fail("terms", f"the term on the disk of host {host} went back to {disk.term}")
        if (disk.term, disk.vote) != (term, candidate) and disk.term <= term:
            self.fail(
                "votes",
                f"host {host} votes for {candidate} in term {term}, its disk says "
                f"{disk.vote} in term {disk.term}",
            )

    def restarted(self, host: int) -> None:
        """A new incarnation applies from its snapshot on; its disk may have changed."""
        self._applied.pop(host, None)
        disk = self.disk_of(host)
        if disk is not None:
            disk.refresh()
            self._promised[host] = disk.last
            disk.forget()

    def recovered(self, host: int, last_index: int) -> None:
        """A start finds all that was durable, also on a damaged disk, or it is none."""
        promised = self._promised.pop(host, 0)
        if last_index < promised:
            self.fail("recovery", f"host {host} had {promised} entries, starts with {last_index}")

    def applied(self, host: int, index: int, term: int, data: bytes, state_hash: bytes) -> bool:
        """The same entry at each index, in order, with the same state after it.

        Returns whether this is the first application of the index anywhere.
        """
        last = self._applied.get(host, 0)
        if index <= last:
            self.fail("apply order", f"host {host} applies {index} after {last}")
        self._applied[host] = index
        entry = (term, zlib.crc32(data))
        if self._entries.setdefault(index, entry) != entry:
            self.fail("log matching", f"host {host} applies another entry at {index}")
        if self.hashes.setdefault(index, state_hash) != state_hash:
            self.fail("state hash", f"host {host} has another state at {index}")
        if index <= self._highest:
            return False
        self._highest = index
        self._bytes += len(data)
        self._committed(host, index, entry)
        if len(self._entries) > _KEPT:
            oldest = next(iter(self._entries))
            del self._entries[oldest]
            self.hashes.pop(oldest, None)
        return True

    def restored(self, host: int, state_hash: bytes, index: int) -> None:
        """A restored snapshot is the state that the entries before it lead to."""
        self._applied[host] = max(self._applied.get(host, 0), index)
        known = self.hashes.get(index)
        if known is not None and known != state_hash:
            self.fail("snapshot", f"host {host} restores another state at {index}")

    def members_at(self, host: int, index: int, conf: object, voters: tuple[int, ...]) -> None:
        """All nodes have the same members at the same index."""
        text = repr(conf)
        known, first = self._confs.setdefault(index, (text, host))
        if known != text:
            self.fail("members", f"at {index} host {first} has {known}, host {host} has {text}")
        if len(self._confs) > _KEPT:
            del self._confs[next(iter(self._confs))]
        newest = self._voters[-1] if self._voters else (0, ())
        if voters != newest[1] and index >= newest[0]:
            if self.under_fault():
                self.happened("members changed under a fault")
            self._voters = [*self._voters[-1:], (index, voters)]

    # durability

    def _committed(self, host: int, index: int, entry: Entry) -> None:
        """What is applied anywhere is durable on a majority."""
        groups = [v for since, v in self._voters if v]
        if len(groups) == 2 and self._voters[-1][0] + _CHANGE_IS_RECENT < index:
            del groups[0]
        for voters in groups:
            if self._held(index, entry, voters):
                return
        if groups:
            disks = {voter: self.disk_of(voter) for voter in groups[-1]}
            holders = [v for v, disk in disks.items() if disk and disk.holds(index, entry)]
            self.fail(
                "durability",
                f"host {host} applies {index}, durable on {holders} of {list(groups[-1])}",
            )

    def _held(self, index: int, entry: Entry, voters: tuple[int, ...]) -> bool:
        held, most = 0, len(voters) // 2
        for voter in voters:
            disk = self.disk_of(voter)
            if disk is None:
                return True
            if not disk.holds(index, entry):
                disk.refresh()
                if not disk.holds(index, entry):
                    continue
            held += 1
            if held > most:
                return True
        return False

    def acknowledged(self, index: int) -> None:
        """At the acknowledgement a majority still holds the write."""
        entry = self._entries.get(index)
        if entry is not None:
            self._committed(0, index, entry)

    @property
    def mean_entry_bytes(self) -> int:
        """How large the committed entries are on average."""
        return self._bytes // max(1, self._highest)

    def bounded(self, host: int, what: str, size: int, most: int) -> None:
        """Nothing grows beyond its bound."""
        if size > most:
            self.fail("bounds", f"host {host} has {size} {what}, at most {most}")

    # guests

    def started(self, host: int, plan: LaunchPlan) -> None:
        """No instance runs on two hosts at one instant."""
        self.effects.started(plan)
        self.arrivals.started(host, plan)
        for other in self.guest_runs.started(host, plan):
            self.fail(
                "double run",
                f"{plan.instance_uid} starts on host {host} (run {plan.run}, epoch "
                f"{plan.node_epoch}) while {other.text()}",
            )
        self.capacity.started(host, plan)
        if plan.disks and self.stored is not None:
            self.stored.started(host, plan)
        if plan.purpose == "function":
            self.calls.started(host, plan)

    def paused(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """The CPUs were stopped for a migration."""
        self.arrivals.paused(host, plan, state)

    def arrived(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """A guest that moved goes on as it was."""
        self.happened("guest moved")
        self.arrivals.arrived(host, plan, state)

    def stopped(self, host: int, plan: LaunchPlan, *, ailing: bool, by_guard: bool) -> None:
        """Nobody ends an instance that is healthy."""
        if by_guard:
            self.happened("killed by its guard")
        self.stops.stopped(host, plan, ailing=ailing, by_guard=by_guard)

    def call_began(self, host: int, plan: LaunchPlan, call: Invocation) -> None:
        """A guest serves one call at a time, each once, for the daemon that started it."""
        self.calls.began(host, plan, call.request_id)

    def call_ended(self, host: int, plan: LaunchPlan, request_id: str, status: str) -> None:
        """The guest is free, unless its handler ran on."""
        self.calls.ended(host, plan, request_id, status)

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """The instance runs there no longer."""
        self.guest_runs.ended(host, plan)
        self.capacity.ended(host, plan)
        if plan.disks and self.stored is not None:
            self.stored.ended(host, plan)
