"""QEMU behind the guard: implements the Hypervisor port.

The guard holds the processes; this object holds connections to them (QMP, agent) and finds both
again after the daemon restarts: sockets and logs stand in a directory per instance. State of an
instance is what the guard says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from blixard.base.errors import BlixardError
from blixard.hypervisors.guard.client import GuardClient
from blixard.hypervisors.guard.launch import OUTPUT
from blixard.hypervisors.qemu import console, functions, migration, migration_monitor, streams
from blixard.hypervisors.qemu.agent import AgentLink
from blixard.hypervisors.qemu.arguments import (
    AGENT_SOCKET,
    CONSOLE_LOG,
    CONSOLE_SOCKET,
    QMP_SOCKET,
    files_of,
    guard_plan,
    load_runner,
)
from blixard.hypervisors.qemu.arrival import Arrival
from blixard.hypervisors.qemu.departure import Departure
from blixard.hypervisors.qemu.likeness import FileDigests, likeness_of
from blixard.hypervisors.qemu.probe import Accelerator, host_tsc_khz, probe
from blixard.hypervisors.qemu.qmp import QmpClient
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

QMP_UP_S = 15.0
POLL_S = 0.02
ASK_S = 1.0
LOGS_KEPT = 20
LEAVING = "leaving"  # a file that is there while a guest's memory is being sent


class _Live:
    """Connections to one running instance."""

    def __init__(self, qmp: QmpClient, agent: AgentLink) -> None:
        self.qmp = qmp
        self.agent = agent
        self.connecting = asyncio.Lock()

    async def close(self) -> None:
        await self.qmp.close()
        await self.agent.close()


class QemuHypervisor:
    """Implements ``ports.hypervisor.Hypervisor``; directories of instances stand in *state_dir*.

    Whether KVM works is a fact of the machine: kept in *probe_dir*, which its nodes may share.
    """

    def __init__(self, state_dir: str, guard: GuardClient, *, probe_dir: str = "") -> None:
        self._dir = state_dir
        self._probe_dir = probe_dir or state_dir
        self._guard = guard
        self._probing = asyncio.Lock()
        self.accelerator: Accelerator | None = None
        self._tsc_khz = _read_tsc_khz()
        self._consoles = streams.Consoles()
        self._live: dict[str, _Live] = {}
        self._progress: dict[str, migration_monitor.Progress] = {}
        self._digests = FileDigests()
        self._looked = False
        self._exited: dict[str, asyncio.Event] = {}
        self._callback: Callable[[str], None] = lambda _uid: None
        guard.on_exit = self._on_exit
        guard.on_lost = self._on_lost

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call *callback* with an instance uid when its process or guest changed."""
        self._callback = callback

    async def instances(self) -> list[HypervisorInstance]:
        """Return what the guard holds, in order of uid."""
        answer = await self._guard.call("list")
        found = [_instance(facts) for facts in answer["instances"]]
        if not self._looked:
            self._looked = True
            found = [await self._looked_at(instance) for instance in found]
        return sorted(found, key=lambda i: i.instance_uid)

    async def _looked_at(self, instance: HypervisorInstance) -> HypervisorInstance:
        """Return an instance as it is: a daemon may have died just as QEMU stopped its CPUs."""
        uid = instance.instance_uid
        if instance.state == "running" and os.path.exists(self._path(uid, LEAVING)):
            with contextlib.suppress(BlixardError):
                qmp = (await self._connect(uid)).qmp
                if not (await qmp.execute("query-status"))["running"]:
                    return _instance(await self._guard.call("mark", uid=uid, state="paused"))
        return instance

    # -- starting --

    async def start_paused(self, plan: LaunchPlan) -> HypervisorInstance:
        """Spawn with the CPUs stopped; return once QMP answers."""
        try:
            runner = load_runner(plan.runner)
            directory = self._make_directory(plan)
        except (OSError, msgspec.MsgspecError) as error:
            raise BlixardError("GUEST_START_FAILED", f"{plan.name}: {error}") from error
        accelerator = await self._probed(files_of(plan.runner, runner)["kernel"])
        facts = await self._guard.call(
            "start",
            plan=guard_plan(plan, runner, accelerator=accelerator.name, tsc_khz=self._tsc_khz),
        )
        self._exited[plan.instance_uid] = asyncio.Event()
        try:
            await self._connect(plan.instance_uid)
        except BlixardError as error:
            words = console.tail(os.path.join(directory, OUTPUT), 5)
            await self.kill(plan.instance_uid)
            await self.forget(plan.instance_uid)
            raise BlixardError(
                "GUEST_START_FAILED", f"{plan.name}: {error.message}; {' | '.join(words)}"
            ) from error
        return _instance(facts)

    async def _probed(self, kernel: str) -> Accelerator:
        """Return KVM or emulation, found out once per kernel."""
        async with self._probing:
            if self.accelerator is None:
                self.accelerator = await asyncio.to_thread(probe, self._probe_dir, kernel)
            return self.accelerator

    def _make_directory(self, plan: LaunchPlan) -> str:
        directory = self._path(plan.instance_uid)
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory, mode=0o700)
        return directory

    def _path(self, uid: str, name: str = "") -> str:
        return os.path.join(self._dir, uid, name) if name else os.path.join(self._dir, uid)

    async def _connect(self, uid: str) -> _Live:
        """Connect to a process that may still be starting."""
        live = self._of(uid)
        try:
            async with live.connecting, asyncio.timeout(QMP_UP_S):
                while not live.qmp.connected:
                    try:
                        await live.qmp.connect()
                    except (FileNotFoundError, ConnectionRefusedError):
                        if await self._gone(uid):
                            raise
                        await asyncio.sleep(POLL_S)
        except (OSError, TimeoutError) as error:
            reason = "the process has ended" if self._has_exited(uid) else repr(error)
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"no QMP: {reason}") from error
        return live

    def _of(self, uid: str) -> _Live:
        if uid not in self._live:
            qmp = QmpClient(self._path(uid, QMP_SOCKET), lambda event: self._on_event(uid, event))
            self._live[uid] = _Live(qmp, AgentLink(self._path(uid, AGENT_SOCKET)))
        return self._live[uid]

    async def arm(
        self, instance_uid: str, deadline_boottime_ns: int, *, epoch: int, seq: int
    ) -> None:
        """Let the guard kill the instance at the deadline."""
        await self._guard.call(
            "arm", uid=instance_uid, deadline_ns=deadline_boottime_ns, epoch=epoch, seq=seq
        )

    async def disarm(self, instance_uid: str, *, seq: int) -> None:
        """Take the deadline from an instance."""
        await self._guard.call("disarm", uid=instance_uid, seq=seq)

    async def extend(self, deadline_boottime_ns: int) -> None:
        """Move the deadlines of all armed instances later."""
        await self._guard.call("extend", deadline_ns=deadline_boottime_ns)

    async def resume(self, instance_uid: str) -> None:
        """Let the CPUs run, if the guard still allows it."""
        live = await self._connect(instance_uid)
        await migration_monitor.check_whole(live.qmp)
        facts = await self._guard.call("mark", uid=instance_uid, state="running")
        # A QEMU that waited for the switch-over may start its CPUs when that is called off.
        await migration_monitor.settle(live.qmp)
        await live.qmp.execute("cont")
        if _instance(facts).plan.incoming:
            await live.qmp.execute("announce-self", initial=50, max=550, rounds=5, step=100)

    async def pause(self, instance_uid: str) -> None:
        """Stop the CPUs."""
        live = await self._connect(instance_uid)
        await live.qmp.execute("stop")
        await self._guard.call("mark", uid=instance_uid, state="paused")

    # -- moving --

    def copies_live(self) -> bool:
        """Only with KVM: a busy guest that is emulated may be copied wrongly while it runs."""
        return self.accelerator is not None and self.accelerator.name == "kvm"

    async def send_state(
        self,
        instance_uid: str,
        stream: Stream,
        *,
        live: bool,
        switch: Callable[[], Awaitable[None]],
    ) -> MigrationFigures:
        """Send memory and state of a running guest to another host's :meth:`receive_state`."""
        with self._moving(instance_uid) as progress:
            process = await self._process(instance_uid, "running", progress)
            leaving = self._path(instance_uid, LEAVING)
            with open(leaving, "wb"):
                pass
            try:
                return await Departure(process, stream, live=live).run(switch)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(leaving)

    async def receive_state(self, instance_uid: str, stream: Stream) -> None:
        """Take memory and state into a process that was started to wait for them."""
        with self._moving(instance_uid) as progress:
            process = await self._process(instance_uid, "paused", progress)
            await Arrival(process, stream).run()

    @contextlib.contextmanager
    def _moving(self, uid: str) -> Iterator[migration_monitor.Progress]:
        if uid in self._progress:
            raise migration.failure(f"{uid} is being moved already")
        self._progress[uid] = migration_monitor.Progress()
        try:
            yield self._progress[uid]
        finally:
            del self._progress[uid]

    async def _process(
        self, uid: str, state: ProcessState, progress: migration_monitor.Progress
    ) -> migration_monitor.Process:
        """Return what moving an instance needs. Raises BlixardError MIGRATION_FAILED."""
        with migration.failing("looking at the process"):
            known = {i.instance_uid: i for i in await self.instances()}
            if uid not in known or known[uid].state != state:
                raise migration.failure(f"{uid} is not {state} here")
            qmp = (await self._connect(uid)).qmp
            version = await qmp.execute("query-version")
            likeness = await asyncio.to_thread(
                likeness_of,
                known[uid].pid,
                qemu=f"{version['qemu']} {version['package']}",
                tsc_khz=self._tsc_khz,
                digests=self._digests,
            )

        async def stopped() -> None:
            await self._guard.call("mark", uid=uid, state="paused")

        return migration_monitor.Process(
            qmp=qmp,
            progress=progress,
            likeness=likeness,
            stop=lambda: self.pause(uid),
            stopped=stopped,
            go_on=lambda: self.resume(uid),
            kill=lambda: self.kill(uid),
            words=lambda: " | ".join(console.tail(self._path(uid, OUTPUT), 3)),
        )

    # -- ending --

    async def shutdown(self, instance_uid: str, *, grace_s: float) -> None:
        """Ask the agent, then kill; return once the process is gone."""
        live = self._of(instance_uid)
        asked = False
        if not await self._gone(instance_uid):
            with contextlib.suppress(BlixardError):
                await live.agent.shutdown()
                asked = True
        if not (asked and await self._wait_gone(instance_uid, grace_s)):
            await self.kill(instance_uid)

    async def kill(self, instance_uid: str) -> None:
        """Kill now; return once the process is gone."""
        with contextlib.suppress(BlixardError):
            await self._guard.call("kill", uid=instance_uid)
        if not await self._wait_gone(instance_uid, QMP_UP_S):
            raise BlixardError("HYPERVISOR_UNAVAILABLE", f"{instance_uid} does not die")

    async def forget(self, instance_uid: str) -> None:
        """Remove what is left of an exited instance; the last few keep their logs."""
        live = self._live.pop(instance_uid, None)
        if live is not None:
            await live.close()
        self._exited.pop(instance_uid, None)
        known = {i.instance_uid for i in await self.instances()}
        if instance_uid in known:
            await self._guard.call("forget", uid=instance_uid)
        await asyncio.to_thread(self._prune, known - {instance_uid})

    def _prune(self, known: set[str]) -> None:
        """Keep the logs of the LOGS_KEPT instances that were forgotten last."""
        with os.scandir(self._dir) as entries:
            found = [e for e in entries if e.is_dir() and e.name not in known]
        found.sort(key=lambda e: e.stat().st_mtime, reverse=True)
        for entry in found[LOGS_KEPT:]:
            shutil.rmtree(entry.path, ignore_errors=True)

    async def _gone(self, uid: str) -> bool:
        if self._has_exited(uid):
            return True
        state = {i.instance_uid: i.state for i in await self.instances()}
        return state.get(uid, "exited") == "exited"

    async def _wait_gone(self, uid: str, seconds: float) -> bool:
        """Wait for the guard's word; ask it now and then, for a word may be lost with it."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        exited = self._exited.setdefault(uid, asyncio.Event())
        while not await self._gone(uid):
            left_s = until_s - loop.time()
            if left_s <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, ASK_S)):
                    await exited.wait()
        return True

    # -- the guest --

    async def guest_status(self, instance_uid: str) -> GuestStatus:
        """Ask the agent."""
        console.trim(self._path(instance_uid, CONSOLE_LOG))
        return await self._of(instance_uid).agent.status()

    async def load_function(
        self,
        instance_uid: str,
        *,
        source: bytes,
        handler: str,
        environment: dict[str, str],
        timeout_s: float,
    ) -> None:
        """Let the agent import a function's module."""
        await functions.load_function(
            self._of(instance_uid).agent,
            source=source, handler=handler, environment=environment, timeout_s=timeout_s,
        )  # fmt: skip

    async def invoke(self, instance_uid: str, call: Invocation) -> InvocationResult:
        """Let the agent run the handler."""
        return await functions.invoke(self._of(instance_uid).agent, call)

    async def exec(
        self, instance_uid: str, command: list[str], *, tty: bool, stream: Stream
    ) -> None:
        """Run a command in the guest and join it to *stream*."""
        await self._of(instance_uid).agent.exec(command, tty=tty, stream=stream)

    async def logs(self, instance_uid: str, *, tail: int, follow: bool, stream: Stream) -> None:
        """Send the console's last lines, then new ones until the stream ends."""
        path = self._path(instance_uid, CONSOLE_LOG)
        await streams.send_log(path, stream, tail=tail, follow=follow)

    async def console(self, instance_uid: str, stream: Stream) -> None:
        """Join the serial console to *stream*, raw bytes both ways; one client at a time."""
        path = self._path(instance_uid, CONSOLE_SOCKET)
        await self._consoles.join(instance_uid, path, stream)

    def console_tail(self, instance_uid: str, lines: int) -> list[str]:
        """Return the last console lines, also of an exited instance."""
        return console.tail(self._path(instance_uid, CONSOLE_LOG), lines)

    # -- events --

    def _on_event(self, uid: str, event: dict[str, Any]) -> None:
        if uid in self._progress:
            self._progress[uid].note(event)
        if event.get("event") in ("SHUTDOWN", "RESET", "STOP", "RESUME", "GUEST_PANICKED"):
            self._callback(uid)

    def _on_exit(self, facts: dict[str, Any]) -> None:
        uid = str(facts.get("uid"))
        self._exited.setdefault(uid, asyncio.Event()).set()
        self._callback(uid)

    def _on_lost(self) -> None:
        """The guard's connection broke: what it would have said must be asked for."""
        for uid in sorted(self._live):
            self._callback(uid)

    def _has_exited(self, uid: str) -> bool:
        event = self._exited.get(uid)
        return event is not None and event.is_set()

    async def close(self) -> None:
        """Leave; guests and guard stay."""
        for uid in sorted(self._live):
            await self._live[uid].close()
        self._live.clear()
        await self._guard.close()


def _instance(facts: dict[str, Any]) -> HypervisorInstance:
    plan = msgspec.convert(facts["plan"], LaunchPlan)
    armed = bool(facts["deadline_ns"])
    return HypervisorInstance(
        instance_uid=str(facts["uid"]),
        plan=plan,
        state=facts["state"],
        pid=int(facts["pid"]),
        exit_code=facts["exit_code"],
        killed_by_guard=bool(facts["killed_by_guard"]),
        guard="fence" if armed else "keep",
        # A guard from before an upgrade knows neither: it armed when it started the process.
        guard_seq=int(facts.get("guard_seq", 0)),
        guard_epoch=int(facts.get("guard_epoch", plan.node_epoch)) if armed else 0,
        ran=bool(facts.get("ran", False)),
    )


def _read_tsc_khz() -> int:
    with open("/proc/cpuinfo") as file:
        return host_tsc_khz(file.read())
