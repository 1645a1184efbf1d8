"""One instance on its node: looks at the facts, does the step that was decided, looks again."""

from __future__ import annotations

import asyncio
from typing import Literal

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import HypervisorInstance
from blixard.vms import arming
from blixard.vms.held_disks import HeldDisks
from blixard.vms.launcher import Launcher, recipe_key
from blixard.vms.mover import Mover
from blixard.vms.moving import moving_step
from blixard.vms.readiness import is_ready
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
)
from blixard.vms.reporter import Reporter
from blixard.vms.spec import Event, InstanceSpec, Phase
from blixard.vms.tools import Tools

CONSOLE_LINES = 20
GUARD_RETRY_S = 1.0
_READY: dict[Phase, Event | Literal[""]] = {"Starting": "ready", "Running": "", "Migrating": ""}
_WITH_PROCESS = ("Starting", "Running", "Paused", "Migrating", "Stopping")
IDLE_S = 30.0  # a worker with nothing to do looks again this often


class Worker:
    """Owns all actions on one instance uid; nobody else starts or stops it."""

    def __init__(self, uid: str, tools: Tools, build_lock: asyncio.Lock) -> None:
        self.uid = uid
        self.assignment: Assignment | None = None
        self.last: Assignment | None = None
        self.history = History()
        self.ended = False
        self.reporter = Reporter(self, tools)
        self.disks = HeldDisks(self, tools)
        self.launcher = Launcher(self, tools, build_lock, reporter=self.reporter, disks=self.disks)
        self.mover = Mover(self)
        self._tools = tools
        self._wake = asyncio.Event()

    def assign(self, assignment: Assignment | None) -> None:
        """Give the newest assignment; None: the instance is no longer ours."""
        old = self.assignment
        if assignment == old:
            return
        self.assignment = assignment
        self.last = assignment or self.last
        if old is not None and assignment is not None:
            if old.spec.run != assignment.spec.run:
                self.history = History()
                self.reporter.forget()
            elif old.spec.node_epoch != assignment.spec.node_epoch:
                self.reporter.say_again()
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
        self.disks.note(process)
        if process is None and self.reporter.phase in _WITH_PROCESS:
            self.reporter.go("exited")  # the guard is gone, and what it held with it
        self.reporter.note_guard(process)
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
                await self.launcher.build()
            case "launch":
                await self.launcher.launch()
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
                if step.why == "back-off" and self.reporter.phase == "Failed":
                    self.reporter.say(reason=self.history.reason)

    async def _switch_guard(self) -> None:
        """``onPartition`` changed while it runs; the check that follows reports what came of it."""
        assert self.assignment is not None
        now_s = _now()
        self.history.next_guard_s, self.history.next_check_s = now_s + GUARD_RETRY_S, now_s
        try:
            await arming.tell_guard(
                self.uid, self.assignment.spec, self._tools, self._tools.authority.epoch
            )
        except BlixardError as error:
            # The instance itself is well, or its end is noticed by the next look.
            self._tools.env.log("warning", "guard_not_switched", uid=self.uid, detail=error.message)

    async def _check(self, process: HypervisorInstance) -> None:
        current = self.last
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
            self.reporter.go(_READY.get(self.reporter.phase, "found"))
            self._time_ready()
            self.reporter.say(ready=True, pid=process.pid)
        elif start_overdue(spec, self.history, _now()) and self._tools.authority.granted():
            self.history.reason = f"not ready within {spec.readiness.start_timeout_s:g} s"
            await self._give_up()
        else:
            quiet = self.reporter.phase in ("Starting", "Running", "Migrating", "Stopping")
            self.reporter.go("" if quiet else "launch")
            self.reporter.say(pid=process.pid)

    async def _answers(self, spec: InstanceSpec) -> bool:
        return await is_ready(self.uid, spec, self._tools, booted=self._time_boot)

    def _time_boot(self) -> None:
        if self.history.resumed_s:
            self.reporter.phases_ms.setdefault("boot", _ms_since(self.history.resumed_s))

    def _time_ready(self) -> None:
        phases_ms = self.reporter.phases_ms
        if self.history.resumed_s and "ready" not in phases_ms:
            self._time_boot()
            phases_ms["ready"] = max(0, _ms_since(self.history.resumed_s) - phases_ms["boot"])

    def _adopt(self, restart_generation: int) -> None:
        """Found running after the daemon restarted: it keeps its pid and its state."""
        self.history.launched_s = _now()
        self.history.restart_generation = restart_generation
        self.reporter.go("found" if self.reporter.phase in ("Unknown", "Failed") else "")

    async def _give_up(self) -> None:
        console = self._tools.hypervisor.console_tail(self.uid, CONSOLE_LINES)
        await self._tools.hypervisor.kill(self.uid)
        self.reporter.go("" if self.reporter.phase == "Failed" else "exited")
        self.reporter.say(reason=self.history.reason, console=console)

    async def _stop(self, step: Step) -> None:
        if step.why:
            self._tools.env.log("info", "instance_stop", uid=self.uid, why=step.why)
        self.reporter.go("" if self.reporter.phase == "Stopping" else "stop")
        self.reporter.say()
        if step.kind == "kill":
            await self._tools.hypervisor.kill(self.uid)
        else:
            await self._tools.hypervisor.shutdown(self.uid, grace_s=STOP_GRACE_S)
        if self.assignment is None:
            # Now: a daemon that starts later finds no process, and so not what is to be left.
            await self.disks.leave()
        await self._tools.hypervisor.forget(self.uid)
        self.history = History(restarts=self.history.restarts)
        self.reporter.go("exited")

    async def _collect(self, process: HypervisorInstance) -> None:
        """The process ended by itself (or by the guard): keep its last words, apply the policy."""
        console = self._tools.hypervisor.console_tail(self.uid, CONSOLE_LINES)
        spec = self.assignment.spec if self.assignment is not None else None
        after_exit(spec, process, self.history, _now())
        await self._tools.hypervisor.forget(self.uid)
        self.reporter.go("" if self.reporter.phase == "Failed" else "exited")
        self.reporter.say(reason=self.history.reason, console=console)

    async def _rest(self, step: Step) -> None:
        await self.disks.give_back()
        why = "it ended and its restart policy keeps it so" if step.why == "completed" else ""
        self.reporter.go("" if self.reporter.phase == "Stopped" else "rest")
        self.reporter.say(reason=why)

    async def _retire(self, process: HypervisorInstance | None) -> None:
        await self.disks.leave()
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
            self.reporter.fail()
            self.reporter.say(reason=self.history.reason)
        return Step(kind="wait", until_s=self.history.next_launch_s)


def _ms_since(began_s: float) -> int:
    return round((_now() - began_s) * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()
