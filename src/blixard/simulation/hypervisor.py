"""The port of hypervisors over the guests of a simulated host."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import (
    GuestStatus,
    HypervisorInstance,
    Invocation,
    InvocationResult,
    LaunchPlan,
    MigrationFigures,
)
from blixard.ports.transport import Stream
from blixard.simulation import guest_state
from blixard.simulation.guest_processes import KILLED, SHUT_DOWN
from blixard.simulation.guest_world import GuestWorld
from blixard.simulation.nap import Nap
from blixard.simulation.process import Process

_CHANNEL_MEAN_S = 0.0003  # a message to the agent in a guest, and its answer
_LOAD_MEAN_S = 0.0005
DRAIN_S = 2.0  # a guest that is to leave waits so long for its writes under way
_SILENT_S = 1.0  # a guest that says nothing so long after the deadline of a call is gone


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
        self._world.end(instance_uid, code=SHUT_DOWN)

    async def kill(self, instance_uid: str) -> None:
        """Kill now; a deaf process does not notice."""
        await self._take(0.005)
        if self._world.deaf:
            return
        self._world.end(instance_uid, code=KILLED)

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
