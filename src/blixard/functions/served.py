"""One function on a node: what the pool knows of it, and what follows from that alone; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from blixard.functions.acts import Give, Instance, Waiting
from blixard.functions.figures import Figures
from blixard.functions.spec import FunctionDuty, same_guest

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 30.0


class ServedFunction:
    """One function on this node: the calls that wait for it, and its instances by what they do."""

    def __init__(self, duty: FunctionDuty) -> None:
        self.duty = duty
        self.kept = _kept(duty)  # idle instances, however long nobody calls
        self.ready: FunctionDuty | None = None  # the newest whose guest is built
        self.message = ""
        self.waiting: deque[Waiting] = deque()
        self.idle: list[Instance] = []  # by how long; the newest is given out first
        self.alive: dict[str, Instance] = {}
        self.starting = self.busy = 0
        self.calls = self.cold = 0
        self.failures = 0
        self.not_before_s = 0.0
        self.dropped = False
        self.expires_s = inf  # not later than when the first call has waited long enough

    def keep_waiting(self, keep: Callable[[Waiting], bool]) -> None:
        """Let only those calls wait on."""
        self.waiting = deque(w for w in self.waiting if keep(w))
        self.expires_s = min((w.until_s for w in self.waiting), default=inf)

    @property
    def count(self) -> int:
        """How many instances it has that do not end."""
        return len(self.idle) + self.busy + self.starting

    def is_current(self, instance: Instance) -> bool:
        """Tell whether an instance has the newest code whose guest is built."""
        return self.ready is not None and same_guest(instance.duty, self.ready)

    def take(self, duty: FunctionDuty) -> None:
        """Be served as *duty* says, again if it was dropped."""
        if self.dropped:
            self.dropped, self.ready = False, None
        if self.ready is not None and same_guest(self.ready, duty):
            self.ready = duty
        if self.duty != duty:
            self.forgive()
        self.duty, self.kept = duty, _kept(duty)

    def begin(self, instance: Instance) -> None:
        """Count an instance that is to be started."""
        self.alive[instance.uid] = instance
        self.starting += 1

    def give(self, now_s: float) -> Give:
        """Give the newest idle instance to the call that waits longest."""
        instance = self.idle.pop()
        instance.state, instance.since_s = "busy", now_s
        self.busy += 1
        return Give(self.waiting.popleft().ticket, instance)

    def forgive(self) -> None:
        """A start succeeded, or another duty was given: earlier failures mean nothing."""
        self.failures, self.not_before_s, self.message = 0, 0.0, ""

    def start_failed(self, message: str, now_s: float) -> None:
        """Pause before the next start, longer after each failure in a row."""
        self.message = message
        if now_s < self.not_before_s:
            return  # one of many that began together: that is no failure more
        self.failures += 1
        pause_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self.failures - 1, 10))
        self.not_before_s = now_s + pause_s

    def room(self, free_mib: int, now_s: float) -> int:
        """Return how many more instances may start now."""
        if self.ready is None or now_s < self.not_before_s:
            return 0
        by_memory = free_mib // max(1, self.ready.memory_mib)
        return max(0, min(by_memory, self.duty.instances_max - len(self.alive)))

    def soon(self, free_mib: int, now_s: float) -> int:
        """Return for how many calls there is an instance, or one is about to be."""
        return len(self.idle) + self.starting + self.room(free_mib, now_s)

    def why(self, used_mib: int, memory_mib: int) -> str:
        """Return why a call has no instance; both: of all functions on the node."""
        if self.ready is None:
            return self.message or "its guest is being built"
        alive = len(self.alive)
        if self.message:
            return self.message
        if alive >= self.duty.instances_max:
            return f"all {alive} instances that this node may have are in use"
        return f"{used_mib} of {memory_mib} MiB for functions are in use on this node"

    def figures(self, free_mib: int, now_s: float) -> Figures:
        """Return its line."""
        return Figures(
            uid=self.duty.uid,
            generation=self.duty.generation,
            built=self.ready is not None,
            idle=len(self.idle),
            busy=self.busy,
            starting=self.starting,
            room=self.room(free_mib, now_s),
            waiting=len(self.waiting),
            calls=self.calls,
            cold=self.cold,
            message=self.message,
        )


def to_end_for(
    function: ServedFunction, all_functions: list[ServedFunction], wanted: int
) -> list[Instance]:
    """Return which idle instances of others make room for *wanted* more, the longest idle first.

    Empty, if memory is not what lacks.
    """
    if len(function.alive) >= function.duty.instances_max:
        return []
    ending = sum(i.state == "ending" for f in all_functions for i in f.alive.values())
    others = [
        instance
        for other in all_functions
        if other is not function
        for instance in other.idle[: max(0, len(other.idle) - other.kept)]
    ]
    others.sort(key=lambda instance: (instance.since_s, instance.uid))
    return others[: max(0, wanted - ending)]


def _kept(duty: FunctionDuty) -> int:
    return min(duty.min_warm, duty.instances_max)
