"""One instance on its node: looks at the facts, does the step that was decided, looks again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.environment import Environment
from blixard.ports.guests import GuestBuilder, GuestRecipe
from blixard.ports.hypervisor import Hypervisor, HypervisorInstance, LaunchPlan
from blixard.ports.network import NetworkBackend
from blixard.ports.volumes import DiskAttachment
from blixard.vms.disks import Disks
from blixard.vms.guarding import mode_of
from blixard.vms.mover import Mover
from blixard.vms.moves import MoveAnswer, MoveWord
from blixard.vms.moving import moving_step
from blixard.vms.reconcile import (
    STOP_GRACE_S,
    Assignment,
    History,
    Step,
    after_check,
    after_exit,
    backoff_s,
    decide,
    start_overdue,
    start_step,
)
from blixard.vms.spec import LIFECYCLE, Event, InstanceSpec, InstanceStatus, Phase

CONSOLE_LINES = 20
GUARD_RETRY_S = 1.0
PATH_MAX = 8  # phases between two reports; more are told as Unknown and the last
_READY: dict[Phase, Event | Literal[""]] = {"Starting": "ready", "Running": "", "Migrating": ""}
_WITH_PROCESS = ("Starting", "Running", "Paused", "Migrating", "Stopping")
IDLE_S = 30.0  # a worker with nothing to do looks again this often


class Authority(Protocol):
    """What the node may do now, and whom to ask before a guest's CPUs run."""

    def granted(self) -> bool:
        """Tell whether the lease is valid and the assignments were read under its epoch."""

    @property
    def epoch(self) -> int:
        """The node's epoch."""

    @property
    def deadline_ns(self) -> int:
        """When the lease ends, CLOCK_BOOTTIME."""

    async def confirm_start(self, uid: str, run: int, epoch: int) -> bool:
        """Ask the leader, linearizably, whether this run in this epoch may start."""

    async def tell_move(self, word: MoveWord) -> MoveAnswer:
        """Tell the leader of a migration. Raises BlixardError: what came of it is unknown."""


class Tools(msgspec.Struct, frozen=True):
    """The outside of a worker."""

    env: Environment
    hypervisor: Hypervisor
    network: NetworkBackend
    builder: GuestBuilder
    authority: Authority
    report: Callable[[Assignment, InstanceStatus, tuple[Phase, ...]], None]
    network_of: Callable[[str], tuple[str, int, int]]
    disks: Disks = msgspec.field(default_factory=lambda: Disks({}, ""))


class Worker:
    """Owns all actions on one instance uid; nobody else starts or stops it."""

    def __init__(self, uid: str, tools: Tools, build_lock: asyncio.Lock) -> None:
        self.uid = uid
        self.assignment: Assignment | None = None
        self.history = History()
        self.ended = False
        self._tools = tools
        self._build_lock = build_lock
        self._wake = asyncio.Event()
        self._runner = ""
        # A fresh worker knows nothing: there may be a process from before the daemon's restart.
        self._status = InstanceStatus(phase="Unknown")
        self._path: list[Phase] = ["Unknown"]
        self._phases_ms: dict[str, int] = {}
        self._last: Assignment | None = None
        self._guarded: tuple[Literal["", "keep", "fence"], int] = ("", 0)
        self.mover = Mover(self)
        self._holds = True  # its volumes, for all that is known
        self._used: tuple[DiskAttachment, ...] = ()  # by the last process that was seen here

    def assign(self, assignment: Assignment | None) -> None:
        """Give the newest assignment; None: the instance is no longer ours."""
        old = self.assignment
        if assignment == old:
            return
        self.assignment = assignment
        self._last = assignment or self._last
        if old is not None and assignment is not None:
            if old.spec.run != assignment.spec.run:
                self.history = History()
                self._status, self._path = InstanceStatus(phase="Unknown"), ["Unknown"]
                self._guarded = ("", 0)
                self.mover.arrived = None
            elif old.spec.node_epoch != assignment.spec.node_epoch:
                self.report_again()
        self.wake()

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    async def run(self) -> None:
        """Work until the instance is gone."""
        while not self.ended:
            self._wake.clear()
            try:
                step = await self._step()
            except BlixardError as error:
                step = self._failed(error)
            except OSError as error:
                step = self._failed(BlixardError("INTERNAL", f"{type(error).__name__}: {error}"))
            if step.kind in ("wait", "rest"):
                await self._sleep(step.until_s)

    async def _step(self) -> Step:
        process = await self._process()
        self._used = process.plan.disks if process is not None else self._used
        if process is None and self._status.phase in _WITH_PROCESS:
            self._go("exited")  # the guard is gone, and what it held with it
        self._note_guard(process)
        authority, key = self._tools.authority.granted(), self._recipe_key()
        step = None
        if authority:
            step = moving_step(
                self.assignment,
                process,
                self.mover.moving,
                built=self.history.built_for == key,
                now_s=_now(),
            )
        if step is not None:
            await self.mover.do(step, process)
            return step
        step = decide(
            self.assignment,
            process,
            self.history,
            authority=authority,
            recipe_key=key,
            now_s=_now(),
        )
        await self._do(step, process)
        return step

    def _note_guard(self, process: HypervisorInstance | None) -> None:
        """Take the guard's own word for what it does with a process of this run."""
        if process is None or process.state == "exited" or self._last is None:
            return
        if process.plan.run == self._last.spec.run:
            self._guarded = (process.guard, process.guard_seq)

    async def _process(self) -> HypervisorInstance | None:
        for process in await self._tools.hypervisor.instances():
            if process.instance_uid == self.uid:
                return process
        return None

    async def _sleep(self, until_s: float) -> None:
        delay_s = max(0.02, until_s - _now()) if until_s else IDLE_S
        try:
            async with asyncio.timeout(min(delay_s, IDLE_S)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _recipe_key(self) -> str:
        if self.assignment is None:
            return ""
        return recipe_key(self.assignment.spec.recipe)

    async def _do(self, step: Step, process: HypervisorInstance | None) -> None:
        match step.kind:
            case "build":
                await self._build()
            case "launch":
                await self._launch()
            case "check":
                assert process is not None
                await self._check(process)
            case "guard":
                await self._switch_guard()
            case "stop" | "kill":
                await self._stop(step)
            case "collect":
                assert process is not None
                await self._collect(process)
            case "rest":
                await self._rest(step)
            case "retire" | "end":
                await self._retire(process)
            case "wait":
                if step.why == "back-off" and self._status.phase == "Failed":
                    self._say(reason=self.history.reason)

    async def _build(self) -> None:
        assert self.assignment is not None
        spec = self.assignment.spec
        if not self.assignment.incoming:
            self._go("build")
            self._say()
        began_s = _now()
        async with self._build_lock:
            built = await self._tools.builder.build(spec.recipe, lambda _line: None)
        self._runner = built.runner
        self.history.built_for = recipe_key(spec.recipe)
        self._phases_ms = {"build": _ms_since(began_s)}

    async def _launch(self) -> None:
        """Start order of the architecture: stopped, arm, ask again, then run."""
        assert self.assignment is not None
        authority, hypervisor = self._tools.authority, self._tools.hypervisor
        spec, epoch = self.assignment.spec, authority.epoch
        self.history.reason = ""
        self.history.restart_generation = spec.restart_generation
        self.history.launched_s = began_s = _now()
        self._phases_ms = {k: v for k, v in self._phases_ms.items() if k == "build"}
        self._go("launch")
        self._say()
        plan = await self._plan(self.assignment, epoch)
        spawned_s = began_s
        tells = mode_of(spec) == "fence" or spec.guard_seq > 0
        allowed, step = False, start_step(None, fenced=tells)
        while step is not None:
            match step:
                case "spawn":
                    await self._spawn(plan)
                    self._phases_ms["prepare"] = _ms_since(began_s)
                    spawned_s = _now()
                case "arm":
                    await self._tell_guard(spec, epoch)
                case "ask":
                    allowed = await authority.confirm_start(self.uid, spec.run, epoch)
                case "resume":
                    await hypervisor.resume(self.uid)
                case "discard":
                    await self._discard()
            step = start_step(step, fenced=tells, allowed=allowed)
        if not allowed:
            self.history.next_launch_s = _now() + backoff_s(1)
            return
        self.history.next_check_s = _now() + min(0.5, spec.readiness.interval_s)
        self._phases_ms["start"] = _ms_since(spawned_s)
        self.history.resumed_s = _now()
        self._say(started=True)

    async def _tell_guard(self, spec: InstanceSpec, epoch: int) -> None:
        hypervisor, authority = self._tools.hypervisor, self._tools.authority
        if mode_of(spec) == "fence":
            deadline_ns = authority.deadline_ns
            await hypervisor.arm(self.uid, deadline_ns, epoch=epoch, seq=spec.guard_seq)
            await self._tell_renewed(deadline_ns, epoch)
        elif spec.guard_seq:
            await hypervisor.disarm(self.uid, seq=spec.guard_seq)

    async def _tell_renewed(self, armed_ns: int, epoch: int) -> None:
        """The guard may have heard of a renewal before it knew that this instance is armed."""
        authority = self._tools.authority
        if authority.epoch == epoch and authority.deadline_ns > armed_ns:
            await self._tools.hypervisor.extend(authority.deadline_ns)

    async def _switch_guard(self) -> None:
        """``onPartition`` changed while it runs; the check that follows reports what came of it."""
        assert self.assignment is not None
        now_s = _now()
        self.history.next_guard_s, self.history.next_check_s = now_s + GUARD_RETRY_S, now_s
        try:
            await self._tell_guard(self.assignment.spec, self._tools.authority.epoch)
        except BlixardError as error:
            # The instance itself is well, or its end is noticed by the next look.
            self._tools.env.log("warning", "guard_not_switched", uid=self.uid, detail=error.message)

    async def _spawn(self, plan: LaunchPlan) -> None:
        """Start it stopped; after a failure the builder looks whether the runner is still there.

        A cache may be emptied and a disk cleaned while the daemon runs.
        """
        try:
            await self._tools.hypervisor.start_paused(plan)
        except (BlixardError, OSError):
            self.history.built_for = ""
            raise

    async def _discard(self) -> None:
        self._go("stop")
        await self._tools.hypervisor.kill(self.uid)
        await self._tools.hypervisor.forget(self.uid)
        self._go("exited")

    async def _plan(self, assignment: Assignment, epoch: int) -> LaunchPlan:
        spec = assignment.spec
        tap, gateway, prefix, mtu = "", "", 0, 1450
        if spec.network and spec.ip:
            gateway, prefix, mtu = self._tools.network_of(spec.network)
            tap = await self._tools.network.ensure_tap(spec.network, self.uid)
        self._holds = True
        source = spec.node if assignment.incoming else ""
        disks = await self._tools.disks.attach(spec, epoch, moves_from=source)
        self._used = disks
        return LaunchPlan(
            instance_uid=self.uid,
            name=assignment.name,
            namespace=assignment.namespace,
            node_epoch=epoch,
            run=spec.run,
            runner=self._runner,
            memory_mib=spec.memory_mib,
            vcpus=spec.vcpus,
            tap=tap,
            mac=spec.mac,
            address=f"{spec.ip}/{prefix}" if tap else "",
            gateway=gateway,
            mtu=mtu,
            node=spec.node_name,
            disks=disks,
            recipe=recipe_key(spec.recipe),
            restart_generation=spec.restart_generation,
        )

    async def _check(self, process: HypervisorInstance) -> None:
        current = self._last
        if current is None:
            return
        spec = current.spec
        if not self.history.launched_s:
            asked = process.plan.restart_generation
            self._adopt(asked if asked >= 0 else spec.restart_generation)
        self.mover.back()
        answered = await self._answers(spec)
        after_check(spec, self.history, answered=answered, now_s=_now())
        if self.history.ready:
            self._go(_READY.get(self._status.phase, "found"))
            self._time_ready()
            self._say(ready=True, pid=process.pid)
        elif start_overdue(spec, self.history, _now()) and self._tools.authority.granted():
            self.history.reason = f"not ready within {spec.readiness.start_timeout_s:g} s"
            await self._give_up()
        else:
            quiet = self._status.phase in ("Starting", "Running", "Migrating", "Stopping")
            self._go("" if quiet else "launch")
            self._say(pid=process.pid)

    def _time_ready(self) -> None:
        if self.history.resumed_s and "ready" not in self._phases_ms:
            self._phases_ms.setdefault("boot", _ms_since(self.history.resumed_s))
            whole_ms = _ms_since(self.history.resumed_s)
            self._phases_ms["ready"] = max(0, whole_ms - self._phases_ms["boot"])

    def _adopt(self, restart_generation: int) -> None:
        """Found running after the daemon restarted: it keeps its pid and its state."""
        self.history.launched_s = _now()
        self.history.restart_generation = restart_generation
        self._go("found" if self._status.phase in ("Unknown", "Failed") else "")

    async def _answers(self, spec: InstanceSpec) -> bool:
        check = spec.readiness
        try:
            async with asyncio.timeout(check.timeout_s + 1):
                if check.agent and not await self._agent_ready():
                    return False
                if self.history.resumed_s:
                    self._phases_ms.setdefault("boot", _ms_since(self.history.resumed_s))
                if check.tcp is not None and not await self._tools.network.probe(
                    spec.ip, check.tcp.port, None, timeout_s=check.timeout_s
                ):
                    return False
                return check.http is None or await self._tools.network.probe(
                    spec.ip, check.http.port, check.http.path, timeout_s=check.timeout_s
                )
        except TimeoutError:
            return False

    async def _agent_ready(self) -> bool:
        try:
            return (await self._tools.hypervisor.guest_status(self.uid)).ready
        except BlixardError:
            return False

    async def _give_up(self) -> None:
        console = self._tools.hypervisor.console_tail(self.uid, CONSOLE_LINES)
        await self._tools.hypervisor.kill(self.uid)
        self._go("" if self._status.phase == "Failed" else "exited")
        self._say(reason=self.history.reason, console=console)

    async def _stop(self, step: Step) -> None:
        if step.why:
            self._tools.env.log("info", "instance_stop", uid=self.uid, why=step.why)
        self._go("" if self._status.phase == "Stopping" else "stop")
        self._say()
        if step.kind == "kill":
            await self._tools.hypervisor.kill(self.uid)
        else:
            await self._tools.hypervisor.shutdown(self.uid, grace_s=STOP_GRACE_S)
        if self.assignment is None:
            await self._leave()  # while a daemon that starts now still finds what is to be left
        await self._tools.hypervisor.forget(self.uid)
        self.history = History(restarts=self.history.restarts)
        self._go("exited")

    async def _collect(self, process: HypervisorInstance) -> None:
        """The process ended by itself (or by the guard): keep its last words, apply the policy."""
        console = self._tools.hypervisor.console_tail(self.uid, CONSOLE_LINES)
        spec = self.assignment.spec if self.assignment is not None else None
        after_exit(spec, process, self.history, _now())
        await self._tools.hypervisor.forget(self.uid)
        self._go("" if self._status.phase == "Failed" else "exited")
        self._say(reason=self.history.reason, console=console)

    async def _rest(self, step: Step) -> None:
        await self._give_back()
        why = "it ended and its restart policy keeps it so" if step.why == "completed" else ""
        self._go("" if self._status.phase == "Stopped" else "rest")
        self._say(reason=why)

    async def _give_back(self) -> None:
        """No process has the volumes open: another node may, once this one says Stopped."""
        if self._holds and self._last is not None and self._last.spec.disks:
            await self._tools.disks.detach(self._last.spec, self._tools.authority.epoch)
        self._holds = False

    async def _leave(self) -> None:
        """It is another node's, or nobody's: those who have its volumes meanwhile keep them.

        What a daemon has not seen itself it takes from the process that it found.
        """
        tools, epoch = self._tools, self._tools.authority.epoch
        if self._holds and self._last is not None and self._last.spec.disks:
            alone = msgspec.structs.replace(self._last.spec, left=msgspec.UNSET)
            await tools.disks.detach(alone, epoch)
        elif self._holds and self._used:
            await tools.disks.leave(self._used, epoch)
        self._holds = False

    async def _retire(self, process: HypervisorInstance | None) -> None:
        await self._leave()
        if process is not None:
            await self._tools.hypervisor.forget(self.uid)
        await self._tools.network.release_tap(self.uid)
        self.ended = self.assignment is None  # it may have come back meanwhile

    def _failed(self, error: BlixardError) -> Step:
        self._tools.env.log(
            "warning", "instance_step_failed", uid=self.uid, code=error.code, detail=error.message
        )
        if error.code == "GUEST_START_FAILED":
            self.history.built_for = ""  # the image may have left the cache
        self.history.failures += 1
        self.history.next_launch_s = _now() + backoff_s(self.history.failures)
        self.history.next_check_s = self.history.next_launch_s
        self.history.reason = f"{error.code}: {error.message}"
        if not self.history.ready:
            self._fail()
            self._say(reason=self.history.reason)
        return Step(kind="wait", until_s=self.history.next_launch_s)

    def _fail(self) -> None:
        """Call it Failed, unless a process is being ended: that goes on being tried."""
        phase = self._status.phase
        if LIFECYCLE.allows(phase, "fail"):
            self._go("fail")
        elif LIFECYCLE.allows(phase, "exited") and phase != "Stopping":
            self._go("exited")

    def _go(self, event: Event | Literal[""]) -> None:
        """Take a transition of the table; none for an empty event.

        Raises:
            BlixardError: TRANSITION_REFUSED, if the table has no such transition.
        """
        phase = self._status.phase
        if not event:
            return
        if not LIFECYCLE.allows(phase, event):
            raise BlixardError("TRANSITION_REFUSED", f"{phase} knows no {event!r}")
        self._status = msgspec.structs.replace(self._status, phase=LIFECYCLE.next(phase, event))
        self._path.append(self._status.phase)
        if len(self._path) > PATH_MAX:
            self._path = ["Unknown", self._status.phase]

    def _say(
        self,
        *,
        ready: bool = False,
        reason: str = "",
        pid: int = 0,
        started: bool = False,
        console: list[str] | None = None,
    ) -> None:
        """Report the phase that the table led to, if anything of it is new."""
        if self.assignment is None or self.assignment.incoming:
            return
        now_ms = self._tools.env.wall_time_ms()
        arrived = self.mover.arrived
        old, phase = self._status, self._status.phase
        started_at = now_ms if started else (0 if phase in ("Building", "Stopped") else None)
        trying = phase in ("Failed", "Building", "Starting") and not ready  # the last failure stays
        new = InstanceStatus(
            phase=phase,
            ready=ready,
            reason=reason or (old.reason if trying else ""),
            restarts=self.history.restarts,
            started_at_ms=old.started_at_ms if started_at is None else started_at,
            ready_at_ms=(old.ready_at_ms or now_ms) if ready else 0,
            pid=pid,
            run=self.assignment.spec.run,
            console=console if console is not None else (old.console if trying else []),
            phases_ms=dict(self._phases_ms),
            guard=self._guarded[0],
            guard_seq=self._guarded[1],
            arrived_by=arrived[0] if arrived is not None else msgspec.UNSET,
            arrival_ms=arrived[1] if arrived is not None else msgspec.UNSET,
        )
        if new != old or self._path:
            path, self._path = tuple(self._path) or (phase,), []
            self._status = new
            self._tools.report(self.assignment, new, path)

    def report_again(self) -> None:
        """Send the status anew (the leader's copy was reset by a new run or epoch)."""
        known = self._status.phase != "Unknown"
        if known and self.assignment is not None and self._status.run == self.assignment.spec.run:
            self._tools.report(self.assignment, self._status, ("Unknown", self._status.phase))


def recipe_key(recipe: GuestRecipe) -> str:
    """Return a digest of a recipe."""
    return hashlib.blake2b(msgspec.json.encode(recipe), digest_size=16).hexdigest()


def _ms_since(began_s: float) -> int:
    return round((_now() - began_s) * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()
