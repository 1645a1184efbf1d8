"""The hypervisors of a host as a world of their own: they outlive the daemon, not the host.

The guard's deadlines are enforced by the host's machine process on the host's clock, whatever the
daemon does.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import (
    Invocation,
    InvocationResult,
    LaunchPlan,
)
from blixard.simulation import guest_state
from blixard.simulation.calls import GuestFunction, Handled, check_loadable
from blixard.simulation.guest_disks import GuestDisk
from blixard.simulation.guest_processes import CRASHED, KILLED, SHUT_DOWN, Observer, SimInstance
from blixard.simulation.guest_state import GuestState
from blixard.simulation.process import Process

_FIRST_PID = 1000
BOOT_MEAN_S = 1.5
_ENDED_BY_DAEMON = (SHUT_DOWN, KILLED)


class GuestWorld:
    """What runs on one host, from boot to crash of the host."""

    def __init__(
        self,
        machine: Process,
        generator: random.Random,
        now_ns: Callable[[], int],
        observer: Observer,
    ) -> None:
        self.machine = machine
        self.instances: dict[str, SimInstance] = {}
        self.boot_mean_s = BOOT_MEAN_S
        self.boot_s: float | None = None  # exactly, from the spawn to the agent's first answer
        self.deaf = False
        self.ailing = False  # since a guest hung or was slow, until the host boots
        self.hung: list[str] = []
        self.guard_mean_s = 0.001
        self._random = generator
        self._now_ns = now_ns
        self._observer = observer
        self._pid = _FIRST_PID
        self.callbacks: list[Callable[[str], None]] = []
        self.daemon: Process | None = None
        # Lets a guest that begins to run use its disks: its plan, from when on, whether it is left
        # and whether it runs.
        self.use_disks: Callable[
            [LaunchPlan, int, Callable[[], bool], Callable[[], bool]], list[GuestDisk]
        ] = lambda *_: []

    def spawn(self, plan: LaunchPlan) -> SimInstance:
        """Make a process with stopped CPUs."""
        old = self.instances.get(plan.instance_uid)
        if old is not None and old.state != "exited":
            raise BlixardError("GUEST_START_FAILED", f"{plan.instance_uid} runs already")
        self._pid += 1
        birth = guest_state.birth_of(plan, self.machine.host, self._pid)
        instance = SimInstance(plan=plan, pid=self._pid, birth=birth)
        self.instances[plan.instance_uid] = instance
        return instance

    def heal(self) -> None:
        """Boots are quick, kills arrive, and guests answer."""
        self.boot_mean_s = BOOT_MEAN_S
        self.deaf = False
        self.hung.clear()

    def get(self, uid: str) -> SimInstance:
        """Return an instance. Raises BlixardError GUEST_UNREACHABLE."""
        if uid not in self.instances:
            raise BlixardError("GUEST_UNREACHABLE", f"there is no process of {uid}")
        return self.instances[uid]

    def run(self, uid: str) -> None:
        """Let the CPUs run."""
        instance = self.get(uid)
        now = self.boottime_ns()
        late = instance.deadline_ns is not None and now >= instance.deadline_ns
        if instance.state == "exited" or late:
            raise BlixardError("GUEST_START_FAILED", f"{uid} is gone or past its deadline")
        if instance.plan.incoming and not instance.boots_at_ns:
            raise BlixardError("GUEST_START_FAILED", f"{uid} waits for a state")
        if instance.state == "paused":
            instance.state, instance.ran = "running", True
            instance.since_ns = self._now_ns()
            if instance.arrived is not None:
                self._observer.arrived(self.machine.host, instance.plan, instance.arrived)
                instance.arrived = None
            boot_s = self.boot_s
            if boot_s is None:
                boot_s = self.boot_mean_s * (0.5 + self._random.random())
            instance.boots_at_ns = instance.boots_at_ns or self._now_ns() + int(boot_s * 1e9)
            self._observer.started(self.machine.host, instance.plan)
            self.machine.call_at_ns(instance.boots_at_ns, self._changed, uid)
            if instance.plan.disks and not instance.uses_disks:
                instance.uses_disks = True
                alive = functools.partial(self._is_left, instance)
                runs = functools.partial(self._runs, instance)
                instance.used = self.use_disks(instance.plan, instance.boots_at_ns, alive, runs)
            for disk in instance.used:
                disk.go_on()

    def _runs(self, instance: SimInstance) -> bool:
        return instance.state == "running"

    async def drain(self, uid: str, within_s: float) -> None:
        """Wait until what a guest that stands still has written is answered. Raises TimeoutError.

        One without disks has nothing under way.
        """
        for disk in self.get(uid).used:
            if not disk.writing:
                continue
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            disk.answered = functools.partial(_set, done)
            async with asyncio.timeout(within_s):
                await done

    def _is_left(self, instance: SimInstance) -> bool:
        return self.machine.alive and instance.state != "exited"

    def stop(self, uid: str) -> None:
        """Stop the CPUs."""
        instance = self.get(uid)
        if instance.state == "running":
            state = self.look(uid)
            instance.state, instance.ran_ns = "paused", state.ran_ns
            self._observer.ended(self.machine.host, instance.plan)
            self._observer.paused(self.machine.host, instance.plan, state)

    def look(self, uid: str) -> GuestState:
        """Return what a guest has in mind now. Raises BlixardError MIGRATION_FAILED."""
        instance, now_ns = self.get(uid), self._now_ns()
        if instance.state == "exited":
            raise BlixardError("MIGRATION_FAILED", f"{uid} has ended")
        more_ns = now_ns - instance.since_ns if instance.state == "running" else 0
        boots_in_ns = max(0, instance.boots_at_ns - now_ns)
        ran_ns = instance.ran_ns + more_ns
        return guest_state.state_at(instance.plan, instance.birth, ran_ns, boots_in_ns)

    def take(self, uid: str, state: GuestState) -> None:
        """Have a waiting process go on from a state. Raises BlixardError MIGRATION_FAILED."""
        instance = self.get(uid)
        if instance.state != "paused" or not instance.plan.incoming or instance.boots_at_ns:
            raise BlixardError("MIGRATION_FAILED", f"{uid} does not wait for a state")
        instance.birth, instance.ran_ns, instance.arrived = state.birth, state.ran_ns, state
        instance.boots_at_ns = max(1, self._now_ns() + state.boots_in_ns)

    def end(self, uid: str, *, code: int, by_guard: bool = False) -> None:
        """The process ends."""
        instance = self.instances.get(uid)
        if instance is None or instance.state == "exited":
            return
        ran = instance.state == "running"
        instance.state, instance.exit_code, instance.killed_by_guard = "exited", code, by_guard
        if instance.timer is not None:
            instance.timer.cancel()
        if instance.function is not None:
            instance.function.gone()
        if ran:
            host, plan = self.machine.host, instance.plan
            if by_guard or code in _ENDED_BY_DAEMON:
                self._observer.stopped(host, plan, ailing=self.ailing, by_guard=by_guard)
            self._observer.ended(host, plan)
        self._changed(uid)

    def load(self, uid: str, handler: str) -> None:
        """Give a guest that has booted a function. Raises BlixardError."""
        if not self.ready(uid):
            raise BlixardError("GUEST_UNREACHABLE", f"{uid} does not answer")
        check_loadable(handler)
        instance, host = self.instances[uid], self.machine.host
        instance.function = GuestFunction(host, instance.plan, handler, self._observer)

    def call(self, uid: str, call: Invocation, done: asyncio.Future[InvocationResult]) -> None:
        """Run a loaded function; a guest that does not answer leaves *done* as it is."""
        instance = self.instances.get(uid)
        function = instance.function if instance is not None else None
        if function is None or function.handler != call.handler or not self.ready(uid):
            return
        handled = function.begin(call, done)
        self.later(handled.seconds, self._handled, uid, function, call, handled)

    def _handled(
        self, uid: str, function: GuestFunction, call: Invocation, handled: Handled
    ) -> None:
        if handled.crashes:
            self.end(uid, code=CRASHED)
        elif uid not in self.hung:
            function.end(call, handled)

    def arm(self, uid: str, deadline_ns: int, epoch: int, seq: int) -> None:
        """Have the guard kill the instance at the deadline."""
        instance = self._heard(uid, seq)
        instance.guard_epoch = max(instance.guard_epoch, epoch)
        self.set_deadline(uid, deadline_ns)

    def disarm(self, uid: str, seq: int) -> None:
        """Have the guard forget the deadline."""
        instance = self._heard(uid, seq)
        instance.deadline_ns = None
        if instance.timer is not None:
            instance.timer.cancel()

    def _heard(self, uid: str, seq: int) -> SimInstance:
        """Return the instance that a word is about, unless the word is an older one."""
        instance = self.get(uid)
        late = instance.deadline_ns is not None and self.boottime_ns() >= instance.deadline_ns
        if instance.state == "exited" or late or not self.counts(instance, seq):
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"the guard refused word {seq} for {uid}")
        instance.guard_seq = seq
        return instance

    def counts(self, instance: SimInstance, seq: int) -> bool:
        """Tell whether a word is none that was overtaken."""
        return seq >= instance.guard_seq

    def answer(self, do: Callable[[], None], done: asyncio.Future[None]) -> None:
        """The guard reads a request: it does so too if the daemon that sent it is dead."""
        try:
            do()
        except BlixardError as error:
            if not done.done():
                done.set_exception(error)
            return
        if not done.done():
            done.set_result(None)

    def set_deadline(self, uid: str, deadline_ns: int) -> None:
        """Arm the guard, or move its deadline later."""
        instance = self.get(uid)
        if instance.state == "exited":
            return
        if instance.deadline_ns is not None and deadline_ns <= instance.deadline_ns:
            return
        instance.deadline_ns = deadline_ns
        if instance.timer is not None:
            instance.timer.cancel()
        when_ns = self.fires_at_ns(deadline_ns)
        instance.timer = self.machine.call_at_ns(when_ns, self._expired, uid, instance.pid)

    def _expired(self, uid: str, pid: int) -> None:
        instance = self.instances.get(uid)
        if instance is not None and instance.pid == pid and instance.state != "exited":
            assert instance.deadline_ns is not None
            if self.boottime_ns() < instance.deadline_ns:
                when_ns = max(self._now_ns() + 1, self.fires_at_ns(instance.deadline_ns))
                instance.timer = self.machine.call_at_ns(when_ns, self._expired, uid, pid)
                return
            self.end(uid, code=KILLED, by_guard=True)

    def expire(self) -> None:
        """Let the guard look at once: it is the first to run when a host goes on."""
        for uid in sorted(self.instances):
            instance = self.instances[uid]
            due = instance.deadline_ns is not None and instance.deadline_ns <= self.boottime_ns()
            if due:
                self.end(uid, code=KILLED, by_guard=True)

    def running(self) -> list[LaunchPlan]:
        """Return what runs."""
        return [i.plan for _, i in sorted(self.instances.items()) if i.state == "running"]

    def ready(self, uid: str) -> bool:
        """Tell whether the guest has booted and runs."""
        instance = self.instances.get(uid)
        return (
            instance is not None
            and instance.state == "running"
            and uid not in self.hung
            and self._now_ns() >= instance.boots_at_ns
        )

    def later(self, seconds: float, callback: Callable[..., object], *args: object) -> None:
        """Call something on the host, also if its daemon dies."""
        self.machine.call_at_ns(self._now_ns() + int(seconds * 1e9), callback, *args)

    def boottime_ns(self) -> int:
        """Return the host's CLOCK_BOOTTIME."""
        return self.machine.clock.boottime_ns(self._now_ns())

    def fires_at_ns(self, deadline_ns: int) -> int:
        """Return the time of the world at which the guard's timer fires."""
        return self.machine.clock.world_at_ns(deadline_ns)

    def _changed(self, uid: str) -> None:
        if self.daemon is not None and self.daemon.alive:
            for callback in self.callbacks:
                self.daemon.call_soon(callback, uid)


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
