"""The hypervisors of a host as a world of their own: they outlive the daemon, not the host.

The guard's deadlines are enforced by the host's machine process on the host's clock, whatever the
daemon does.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import (
    GuestStatus,
    HypervisorInstance,
    Invocation,
    InvocationResult,
    LaunchPlan,
    MigrationFigures,
    ProcessState,
)
from blixard.ports.transport import Stream
from blixard.simulation import guest_state
from blixard.simulation.calls import GuestFunction, Handled, check_loadable
from blixard.simulation.guest_disks import GuestDisk
from blixard.simulation.guest_state import GuestState
from blixard.simulation.loop import SimHandle
from blixard.simulation.nap import Nap
from blixard.simulation.process import Process

_FIRST_PID = 1000
BOOT_MEAN_S = 1.5
_SHUT_DOWN, _KILLED, _CRASHED = 0, -9, 1
_CHANNEL_MEAN_S = 0.0003  # a message to the agent in a guest, and its answer
_LOAD_MEAN_S = 0.0005
DRAIN_S = 2.0  # a guest that is to leave waits so long for its writes under way
_SILENT_S = 1.0  # a guest that says nothing so long after the deadline of a call is gone
_ENDED_BY_DAEMON = (_SHUT_DOWN, _KILLED)


class SimInstance(msgspec.Struct):
    """One hypervisor process."""

    plan: LaunchPlan
    pid: int
    state: ProcessState = "paused"
    deadline_ns: int | None = None
    boots_at_ns: int = 0
    killed_by_guard: bool = False
    exit_code: int | None = None
    timer: SimHandle | None = None
    guard_seq: int = 0
    guard_epoch: int = 0
    ran: bool = False
    birth: int = 0
    ran_ns: int = 0  # until it was stopped last
    since_ns: int = 0  # when its CPUs were last let run
    arrived: GuestState | None = None  # what another host sent, until it runs
    uses_disks: bool = False
    used: list[GuestDisk] = []
    function: GuestFunction | None = None

    def shown(self) -> HypervisorInstance:
        """Return what the port shows."""
        return HypervisorInstance(
            instance_uid=self.plan.instance_uid,
            plan=self.plan,
            state=self.state,
            pid=self.pid,
            exit_code=self.exit_code,
            killed_by_guard=self.killed_by_guard,
            guard="keep" if self.deadline_ns is None else "fence",
            guard_seq=self.guard_seq,
            guard_epoch=self.guard_epoch,
            ran=self.ran,
        )


class Observer:
    """Told when an instance really runs and when it ends; the oracle of double runs is one."""

    def started(self, host: int, plan: LaunchPlan) -> None:
        """The CPUs of an instance run from now on."""

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """They run no longer."""

    def paused(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """The CPUs were stopped with this state."""

    def arrived(self, host: int, plan: LaunchPlan, state: GuestState) -> None:
        """The CPUs go on here from a state that another host sent."""

    def stopped(self, host: int, plan: LaunchPlan, *, ailing: bool, by_guard: bool) -> None:
        """The guard or the daemon ends one that runs; *ailing*: its host's guests were unwell."""

    def call_began(self, host: int, plan: LaunchPlan, call: Invocation) -> None:
        """A function's handler begins in a guest."""

    def call_ended(self, host: int, plan: LaunchPlan, request_id: str, status: str) -> None:
        """It is over, or its guest is."""


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
            self.end(uid, code=_CRASHED)
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
            self.end(uid, code=_KILLED, by_guard=True)

    def expire(self) -> None:
        """Let the guard look at once: it is the first to run when a host goes on."""
        for uid in sorted(self.instances):
            instance = self.instances[uid]
            due = instance.deadline_ns is not None and instance.deadline_ns <= self.boottime_ns()
            if due:
                self.end(uid, code=_KILLED, by_guard=True)

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


class SimHypervisor:
    """``ports.hypervisor.Hypervisor`` for one incarnation of the daemon."""

    def __init__(self, world: GuestWorld, daemon: Process, generator: random.Random) -> None:
        self._world = world
        self._daemon = daemon
        self._random = generator
        world.daemon = daemon
        world.callbacks = []

    async def _take(self, mean_s: float) -> None:
        await Nap(self._daemon, mean_s * (0.5 + self._random.random()))

    async def instances(self) -> list[HypervisorInstance]:
        """Return all processes."""
        await self._take(0.002)
        return [i.shown() for _, i in sorted(self._world.instances.items())]

    async def start_paused(self, plan: LaunchPlan) -> HypervisorInstance:
        """Spawn with the CPUs stopped."""
        await self._take_starting(0.05)
        return self._world.spawn(plan).shown()

    async def _take_starting(self, mean_s: float) -> None:
        """Take a part of a start; where the whole of it is given, that is spent with booting."""
        if self._world.boot_s is None:
            await self._take(mean_s)

    async def _ask_guard(self, do: Callable[[], None]) -> None:
        """Send the guard a word, which is on its way whatever becomes of the daemon."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        delay_s = self._world.guard_mean_s * (0.5 + self._random.random())
        self._world.later(delay_s, self._world.answer, do, done)
        await done

    async def arm(
        self, instance_uid: str, deadline_boottime_ns: int, *, epoch: int, seq: int
    ) -> None:
        """Let the guard kill the instance at the deadline."""
        await self._ask_guard(
            lambda: self._world.arm(instance_uid, deadline_boottime_ns, epoch, seq)
        )

    async def disarm(self, instance_uid: str, *, seq: int) -> None:
        """Take the deadline from an instance."""
        await self._ask_guard(lambda: self._world.disarm(instance_uid, seq))

    async def extend(self, deadline_boottime_ns: int) -> None:
        """Move the deadline of all armed instances later."""
        await self._take(0.001)
        for uid, instance in sorted(self._world.instances.items()):
            if instance.deadline_ns is not None:
                self._world.set_deadline(uid, deadline_boottime_ns)

    async def resume(self, instance_uid: str) -> None:
        """Let the CPUs run."""
        await self._take_starting(0.002)
        self._world.run(instance_uid)

    async def pause(self, instance_uid: str) -> None:
        """Stop the CPUs."""
        await self._take(0.002)
        self._world.stop(instance_uid)

    def copies_live(self) -> bool:
        """Every copy is safe."""
        return True

    async def send_state(
        self,
        instance_uid: str,
        stream: Stream,
        *,
        live: bool,
        switch: Callable[[], Awaitable[None]],
    ) -> MigrationFigures:
        """Send what the guest has in mind."""
        world, loop = self._world, asyncio.get_running_loop()
        process = world.get(instance_uid)
        if process.state != "running":
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid} does not run")
        began_s = stopped_s = loop.time()

        async def stop() -> None:
            nonlocal stopped_s
            stopped_s = loop.time()
            if world.get(instance_uid) is not process or process.state != "running":
                raise BlixardError("MIGRATION_FAILED", f"{instance_uid} does not run")
            world.stop(instance_uid)
            try:
                await world.drain(instance_uid, DRAIN_S)
            except TimeoutError as error:
                go_on()
                text = f"{instance_uid}: its storage does not answer"
                raise BlixardError("MIGRATION_FAILED", text) from error

        def go_on() -> None:
            if world.instances.get(instance_uid) is process and process.state == "paused":
                world.run(instance_uid)

        try:
            async with asyncio.timeout(guest_state.SEND_S):
                sent_bytes = await guest_state.send(
                    stream, live=live, look=lambda: world.look(instance_uid), stop=stop,
                    go_on=go_on, switch=switch, pause=self._take,
                )  # fmt: skip
        except (ConnectionError, TimeoutError) as error:
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid}: {error}") from error
        now_s = loop.time()
        return MigrationFigures(
            total_ms=round((now_s - began_s) * 1000),
            downtime_ms=round((now_s - stopped_s) * 1000),
            bytes_sent=sent_bytes,
        )

    async def receive_state(self, instance_uid: str, stream: Stream) -> None:
        """Take what another host's guest has in mind."""
        try:
            async with asyncio.timeout(guest_state.SEND_S):
                state = await guest_state.receive(stream)
                self._world.take(instance_uid, state)
                await guest_state.acknowledge(stream)
        except (ConnectionError, TimeoutError) as error:
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid}: {error}") from error

    async def shutdown(self, instance_uid: str, *, grace_s: float) -> None:
        """Ask the guest; it takes a part of the grace."""
        await self._take(min(grace_s, 0.5))
        self._world.end(instance_uid, code=_SHUT_DOWN)

    async def kill(self, instance_uid: str) -> None:
        """Kill now; a deaf process does not notice."""
        await self._take(0.005)
        if self._world.deaf:
            return
        self._world.end(instance_uid, code=_KILLED)

    async def forget(self, instance_uid: str) -> None:
        """Remove what is left of an exited instance."""
        await self._take(0.002)
        instance = self._world.instances.get(instance_uid)
        if instance is not None and instance.state == "exited":
            del self._world.instances[instance_uid]

    async def guest_status(self, instance_uid: str) -> GuestStatus:
        """Ask the agent."""
        await self._take_starting(0.002)
        if not self._world.ready(instance_uid):
            raise BlixardError("GUEST_UNREACHABLE", f"{instance_uid} does not answer")
        return GuestStatus(ready=True)

    async def load_function(
        self,
        instance_uid: str,
        *,
        source: bytes,  # noqa: ARG002 - simulated guests have their handlers
        handler: str,
        environment: dict[str, str],  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002 - it takes less
    ) -> None:
        """Give a guest a handler of :data:`blixard.simulation.calls.HANDLERS`."""
        await self._take(_LOAD_MEAN_S)
        self._world.load(instance_uid, handler)

    async def invoke(self, instance_uid: str, call: Invocation) -> InvocationResult:
        """Have the guest run its function."""
        await self._take(_CHANNEL_MEAN_S)
        done: asyncio.Future[InvocationResult] = asyncio.get_running_loop().create_future()
        self._world.call(instance_uid, call, done)
        try:
            async with asyncio.timeout(call.deadline_s + _SILENT_S):
                return await done
        except TimeoutError as error:
            message = f"{instance_uid} does not answer"
            raise BlixardError("GUEST_UNREACHABLE", message) from error

    async def exec(
        self, instance_uid: str, command: list[str], *, tty: bool, stream: Stream
    ) -> None:
        """Echo the command."""
        await self.guest_status(instance_uid)
        await stream.send(f"{'tty ' if tty else ''}{' '.join(command)}\n".encode())

    async def logs(self, instance_uid: str, *, tail: int, follow: bool, stream: Stream) -> None:
        """Send the console's last lines; nothing follows."""
        assert tail >= 0 or follow
        for line in self.console_tail(instance_uid, tail):
            await stream.send(line.encode() + b"\n")

    async def console(self, instance_uid: str, stream: Stream) -> None:
        """Send the console and end."""
        await self.logs(instance_uid, tail=20, follow=False, stream=stream)

    def console_tail(self, instance_uid: str, lines: int) -> list[str]:
        """Return the last console lines."""
        booted = self._world.ready(instance_uid)
        return ["booting", "ready"][: 2 if booted else 1][-lines:] if lines > 0 else []

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call *callback* when an instance changed."""
        self._world.callbacks.append(callback)
