"""What apply enforces of an instance that moves while it runs, whoever asks; pure.

An instance leaves a node that has not said that it stopped only by a *switch*: its migration stands
in its spec with that target and the next run, and the node has said under this run that the CPUs
stand still for just this migration. They go on only after a start question was answered with yes,
which it is not while the migration stands there. So whichever of switch and roll-back is committed
first excludes the other, and neither leaves two nodes that may let the guest run.
"""

from __future__ import annotations

from typing import Any

from blixard.cluster.kind import StateView
from blixard.cluster.resources import Resource

PAUSED_FOR = "pausedFor"  # in the status: the uid of the migration for which the CPUs stand still

# What the target was prepared for: a change of any of it ends the migration first.
FIXED = (
    "desired", "fenced", "guard", "guardSeq", "vcpus", "memoryMib", "recipe", "network", "ip",
    "mac", "persistent", "restartGeneration", "volumes",
)  # fmt: skip
_PLACE = ("node", "nodeEpoch", "run")


def move_of(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return the migration in an instance's spec."""
    found = spec.get("migration")
    return found if isinstance(found, dict) else None


def local_volume(spec: dict[str, Any]) -> str:
    """Return the name of a volume in an instance's spec that only its node has, or nothing."""
    names = (v.get("name") for v in spec.get("volumes", ()) if v.get("backend") == "local")
    return str(next(names, ""))


def reserves(spec: dict[str, Any], node_uid: str) -> bool:
    """Tell whether an instance counts on a node: it is there, or is being moved there."""
    move = move_of(spec)
    return spec.get("node") == node_uid or (move is not None and move.get("target") == node_uid)


def still_fits(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Tell whether a spec leaves alone what a migration in it relies on."""
    return all(old.get(name) == new.get(name) for name in (*FIXED, *_PLACE))


def switch_problem(state: StateView, old: Resource, new: Resource) -> str:
    """Return why a change of node is no switch of the migration in the old spec; empty: it is."""
    was, now, move = old.spec, new.spec, move_of(old.spec)
    if move is None or move_of(now) is not None:
        return "it is not being moved"
    if (now.get("node"), now.get("run")) != (move.get("target"), move.get("run")):
        return "it is being moved elsewhere"
    if move.get("step") != "copy" or old.status.get(PAUSED_FOR) != move.get("uid"):
        return "its node has not said that it stands still for the migration"
    if any(was.get(name) != now.get(name) for name in FIXED):
        return "a switch changes nothing but the node"
    if now.get("nodeEpoch") != move.get("targetEpoch"):
        return "it is being moved into another epoch"
    return _target_problem(state, move)


def move_problem(state: StateView, old: Resource | None, new: Resource) -> str:
    """Return what is wrong with the migration in a new spec; empty if there is none."""
    move, before = move_of(new.spec), move_of(old.spec) if old is not None else None
    if move is None:
        return ""
    if old is None or not old.spec.get("node"):
        return "an instance that is on no node cannot be moved"
    if not still_fits(old.spec, new.spec):
        return "what a migration relies on changes only after the migration was taken back"
    if before is not None:
        same = {**before, "step": ""} == {**move, "step": ""}
        back = before.get("step") == "copy" and move.get("step") != "copy"
        return "" if same and not back else "another migration of it is under way"
    tied = new.spec.get("persistent") or local_volume(new.spec)
    if new.spec.get("desired") != "Running" or tied:
        return "only a running instance without data on its node can be moved"
    if move.get("run") != int(new.spec.get("run", 0)) + 1 or move.get("step") != "prepare":
        return "a migration begins with its preparation, for the next run"
    if move.get("target") == new.spec.get("node"):
        return "it is on that node"
    return _target_problem(state, move)


def _target_problem(state: StateView, move: dict[str, Any]) -> str:
    node = state.by_uid(str(move.get("target")))
    if node is None or node.kind != "Node":
        return "the target does not exist"
    here = (node.status.get("state"), node.status.get("epoch"))
    if here != ("Ready", move.get("targetEpoch")):
        return f"the target {node.metadata.name} does not take part under that epoch"
    return ""
