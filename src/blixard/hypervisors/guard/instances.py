"""What the guard holds: the instances with their deadlines, and what may be done to them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any

from blixard.hypervisors.guard import deadlines, launch
from blixard.hypervisors.guard.cgroups import Cgroups
from blixard.hypervisors.guard.timer import boottime_ns

INSTANCES_MAX = 1_000
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


class Refused(Exception):
    """The guard does not do what was asked, for a reason of its rules."""


class Instance:
    """One hypervisor process."""

    def __init__(self, plan: dict[str, Any], pid: int, user: int) -> None:
        self.plan = plan
        self.pid = pid
        self.user = user
        self.state = "paused"
        self.exit_code: int | None = None
        self.deadline_ns = 0
        self.seq = 0
        self.epoch = 0
        self.killed_by_guard = False
        self.ran = False

    def expired(self) -> bool:
        """Tell whether its deadline has passed."""
        return deadlines.expired(self.deadline_ns, boottime_ns())

    def facts(self) -> dict[str, Any]:
        """Return what clients may know."""
        return {
            "uid": self.plan["uid"],
            "plan": self.plan.get("launch"),
            "state": self.state,
            "pid": self.pid,
            "user": self.user,
            "exit_code": self.exit_code,
            "killed_by_guard": self.killed_by_guard,
            "deadline_ns": self.deadline_ns,
            "guard_seq": self.seq,
            "guard_epoch": self.epoch,
            "ran": self.ran,
        }


class Instances:
    """All of one guard; no method blocks."""

    def __init__(self, state_dir: str, cgroups: Cgroups, binaries: tuple[str, ...]) -> None:
        self._dir = state_dir
        self._cgroups = cgroups
        self._binaries = binaries
        self._all: dict[str, Instance] = {}

    def __len__(self) -> int:
        return len(self._all)

    def next_deadline_ns(self) -> int:
        """Return the earliest deadline still to be enforced; 0 if there is none."""
        waiting = (
            i.deadline_ns
            for i in self._all.values()
            if i.deadline_ns and i.state != "exited" and not i.killed_by_guard
        )
        return min(waiting, default=0)

    def enforce(self) -> None:
        """Kill what is past its deadline."""
        for instance in self._all.values():
            if instance.expired() and not instance.killed_by_guard:
                instance.killed_by_guard = self._kill(instance)

    def reap(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """Note which processes ended."""
        for instance in self._all.values():
            if instance.state == "exited":
                continue
            pid, status = os.waitpid(instance.pid, os.WNOHANG)
            if pid == instance.pid:
                instance.state = "exited"
                instance.exit_code = os.waitstatus_to_exitcode(status)
                tell({"event": "exit", **instance.facts()})

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out a request; its refusal is an answer too."""
        # A stream of requests must not put a deadline off.
        self.enforce()
        try:
            return self._do(request)
        except (Refused, launch.BadPlan, OSError) as error:
            return {"error": str(error)}

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "list":
                facts = [i.facts() for i in self._all.values()]
                return {"instances": facts, "cgroups": self._cgroups.controllers()}
            case "start":
                return self._start(request["plan"])
            case "extend":
                return self._extend(int(request["deadline_ns"]))
        instance = self._all.get(str(request["uid"]))
        if instance is None:
            raise Refused("no such instance")
        match request["op"]:
            case "arm":
                # Daemons from before say neither number.
                deadline_ns, epoch = int(request["deadline_ns"]), int(request.get("epoch", 0))
                return self._arm(instance, deadline_ns, int(request.get("seq", 0)), epoch)
            case "disarm":
                return self._disarm(instance, int(request["seq"]))
            case "mark":
                return self._mark(instance, str(request["state"]))
            case "kill":
                self._kill(instance)
                return instance.facts()
            case "forget":
                return self._forget(instance)
        raise Refused(f"unknown operation {request['op']!r}")

    def _start(self, plan: dict[str, Any]) -> dict[str, Any]:
        uid = str(plan["uid"])
        if _UID.fullmatch(uid) is None:
            raise Refused("the uid is no name")
        if uid in self._all:
            raise Refused(f"{uid} is here already")
        if len(self._all) >= INSTANCES_MAX:
            raise Refused(f"at most {INSTANCES_MAX} instances")
        launch.check_plan(plan, self._binaries)
        user = launch.pick_user(uid, {i.user for i in self._all.values()})
        groups = self._cgroups.make(uid, int(plan["memory_mib"]), int(plan["vcpus"]))
        pid = launch.start(plan, os.path.join(self._dir, uid), user, groups)
        self._all[uid] = Instance(plan, pid, user)
        return self._all[uid].facts()

    def _arm(self, instance: Instance, deadline_ns: int, seq: int, epoch: int) -> dict[str, Any]:
        _check_alive(instance)
        _check_seq(instance, seq)
        instance.seq = seq
        instance.epoch = max(instance.epoch, epoch)
        instance.deadline_ns = deadlines.armed(instance.deadline_ns, deadline_ns)
        return instance.facts()

    def _disarm(self, instance: Instance, seq: int) -> dict[str, Any]:
        _check_alive(instance)
        _check_seq(instance, seq)
        if instance.deadline_ns and seq == instance.seq:
            raise Refused(f"word {seq} was to arm it")
        instance.seq = seq
        instance.deadline_ns = 0
        return instance.facts()

    def _extend(self, deadline_ns: int) -> dict[str, Any]:
        """Later, never earlier; a deadline that has passed stays passed."""
        now_ns = boottime_ns()
        for instance in self._all.values():
            instance.deadline_ns = deadlines.extended(instance.deadline_ns, deadline_ns, now_ns)
        return {"extended": True}

    def _mark(self, instance: Instance, state: str) -> dict[str, Any]:
        _check_alive(instance)
        instance.state = "running" if state == "running" else "paused"
        instance.ran = instance.ran or state == "running"
        return instance.facts()

    def _forget(self, instance: Instance) -> dict[str, Any]:
        if instance.state != "exited":
            raise Refused("it is still running")
        del self._all[instance.plan["uid"]]
        self._cgroups.remove(instance.plan["uid"])
        return {"forgotten": True}

    def _kill(self, instance: Instance) -> bool:
        """Kill; false if it had ended: its pid may be somebody else's by now."""
        if instance.state == "exited":
            return False
        self._cgroups.kill(instance.plan["uid"])
        os.kill(instance.pid, signal.SIGKILL)
        return True


def _check_seq(instance: Instance, seq: int) -> None:
    """What was said before something else, and came after it, counts no longer."""
    if seq < instance.seq:
        raise Refused(f"word {seq} is older than word {instance.seq}")


def _check_alive(instance: Instance) -> None:
    ended = instance.state == "exited" or instance.killed_by_guard
    why = deadlines.why_dead(ended=ended, deadline_ns=instance.deadline_ns, now_ns=boottime_ns())
    if why:
        raise Refused(why)
