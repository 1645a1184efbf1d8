"""What a node does next for one instance: a pure function of assignment, process and history.

The node holds one worker per instance; each pass of a worker takes the facts, asks
:func:`decide` for one step, does it, and looks again. A crash between any two steps is harmless:
the facts are read anew from the guard and from the cluster.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.ports.hypervisor import HypervisorInstance
from blixard.vms.guarding import mode_of
from blixard.vms.spec import InstanceSpec

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 300.0
STABLE_AFTER_S = 60.0  # an instance that ran this long starts its back-off anew
STOP_GRACE_S = 10.0


class Assignment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instance that the cluster gave to this node; ``incoming``: it is to be moved here."""

    uid: str
    namespace: str
    name: str
    spec: InstanceSpec
    incoming: bool = False


class History(msgspec.Struct, kw_only=True):
    """What the worker remembers of its instance; lost with the daemon, and that is harmless.

    Times are seconds of the event loop; 0 means never.
    """

    restarts: int = 0
    failures: int = 0
    launched_s: float = 0.0
    resumed_s: float = 0.0
    next_launch_s: float = 0.0
    built_for: str = ""
    ready: bool = False
    misses: int = 0
    next_check_s: float = 0.0
    next_guard_s: float = 0.0
    completed: bool = False
    restart_generation: int = -1
    reason: str = ""


StepKind = Literal[
    "wait",
    "build",
    "launch",
    "check",
    "guard",
    "stop",
    "kill",
    "collect",
    "rest",
    "end",
    "retire",
    "await",
    "tell",
    "send",
    "abandon",
    "arrive",
    "go on",
    "doubt",
    "drop",
    "forget",
]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next thing to do; ``until_s`` bounds a wait (0: until something changes)."""

    kind: StepKind
    until_s: float = 0.0
    why: str = ""


StartStep = Literal["spawn", "arm", "ask", "resume", "discard"]


def start_step(
    after: StartStep | None, *, fenced: bool, allowed: bool | None = None
) -> StartStep | None:
    """Return the next step of a start, None at its end: stopped, arm, ask again, then run."""
    match after:
        case None:
            return "spawn"
        case "spawn":
            return "arm" if fenced else "ask"
        case "arm":
            return "ask"
        case "ask":
            return "resume" if allowed else "discard"
    return None


def backoff_s(failures: int) -> float:
    """Return the pause before the next start after *failures* in a row: 1, 2, 4 ... 300 s."""
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** max(0, min(failures, 20) - 1)))


def decide(
    assignment: Assignment | None,
    process: HypervisorInstance | None,
    history: History,
    *,
    authority: bool,
    recipe_key: str,
    now_s: float,
) -> Step:
    """Return the next step.

    ``authority``: the lease is valid and the assignment was read linearizably under its epoch.
    Without it nothing is started and nothing is stopped: the guard alone acts on fenced instances.
    """
    if not authority:
        return _observe(process, history, now_s)
    if assignment is None:
        return _remove(process)
    spec = assignment.spec
    if process is not None and process.state != "exited":
        return _live(spec, process, history, recipe_key, now_s)
    if process is not None:
        return Step(kind="collect")
    if spec.desired == "Stopped":
        return Step(kind="rest")
    if history.completed and history.restart_generation == spec.restart_generation:
        return Step(kind="rest", why="completed")
    if history.built_for != recipe_key:
        if now_s < history.next_launch_s:
            return Step(kind="wait", until_s=history.next_launch_s)
        return Step(kind="build")
    if now_s < history.next_launch_s:
        return Step(kind="wait", until_s=history.next_launch_s, why="back-off")
    return Step(kind="launch")


def _observe(process: HypervisorInstance | None, history: History, now_s: float) -> Step:
    if process is not None and process.state == "running" and now_s >= history.next_check_s:
        return Step(kind="check")
    return Step(kind="wait", until_s=history.next_check_s if process else 0.0)


def _remove(process: HypervisorInstance | None) -> Step:
    if process is None:
        return Step(kind="end")
    if process.state == "exited":
        return Step(kind="retire")
    return Step(kind="stop", why="no longer assigned")


def _live(
    spec: InstanceSpec,
    process: HypervisorInstance,
    history: History,
    recipe_key: str,
    now_s: float,
) -> Step:
    if process.plan.run != spec.run:
        return Step(kind="stop", why="of an older run")
    if process.state == "paused":
        return Step(kind="kill", why="its start was interrupted")
    if spec.desired == "Stopped":
        return Step(kind="stop", why="asked to stop")
    if process.plan.recipe not in ("", recipe_key):
        return Step(kind="stop", why="its image changed")
    if history.restart_generation not in (-1, spec.restart_generation):
        return Step(kind="stop", why="restart asked for")
    told = (process.guard, process.guard_seq)
    if told != (mode_of(spec), spec.guard_seq) and now_s >= history.next_guard_s:
        return Step(kind="guard")
    if now_s >= history.next_check_s:
        return Step(kind="check")
    return Step(kind="wait", until_s=history.next_check_s)


def after_exit(
    spec: InstanceSpec | None, process: HypervisorInstance, history: History, now_s: float
) -> None:
    """Write into *history* what an exit means under the restart policy."""
    history.ready = False
    history.misses = 0
    if spec is None:
        return
    failed = process.killed_by_guard or process.exit_code != 0
    history.completed = spec.restart_policy == "Never" or (
        spec.restart_policy == "OnFailure" and not failed
    )
    ran_s = now_s - history.launched_s if history.launched_s else 0.0
    history.failures = 1 if ran_s >= STABLE_AFTER_S else history.failures + 1
    history.next_launch_s = now_s + backoff_s(history.failures)
    history.restarts += 1
    if process.killed_by_guard:
        history.reason = "stopped by the guard: the node's lease ended"
    elif not history.reason:
        history.reason = f"the guest ended (exit code {process.exit_code})"


def after_check(spec: InstanceSpec, history: History, *, answered: bool, now_s: float) -> None:
    """Write a readiness result: one success makes ready, N misses in a row make unready."""
    history.next_check_s = now_s + spec.readiness.interval_s
    if answered:
        history.ready, history.misses, history.reason = True, 0, ""
        return
    history.misses += 1
    if history.misses >= spec.readiness.failure_threshold:
        history.ready = False


def start_overdue(spec: InstanceSpec, history: History, now_s: float) -> bool:
    """Tell whether a launched instance should have become ready by now."""
    return (
        not history.ready
        and history.launched_s > 0
        and now_s - history.launched_s > spec.readiness.start_timeout_s
        and history.failures >= 0
    )
