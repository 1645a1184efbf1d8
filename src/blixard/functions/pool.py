"""What a node does with its functions' instances: a pure machine, told of events, asked for acts.

A call is given an idle instance, or one is started for it, or it waits, bounded, or it is refused.
An instance serves one call at a time, and is given out again only after that call came to an end
that is known; one whose call timed out or whose guest fell silent is ended. Memory of an instance
counts from its start until its process is gone, also of processes that a daemon before left behind.
"""

from __future__ import annotations

from collections.abc import Callable

from blixard.functions.acts import Act, End, Instance, Refuse, Start, Waiting
from blixard.functions.figures import Figures
from blixard.functions.served import ServedFunction, to_end_for
from blixard.functions.spec import FunctionDuties, FunctionDuty, same_guest

WAITING_MAX = 1_000  # calls that wait for one function on one node
STARTS_MAX = 32  # guests that one node starts at a time


class NodePool:
    """All instances of all functions of a node."""

    def __init__(self, new_uid: Callable[[], str]) -> None:
        self._new_uid = new_uid
        self._functions: dict[str, ServedFunction] = {}
        self._of: dict[str, ServedFunction] = {}  # by instance uid
        self._left: dict[str, int] = {}  # what a daemon before left: MiB by instance uid
        self._starting = 0
        self._used_mib = 0
        self.memory_mib = 0
        self._acts: list[Act] = []

    # -- what happens --

    def leftover(self, instance_uid: str, memory_mib: int) -> None:
        """A process of a daemon before: nobody knows what it does, so it ends."""
        self._left[instance_uid] = memory_mib
        self._used_mib += memory_mib
        self._acts.append(End(instance_uid))

    def assign(self, duties: FunctionDuties) -> None:
        """Take the node's functions as they are now."""
        self.memory_mib = duties.memory_mib
        mine = {duty.uid: duty for duty in duties.functions}
        for uid, function in list(self._functions.items()):
            if uid not in mine and not function.dropped:
                self._drop(function)
        for uid, duty in mine.items():
            function = self._functions.setdefault(uid, ServedFunction(duty))
            function.take(duty)
            self._retire_old(function)
            while function.idle and function.count > duty.instances_max:
                self._end(function.idle[0])

    def _drop(self, function: ServedFunction) -> None:
        """The function is no longer this node's: what runs may end its call."""
        function.dropped = True
        self._refuse_all(function, "NOT_FOUND", "the function is gone from here")
        for instance in list(function.idle):
            self._end(instance)
        self._forget_empty(function)

    def _forget_empty(self, function: ServedFunction) -> None:
        if function.dropped and not function.alive:
            self._functions.pop(function.duty.uid, None)

    def _refuse_all(self, function: ServedFunction, code: str, reason: str) -> None:
        for waiting in function.waiting:
            self._refuse(waiting, code, reason)
        function.keep_waiting(lambda _waiting: False)

    def _served(self, function_uid: str) -> ServedFunction | None:
        function = self._functions.get(function_uid)
        return None if function is None or function.dropped else function

    def stop(self) -> None:
        """Serve nothing more: every guest ends, busy ones too."""
        for function in list(self._functions.values()):
            if not function.dropped:
                self._drop(function)
        for uid in list(self._of):
            self.broken(uid)

    def prepared(self, duty: FunctionDuty) -> None:
        """The guest of this generation is built and its source is here."""
        function = self._functions.get(duty.uid)
        if function is not None and same_guest(function.duty, duty):
            function.ready, function.message = function.duty, ""
            self._retire_old(function)

    def not_prepared(self, duty: FunctionDuty, message: str) -> None:
        """It is not, for this reason; an older generation serves on."""
        function = self._functions.get(duty.uid)
        if function is not None:
            function.message = message

    def call(self, function_uid: str, waiting: Waiting, now_s: float) -> None:
        """A call arrives; what becomes of it is said by :meth:`acts`."""
        function = self._served(function_uid)
        if function is None:
            self._refuse(waiting, "NOT_FOUND", "the function is not served here")
            return
        function.calls += 1
        if not waiting.patient and len(function.waiting) >= function.soon(self.free_mib, now_s):
            self._refuse(
                waiting, "FUNCTION_THROTTLED", function.why(self._used_mib, self.memory_mib)
            )
        elif len(function.waiting) >= WAITING_MAX:
            self._refuse(waiting, "FUNCTION_THROTTLED", f"{WAITING_MAX} calls wait already")
        else:
            function.waiting.append(waiting)
            function.expires_s = min(function.expires_s, waiting.until_s)

    def cancel(self, function_uid: str, ticket: int) -> None:
        """Nobody waits for that call any more."""
        function = self._functions.get(function_uid)
        if function is not None:
            function.keep_waiting(lambda waiting: waiting.ticket != ticket)

    def started(self, instance_uid: str, now_s: float) -> None:
        """The guest runs and has its code."""
        function = self._of[instance_uid]
        instance = function.alive[instance_uid]
        if instance.state == "starting":
            function.forgive()
            function.cold += 1
            self._left_start(function)
            self._rest(function, instance, now_s)

    def start_failed(self, instance_uid: str, code: str, message: str, now_s: float) -> None:
        """It does not; code that cannot be loaded fails the calls that wait for it."""
        function = self._of[instance_uid]
        if function.alive[instance_uid].state != "starting":
            return
        self._left_start(function)
        self._end(function.alive[instance_uid])
        function.start_failed(message, now_s)
        if code == "FUNCTION_LOAD_FAILED":
            self._refuse_all(function, code, message)

    def freed(self, instance_uid: str, now_s: float) -> None:
        """Its call has ended, and it answered; its process may be gone since."""
        function = self._of.get(instance_uid)
        instance = function.alive[instance_uid] if function is not None else None
        if function is not None and instance is not None and instance.state == "busy":
            function.busy -= 1
            instance.served += 1
            self._rest(function, instance, now_s)

    def broken(self, instance_uid: str) -> None:
        """Its call timed out, was given up, or its guest is silent: it is not used again."""
        function = self._of.get(instance_uid)
        instance = function.alive.get(instance_uid) if function is not None else None
        if function is None or instance is None or instance.state == "ending":
            return
        if instance.state == "busy":
            function.busy -= 1
        elif instance.state == "starting":
            self._left_start(function)
        self._end(instance)

    def gone(self, instance_uid: str) -> None:
        """Its process is no more: its memory is free."""
        left = self._left.pop(instance_uid, None)
        function = self._of.pop(instance_uid, None)
        if left is not None:
            self._used_mib -= left
        if function is not None:
            self._used_mib -= function.alive.pop(instance_uid).duty.memory_mib
            self._forget_empty(function)

    # -- what is to be done --

    def acts(self, now_s: float, *, may_start: bool = True) -> list[Act]:
        """Return what is to be done now; *may_start*: the node holds its lease."""
        for function in self._functions.values():
            if not function.dropped:
                self._serve(function, now_s, may_start=may_start)
        acts, self._acts = self._acts, []
        return acts

    def next_s(self, now_s: float) -> float | None:
        """Return when time alone changes something, None: never."""
        times = []
        for function in self._functions.values():
            if function.waiting:
                times.append(function.expires_s)
            if function.not_before_s > now_s and (function.waiting or function.duty.min_warm):
                times.append(function.not_before_s)
            if len(function.idle) > function.kept:
                times.append(function.idle[0].since_s + function.duty.idle_s)
        return min(times, default=None)

    def figures(self, now_s: float) -> list[Figures]:
        """Return a line for each function."""
        return [f.figures(self.free_mib, now_s) for f in self._functions.values() if not f.dropped]

    def figures_of(self, function_uid: str, now_s: float) -> Figures | None:
        """Return the line of one function, None if it is not served here."""
        function = self._served(function_uid)
        return function.figures(self.free_mib, now_s) if function is not None else None

    def is_ready_for(self, function_uid: str, generation: int) -> bool:
        """Tell whether calls get at least that generation of the code."""
        function = self._served(function_uid)
        ready = function.ready if function is not None else None
        return ready is not None and ready.generation >= generation

    def duty(self, function_uid: str) -> FunctionDuty | None:
        """Return the newest duty."""
        function = self._served(function_uid)
        return function.duty if function is not None else None

    def has(self, instance_uid: str) -> bool:
        """Tell whether the process is one of a function."""
        return instance_uid in self._of or instance_uid in self._left

    @property
    def used_mib(self) -> int:
        """The memory of all processes, those that end included."""
        return self._used_mib

    @property
    def free_mib(self) -> int:
        """The memory that instances may still take; negative after the share shrank."""
        return self.memory_mib - self._used_mib

    # -- inside --

    def _refuse(self, waiting: Waiting, code: str, reason: str) -> None:
        self._acts.append(Refuse(waiting.ticket, code, reason))

    def _serve(self, function: ServedFunction, now_s: float, *, may_start: bool) -> None:
        while function.waiting and function.idle:
            self._acts.append(function.give(now_s))
        if function.waiting:
            self._expire(function, now_s)
        if may_start:
            self._start_wanted(function, now_s)
        self._retire_idle(function, now_s)

    def _expire(self, function: ServedFunction, now_s: float) -> None:
        if function.expires_s > now_s:
            return
        code = "FUNCTION_THROTTLED" if function.ready is not None else "FUNCTION_NOT_READY"
        for waiting in function.waiting:
            if waiting.until_s <= now_s:
                self._refuse(waiting, code, function.why(self._used_mib, self.memory_mib))
        function.keep_waiting(lambda waiting: waiting.until_s > now_s)

    def _start_wanted(self, function: ServedFunction, now_s: float) -> None:
        kept = max(0, function.duty.min_warm - len(function.idle) - function.busy)
        wanted = max(len(function.waiting), kept) - function.starting
        if wanted <= 0 or function.ready is None:
            return
        room = function.room(self.free_mib, now_s)
        if wanted > room and function.waiting:
            for idle in to_end_for(function, list(self._functions.values()), wanted - room):
                self._end(idle)
        for _ in range(min(wanted, room, STARTS_MAX - self._starting)):
            instance = Instance(self._new_uid(), function.ready, "starting", now_s)
            function.begin(instance)
            self._starting += 1
            self._used_mib += instance.duty.memory_mib
            self._of[instance.uid] = function
            self._acts.append(Start(instance))

    def _retire_idle(self, function: ServedFunction, now_s: float) -> None:
        while len(function.idle) > function.kept:
            if function.idle[0].since_s + function.duty.idle_s > now_s:
                return
            self._end(function.idle[0])

    def _retire_old(self, function: ServedFunction) -> None:
        """End idle instances of an earlier code, once the newer one can be started."""
        for instance in list(function.idle):
            if not function.is_current(instance):
                self._end(instance)

    def _rest(self, function: ServedFunction, instance: Instance, now_s: float) -> None:
        instance.state, instance.since_s = "idle", now_s
        function.idle.append(instance)
        over = function.count > function.duty.instances_max
        if function.dropped or over or not function.is_current(instance):
            self._end(instance)

    def _end(self, instance: Instance) -> None:
        function = self._of[instance.uid]
        if instance in function.idle:
            function.idle.remove(instance)
        instance.state = "ending"
        self._acts.append(End(instance.uid))

    def _left_start(self, function: ServedFunction) -> None:
        function.starting -= 1
        self._starting -= 1
