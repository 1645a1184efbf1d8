"""What goes wrong in a run, as plain data: drawn from the seed, kept in files, cut down to parts.

Each seed uses only some kinds of faults, with its own intensity. The budget keeps a plan within
what the design promises; leaving faults out of a plan never leaves the budget.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import msgspec

from blixard.base.errors import BlixardError

HOST_KINDS = ("crash", "kill", "pause", "freeze", "blackout", "suspend")
NETWORK_KINDS = (
    "partition", "one_way", "clog", "noise", "bridge", "swizzle", "flap", "lag", "reset", "replay",
)  # fmt: skip
DISK_KINDS = (
    "stall", "full", "little_room", "read_error", "write_error", "sync_error", "misdirect", "rot",
    "lost_disk", "short",
)  # fmt: skip
CLOCK_KINDS = ("wall_step", "wall_jump", "wall_freeze")
GUEST_KINDS = ("slow_boot", "guest_crash", "guest_hang", "kill_lost")
KINDS = (*HOST_KINDS, *NETWORK_KINDS, *DISK_KINDS, *CLOCK_KINDS, *GUEST_KINDS)
STOPS = (
    "crash", "kill", "freeze", "suspend", "pause", "read_error", "write_error", "sync_error",
    "short",
)  # fmt: skip
DAMAGES = ("sync_error", "misdirect", "rot", "lost_disk")  # what a node may have to be replaced for
MAX_FAULTS = 40
RESTART_MS = 2_000
_MAX_PLANNED = 1_000
_LAST_MS = 500


class Fault(msgspec.Struct, frozen=True):
    """One disturbance: when it begins, how long it lasts, whom it hits and how hard.

    Hosts are numbered from 1; ``strength`` is 0 to 1. What the hand draws itself, as the byte that
    rots, comes from ``salt``: the fault is the same with and without the others.
    """

    at_ms: int
    kind: str
    lasts_ms: int
    hosts: tuple[int, ...] = ()
    strength: float = 0.0
    salt: int = 0

    @property
    def end_ms(self) -> int:
        """When it ends."""
        return self.at_ms + self.lasts_ms


class Plan(msgspec.Struct, frozen=True):
    """All faults of a run, by time, and the end of the safety phase."""

    faults: tuple[Fault, ...]
    heal_at_ms: int

    def only(self, places: Iterable[int]) -> Plan:
        """Return the plan with the faults at these places alone."""
        kept = sorted(set(places))
        return Plan(tuple(self.faults[place] for place in kept), self.heal_at_ms)

    def to_json(self) -> bytes:
        """Return the plan as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @staticmethod
    def from_json(data: bytes, *, nodes: int) -> Plan:
        """Read a plan for *nodes* hosts.

        Raises:
            BlixardError: INVALID, saying what is wrong.
        """
        try:
            plan = msgspec.json.decode(data, type=Plan)
        except msgspec.MsgspecError as error:
            raise BlixardError("INVALID", f"the plan of faults: {error}") from error
        problem = _problem(plan, nodes)
        if problem:
            raise BlixardError("INVALID", f"the plan of faults: {problem}")
        return plan


def _problem(plan: Plan, nodes: int) -> str:
    """Return what makes a plan impossible to carry out; empty if nothing does."""
    if len(plan.faults) > _MAX_PLANNED:
        return f"{len(plan.faults)} faults, at most {_MAX_PLANNED}"
    for place, fault in enumerate(plan.faults):
        if fault.kind not in KINDS:
            return f"fault {place}: there is no kind {fault.kind!r}"
        if fault.at_ms < 0 or fault.lasts_ms < 0 or not 0 <= fault.strength <= 1:
            return f"fault {place}: at_ms, lasts_ms or strength is out of range"
        if not all(1 <= host <= nodes for host in fault.hosts):
            return f"fault {place}: there are hosts 1 to {nodes}"
        if len(fault.hosts) < _HOSTS.get(fault.kind, 1):
            return f"fault {place}: {fault.kind} needs {_HOSTS.get(fault.kind, 1)} hosts"
    return ""


_HOSTS = {"noise": 0, "blackout": 0, "replay": 0, "clog": 2, "flap": 2, "reset": 2}


def draw_plan(generator: random.Random, *, nodes: int, begin_ms: int, heal_at_ms: int) -> Plan:
    """Draw which kinds occur, how often, and each fault."""
    share = generator.choice((0.15, 0.3, 0.5))
    kinds = [kind for kind in KINDS if generator.random() < share] or ["crash"]
    mean_gap_ms = generator.choice((1_000, 2_500, 6_000))
    faults: list[Fault] = []
    at_ms = float(begin_ms)
    while len(faults) < MAX_FAULTS:
        at_ms += generator.expovariate(1 / mean_gap_ms)
        if at_ms >= heal_at_ms - _LAST_MS:
            break
        faults.append(_draw_fault(generator, generator.choice(kinds), int(at_ms), nodes))
    return Plan(tuple(within_budget(faults, nodes)), heal_at_ms)


def _draw_fault(generator: random.Random, kind: str, at_ms: int, nodes: int) -> Fault:
    lasts_ms = int(generator.choice((200, 1_000, 3_000, 8_000)) * (0.5 + generator.random()))
    hosts = _WHOM.get(kind, _one)(generator, list(range(1, nodes + 1)))
    strength = round(generator.random(), 3)
    return Fault(at_ms, kind, lasts_ms, hosts, strength, generator.getrandbits(32))


def _one(generator: random.Random, numbers: list[int]) -> tuple[int, ...]:
    return (generator.choice(numbers),)


def _two(generator: random.Random, numbers: list[int]) -> tuple[int, ...]:
    return tuple(generator.sample(numbers, 2))


def _some(generator: random.Random, numbers: list[int]) -> tuple[int, ...]:
    return tuple(generator.sample(numbers, generator.randint(1, len(numbers) - 1)))


def _none(_generator: random.Random, _numbers: list[int]) -> tuple[int, ...]:
    return ()


_WHOM: dict[str, Callable[[random.Random, list[int]], tuple[int, ...]]] = {
    "partition": _some, "one_way": _some, "clog": _two, "noise": _none, "blackout": _none,
    "swizzle": _some, "flap": _two, "reset": _two, "replay": _none,
}  # fmt: skip


def within_budget(faults: list[Fault], nodes: int) -> list[Fault]:
    """Leave out what is beyond the promises of the design.

    Stops never take more than a minority at one time, and the disks of only a minority are ever
    damaged; those hosts count as stopped from the damage to the end.
    """
    most = (nodes - 1) // 2
    kept: list[Fault] = []
    damaged: set[int] = set()
    for fault in faults:
        if fault.kind in DAMAGES or fault.kind in STOPS:
            down = {
                host
                for other in kept
                if other.kind in STOPS and other.end_ms + RESTART_MS > fault.at_ms
                for host in other.hosts
            }
            if len(down | damaged | set(fault.hosts)) > most:
                continue
        if fault.kind in DAMAGES:
            damaged |= set(fault.hosts)
        kept.append(fault)
    return kept
