"""Starting an instance: its guest is built, its process spawned, and its CPUs let run if they may.

The order of a start is decided in ``reconcile.start_step``.
"""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.guests import GuestRecipe
from blixard.ports.hypervisor import LaunchPlan
from blixard.vms import arming
from blixard.vms.guarding import mode_of
from blixard.vms.held_disks import HeldDisks
from blixard.vms.reconcile import Assignment, backoff_s, start_step
from blixard.vms.reporter import Reporter
from blixard.vms.tools import Subject, Tools


class Launcher:
    """Builds, plans and starts for one worker; the node's builds share *build_lock*."""

    def __init__(
        self,
        subject: Subject,
        tools: Tools,
        build_lock: asyncio.Lock,
        *,
        reporter: Reporter,
        disks: HeldDisks,
    ) -> None:
        self._subject = subject
        self._tools = tools
        self._build_lock = build_lock
        self._reporter = reporter
        self._disks = disks
        self._runner = ""

    async def build(self) -> None:
        """Build what is assigned. Raises as ``GuestBuilder.build`` does."""
        assert self._subject.assignment is not None
        spec = self._subject.assignment.spec
        if not self._subject.assignment.incoming:
            self._reporter.go("build")
            self._reporter.say()
        began_s = _now()
        async with self._build_lock:
            built = await self._tools.builder.build(spec.recipe, lambda _line: None)
        self._runner = built.runner
        self._subject.history.built_for = recipe_key(spec.recipe)
        self._reporter.phases_ms = {"build": _ms_since(began_s)}

    async def launch(self) -> None:
        """Start what is assigned: stopped, arm, ask again, run. Raises BlixardError, OSError."""
        assert self._subject.assignment is not None
        authority, hypervisor = self._tools.authority, self._tools.hypervisor
        spec, epoch = self._subject.assignment.spec, authority.epoch
        self._subject.history.reason = ""
        self._subject.history.restart_generation = spec.restart_generation
        self._subject.history.launched_s = began_s = _now()
        kept = self._reporter.phases_ms.items()
        self._reporter.phases_ms = {k: v for k, v in kept if k == "build"}
        self._reporter.go("launch")
        self._reporter.say()
        plan = await self.plan(self._subject.assignment, epoch)
        spawned_s = began_s
        tells = mode_of(spec) == "fence" or spec.guard_seq > 0
        allowed, step = False, start_step(None, fenced=tells)
        while step is not None:
            match step:
                case "spawn":
                    await self.spawn(plan)
                    self._reporter.phases_ms["prepare"] = _ms_since(began_s)
                    spawned_s = _now()
                case "arm":
                    await arming.tell_guard(self._subject.uid, spec, self._tools, epoch)
                case "ask":
                    allowed = await authority.confirm_start(self._subject.uid, spec.run, epoch)
                case "resume":
                    await hypervisor.resume(self._subject.uid)
                case "discard":
                    await self._discard()
            step = start_step(step, fenced=tells, allowed=allowed)
        if not allowed:
            self._subject.history.next_launch_s = _now() + backoff_s(1)
            return
        self._subject.history.next_check_s = _now() + min(0.5, spec.readiness.interval_s)
        self._reporter.phases_ms["start"] = _ms_since(spawned_s)
        self._subject.history.resumed_s = _now()
        self._reporter.say(started=True)

    async def spawn(self, plan: LaunchPlan) -> None:
        """Start it stopped; after a failure the builder looks whether the runner is still there.

        A cache may be emptied and a disk cleaned while the daemon runs.
        """
        try:
            await self._tools.hypervisor.start_paused(plan)
        except (BlixardError, OSError):
            self._subject.history.built_for = ""
            raise

    async def _discard(self) -> None:
        self._reporter.go("stop")
        await self._tools.hypervisor.kill(self._subject.uid)
        await self._tools.hypervisor.forget(self._subject.uid)
        self._reporter.go("exited")

    async def plan(self, assignment: Assignment, epoch: int) -> LaunchPlan:
        """Return what to spawn, with its tap and its volumes here. Raises BlixardError."""
        spec = assignment.spec
        tap, gateway, prefix, mtu = "", "", 0, 1450
        if spec.network and spec.ip:
            gateway, prefix, mtu = self._tools.network_of(spec.network)
            tap = await self._tools.network.ensure_tap(spec.network, self._subject.uid)
        source = spec.node if assignment.incoming else ""
        disks = await self._disks.attach(spec, epoch, moves_from=source)
        return LaunchPlan(
            instance_uid=self._subject.uid,
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


def recipe_key(recipe: GuestRecipe) -> str:
    """Return a digest of a recipe."""
    return hashlib.blake2b(msgspec.json.encode(recipe), digest_size=16).hexdigest()


def _ms_since(began_s: float) -> int:
    return round((_now() - began_s) * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()
