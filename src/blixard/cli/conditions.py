"""What ``wait --for`` can wait for, as decisions on an object (None: it is not there)."""

from __future__ import annotations

from typing import Any, NamedTuple

from blixard.base.errors import BlixardError
from blixard.base.units import format_bytes, format_duration
from blixard.cli import paths
from blixard.cli.kinds import Kind

Object = dict[str, Any]
# Kinds whose status says of which generation it is; what is said while it is of none.
WAITS = {
    "Image": "no node has begun to build it",
    "StoragePool": "the storage has not been asked yet",
}
WORDS = ("ready", "stopped", "deleted", "exists")


class Goal(NamedTuple):
    """A word, or a path that must have a value."""

    word: str
    path: str = ""
    value: str = ""

    def __str__(self) -> str:
        return self.word or f"{self.path}={self.value}"


class State(NamedTuple):
    """Whether the goal is reached, and a sentence about now; *failed*: it will not be by itself."""

    reached: bool
    sentence: str
    failed: bool = False


def parse_goal(text: str) -> Goal:
    """Return the goal of ``ready``, ``deleted``, ``phase=Running`` or ``status.x=y``.

    Raises:
        BlixardError: USAGE, naming the accepted forms.
    """
    text = text.removeprefix("condition=").removeprefix("jsonpath=")
    if text in ("delete", "gone"):
        text = "deleted"
    if text.lower() in WORDS:
        return Goal(text.lower())
    path, found, value = text.partition("=")
    if not found or not path:
        raise BlixardError(
            "USAGE",
            f"{text!r} is nothing to wait for",
            hint=f"--for {', '.join(WORDS)}, phase=Running or PATH=VALUE",
        )
    if path in ("phase", "state"):
        path = f"status.{path}"
    paths.parse(path)
    return Goal("", path, value)


def judge(goal: Goal, kind: Kind, resource: Object | None) -> State:
    """Return the state of *resource* against *goal*."""
    if goal.word == "deleted":
        return State(resource is None, "gone" if resource is None else _still_there(resource))
    if resource is None:
        return State(False, "not there yet")
    if goal.word == "exists":
        return State(True, "there")
    if goal.word == "ready":
        return _ready(kind, resource)
    if goal.word == "stopped":
        phase = resource["status"].get("phase", "Pending")
        return State(phase == "Stopped", str(phase))
    now = paths.text(paths.get(resource, goal.path))
    return State(now == goal.value, f"{goal.path} is {now or 'not set'}")


def _still_there(resource: Object) -> str:
    status: Object = resource.get("status", {})
    why = status.get("message") if status.get("deleting") else ""
    return f"still there{': ' if why else ''}{why}"


def _ready(kind: Kind, resource: Object) -> State:
    status: Object = resource.get("status", {})
    if kind.name == "VM":
        return _vm_ready(resource, status)
    if kind.name == "Node":
        state = status.get("state", "unknown")
        return State(state == "Ready", str(state))
    if kind.name == "Migration":
        return _arrived(resource, status)
    told = kind.name not in WAITS or status.get("observedGeneration") == _generation(resource)
    if not told:  # what is said is of the spec before
        failed = status.get("message") if kind.name == "StoragePool" else ""
        return State(False, f"Pending: {failed or WAITS[kind.name]}")
    phase = str(status.get("phase", "Pending"))
    message = status.get("reason") or status.get("message") or ""
    reached = bool(status.get("ready")) or phase in ("Ready", "Succeeded", "Done", "Available")
    return State(
        reached,
        f"{phase}{': ' if message else ''}{message}",
        phase == "Failed" and kind.name == "Image",
    )


def _arrived(resource: Object, status: Object) -> State:
    """Tell how far a migration is: until it is switched, the guest can go on where it was."""
    phase = str(status.get("phase", "Pending"))
    source, target = (str(status.get(k) or "?") for k in ("source", "target"))
    instance = resource.get("spec", {}).get("instance", "")
    stood, total = (
        format_duration(int(status.get(k, 0)) / 1000) for k in ("downtimeMs", "totalMs")
    )
    sentence = {
        "Pending": "Pending: waits for the cluster",
        "Preparing": f"Preparing: {target} makes a process that waits for the guest of {source}",
        "Copying": f"Copying: memory goes from {source} to {target}",
        "Switching": f"Switching: {instance} belongs to {target} and is about to go on there",
        "Succeeded": f"{instance} runs on {target}: it stood still for {stood}",
        "Failed": f"Failed: {status.get('reason') or 'no reason was given'}",
    }.get(phase, phase)
    if phase == "Succeeded" and status.get("bytes"):
        sentence += f", {format_bytes(int(status['bytes']))} were sent in {total}"
    return State(phase == "Succeeded", sentence, phase == "Failed")


def _generation(resource: Object) -> int:
    return int(resource["metadata"].get("generation", 0))


def _vm_ready(resource: Object, status: Object) -> State:
    wanted = int(resource.get("spec", {}).get("replicas", 1))
    ready = int(status.get("readyReplicas") or 0)
    total = int(status.get("replicas", wanted) or 0)
    message = status.get("message") or ""
    observed = status.get("observedGeneration")
    seen = observed is None or observed >= _generation(resource)
    sentence = f"{status.get('phase', 'Pending')}, {ready} of {wanted} ready"
    return State(
        ready >= wanted and total <= wanted and seen,
        f"{sentence}{': ' if message else ''}{message}",
    )
