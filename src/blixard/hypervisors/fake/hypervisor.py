"""A hypervisor in memory: the port's rules without processes, for tests of what stands above."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.ports.hypervisor import (
    GuestStatus,
    HypervisorInstance,
    Invocation,
    InvocationResult,
    LaunchPlan,
    MigrationFigures,
)
from blixard.ports.transport import Stream

_FIRST_PID = 1000
_PART, _REST, _HAVE_ALL = b"p", b"r", b"all"


class FakeHypervisor:
    """Implements ``ports.hypervisor.Hypervisor``; *now_ns* is its CLOCK_BOOTTIME.

    A test plays the world: :meth:`advance` lets deadlines pass, :meth:`crash` ends a process,
    :attr:`guests` says what the agents answer (absent: they do not), :attr:`failing` names
    instances that do not start, :attr:`memory` what each guest has in mind, :attr:`handlers` what
    loaded functions answer (absent: the event).
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self.guests: dict[str, GuestStatus] = {}
        self.consoles: dict[str, list[str]] = {}
        self.failing: set[str] = set()
        self.memory: dict[str, bytes] = {}
        self.handlers: dict[str, Callable[[Invocation], InvocationResult]] = {}
        self.loaded: dict[str, str] = {}  # the handler, by instance uid
        self.calls: list[tuple[str, str]] = []
        self._instances: dict[str, HypervisorInstance] = {}
        self._deadlines: dict[str, int] = {}
        self._callback: Callable[[str], None] = lambda _uid: None
        self._pids = _FIRST_PID

    # -- the world --

    def advance(self, seconds: float) -> None:
        """Let time pass; kill what is past its deadline, as the guard does."""
        self.now_ns += int(seconds * 1e9)
        for uid in sorted(self._deadlines):
            if self._deadlines[uid] <= self.now_ns and self._alive(uid):
                self._end(uid, code=-9, by_guard=True)

    def crash(self, instance_uid: str, code: int = 1) -> None:
        """The process ends by itself."""
        if self._alive(instance_uid):
            self._end(instance_uid, code=code)

    def _alive(self, uid: str) -> bool:
        return uid in self._instances and self._instances[uid].state != "exited"

    def _end(self, uid: str, *, code: int, by_guard: bool = False) -> None:
        self._set(uid, state="exited", exit_code=code, killed_by_guard=by_guard)
        self.guests.pop(uid, None)
        self.loaded.pop(uid, None)

    def _set(self, uid: str, **fields: object) -> None:
        self._instances[uid] = msgspec.structs.replace(self._instances[uid], **fields)
        self._callback(uid)

    # -- the port --

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call *callback* with an instance uid when its process changed."""
        self._callback = callback

    async def instances(self) -> list[HypervisorInstance]:
        """Return all processes, exited ones until forgotten, in order of uid."""
        return [self._instances[uid] for uid in sorted(self._instances)]

    async def start_paused(self, plan: LaunchPlan) -> HypervisorInstance:
        """Make a process with stopped CPUs."""
        uid = plan.instance_uid
        self.calls.append(("start_paused", uid))
        if uid in self._instances:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"{uid} is here already")
        if uid in self.failing:
            raise BlixardError("GUEST_START_FAILED", f"{plan.name}: it is told to fail")
        self._pids += 1
        made = HypervisorInstance(instance_uid=uid, plan=plan, state="paused", pid=self._pids)
        self._instances[uid] = made
        return made

    async def arm(
        self, instance_uid: str, deadline_boottime_ns: int, *, epoch: int, seq: int
    ) -> None:
        """Set the deadline; never earlier than it was."""
        self.calls.append(("arm", instance_uid))
        self._check_alive(instance_uid)
        self._check_seq(instance_uid, seq)
        known = self._deadlines.get(instance_uid, 0)
        self._deadlines[instance_uid] = max(known, deadline_boottime_ns)
        self._set(instance_uid, guard="fence", guard_seq=seq, guard_epoch=epoch)
        self.advance(0)

    async def disarm(self, instance_uid: str, *, seq: int) -> None:
        """Take the deadline away."""
        self.calls.append(("disarm", instance_uid))
        self._check_alive(instance_uid)
        self._check_seq(instance_uid, seq)
        self._deadlines.pop(instance_uid, None)
        self._set(instance_uid, guard="keep", guard_seq=seq, guard_epoch=0)

    async def extend(self, deadline_boottime_ns: int) -> None:
        """Move the deadlines of all armed instances later."""
        self.calls.append(("extend", ""))
        for uid in sorted(self._deadlines):
            if self._alive(uid):
                self._deadlines[uid] = max(self._deadlines[uid], deadline_boottime_ns)

    async def resume(self, instance_uid: str) -> None:
        """Let the CPUs run."""
        self.calls.append(("resume", instance_uid))
        self._check_alive(instance_uid)
        self._set(instance_uid, state="running", ran=True)

    async def pause(self, instance_uid: str) -> None:
        """Stop the CPUs."""
        self.calls.append(("pause", instance_uid))
        self._check_alive(instance_uid)
        self._set(instance_uid, state="paused")

    async def shutdown(self, instance_uid: str, *, grace_s: float) -> None:
        """End it as the guest does, or by force if no agent answers and the time is over."""
        self.calls.append(("shutdown", instance_uid))
        answers = instance_uid in self.guests
        if self._alive(instance_uid):
            self._end(instance_uid, code=0 if answers and grace_s > 0 else -9)

    async def kill(self, instance_uid: str) -> None:
        """Kill now."""
        self.calls.append(("kill", instance_uid))
        if self._alive(instance_uid):
            self._end(instance_uid, code=-9)

    async def forget(self, instance_uid: str) -> None:
        """Remove what is left of an exited instance."""
        self.calls.append(("forget", instance_uid))
        if self._alive(instance_uid):
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"{instance_uid} is still running")
        self._instances.pop(instance_uid, None)
        self._deadlines.pop(instance_uid, None)

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
        """Send the memory, once before the switch if *live*, and wait for the acknowledgement."""
        self.calls.append(("send_state", instance_uid))
        self._check_running(instance_uid)
        sent = self.memory.get(instance_uid, b"")
        try:
            if live:
                await stream.send(_PART + sent)
            self._check_running(instance_uid)
        except ConnectionError as error:
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid}: {error}") from error
        self._set(instance_uid, state="paused")
        await switch()
        rest = self.memory.get(instance_uid, b"")
        try:
            await stream.send(_REST + rest)
            answer = await stream.receive()
        except ConnectionError as error:
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid}: {error}") from error
        if answer != _HAVE_ALL:
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid}: the receiver gave up")
        sent_bytes = len(rest) + (len(sent) if live else 0)
        return MigrationFigures(total_ms=0, downtime_ms=0, bytes_sent=sent_bytes)

    async def receive_state(self, instance_uid: str, stream: Stream) -> None:
        """Take the memory."""
        self.calls.append(("receive_state", instance_uid))
        process = self._instances.get(instance_uid)
        if process is None or process.state != "paused" or not process.plan.incoming:
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid} does not wait for a state")
        try:
            while (frame := await stream.receive()) is not None:
                if frame[:1] == _REST:
                    self.memory[instance_uid] = frame[1:]
                    await stream.send(_HAVE_ALL)
                    return
        except ConnectionError as error:
            raise BlixardError("MIGRATION_FAILED", f"{instance_uid}: {error}") from error
        raise BlixardError("MIGRATION_FAILED", f"{instance_uid}: the sender gave up")

    def _check_running(self, uid: str) -> None:
        if uid not in self._instances or self._instances[uid].state != "running":
            raise BlixardError("MIGRATION_FAILED", f"{uid} does not run")

    async def guest_status(self, instance_uid: str) -> GuestStatus:
        """Return what the test put into :attr:`guests`."""
        if instance_uid not in self.guests:
            raise BlixardError("GUEST_UNREACHABLE", "the agent does not answer yet")
        return self.guests[instance_uid]

    async def load_function(
        self,
        instance_uid: str,
        *,
        source: bytes,
        handler: str,
        environment: dict[str, str],  # noqa: ARG002 - nothing runs
        timeout_s: float,  # noqa: ARG002 - it takes no time
    ) -> None:
        """Note the handler; source that is no Python is refused, as a guest does."""
        await self.guest_status(instance_uid)
        try:
            compile(source, "main.py", "exec")
        except (SyntaxError, ValueError) as error:
            raise BlixardError("FUNCTION_LOAD_FAILED", f"{handler}: {error}") from error
        self.loaded[instance_uid] = handler

    async def invoke(self, instance_uid: str, call: Invocation) -> InvocationResult:
        """Return what :attr:`handlers` says, or the event."""
        await self.guest_status(instance_uid)
        if self.loaded.get(instance_uid) != call.handler:
            raise BlixardError("GUEST_UNREACHABLE", f"{call.handler} is not loaded")
        handler = self.handlers.get(call.handler)
        if handler is None:
            return InvocationResult(status="ok", payload=call.event)
        return handler(call)

    async def exec(
        self, instance_uid: str, command: list[str], *, tty: bool, stream: Stream
    ) -> None:
        """Echo the command, then all input until its end; the exit code is 0."""
        await self.guest_status(instance_uid)
        line_end = b"\r\n" if tty else b"\n"
        out = bytes((c.CLIENT_STDOUT,))
        await stream.send(out + " ".join(command).encode() + line_end)
        while (frame := await stream.receive()) is not None and frame != bytes((c.CLIENT_STDIN,)):
            if frame[0] == c.CLIENT_STDIN:
                await stream.send(out + frame[1:])
        await stream.send(bytes((c.CLIENT_EXIT,)) + b"0")

    async def logs(
        self,
        instance_uid: str,
        *,
        tail: int,
        follow: bool,  # noqa: ARG002 - nothing new ever comes
        stream: Stream,
    ) -> None:
        """Send the last lines of :attr:`consoles`."""
        for line in self.console_tail(instance_uid, tail):
            await stream.send(line.encode() + b"\n")

    async def console(self, instance_uid: str, stream: Stream) -> None:
        """Echo raw bytes until the client ends its side."""
        self._check_alive(instance_uid)
        while (frame := await stream.receive()) is not None:
            await stream.send(frame)

    def console_tail(self, instance_uid: str, lines: int) -> list[str]:
        """Return the last lines of :attr:`consoles`."""
        return self.consoles.get(instance_uid, [])[-lines:] if lines > 0 else []

    def _check_seq(self, uid: str, seq: int) -> None:
        if seq < self._instances[uid].guard_seq:
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"word {seq} for {uid} is an older one")

    def _check_alive(self, uid: str) -> None:
        if not self._alive(uid):
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"the process of {uid} has ended")
