"""What the leader does for migrations: begins them, takes nodes' words, ends them; pure.

Every change is a transaction that stands only if nothing it was decided on has changed. What makes
a switch safe is not decided here but enforced by apply (cluster/moves.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

from blixard.cluster.moves import PAUSED_FOR
from blixard.cluster.resources import Delete, Operation, PatchStatus, Put, Resource
from blixard.cluster.store import Store
from blixard.placement.choice import choose
from blixard.vms.migration_rules import problems
from blixard.vms.moves import FINISHED_KEPT, MigrationSpec, Move, MoveAnswer, MoveWord, active
from blixard.vms.places import request_of
from blixard.vms.rooms import Rooms
from blixard.vms.spec import InstanceSpec, VMSpec

LEFT_MAX = 64
MOVES_MAX = 8  # migrations that are begun in one pass; the others wait for the next
CHANGED = "the instance was changed, ended or placed elsewhere meanwhile"
LOST = "its memory was lost: it starts anew on {}"


class MigrationPlanner:
    """One pass over the migrations; ``overdue`` tells which have passed their deadline."""

    def __init__(self, store: Store, *, now_ms: int, overdue: frozenset[str] = frozenset()) -> None:
        self._store = store
        self._now_ms = now_ms
        self._overdue = overdue

    def plan(self) -> list[tuple[Operation, ...]]:
        """Return transactions, each for itself; empty: nothing is to be done now."""
        plan: list[tuple[Operation, ...]] = []
        finished: dict[str, list[Resource]] = {}
        for migration in self._store.list("Migration"):
            if not active(migration.status):
                finished.setdefault(migration.metadata.namespace, []).append(migration)
            elif ops := self._step(migration):
                plan.append(ops)
                if migration.status.get("phase", "Pending") == "Pending":
                    break  # what it reserves counts for the next one
            if len(plan) >= MOVES_MAX:
                break
        old = [m for found in finished.values() for m in _superfluous(found)]
        if old:
            plan.append(tuple(Delete.of(m, unchanged=True) for m in old[:MOVES_MAX]))
        return plan

    def _step(self, migration: Resource) -> tuple[Operation, ...]:
        meta, status = migration.metadata, migration.status
        name = str(migration.spec.get("instance", ""))
        instance = self._store.get("Instance", meta.namespace, name)
        if status.get("phase", "Pending") == "Pending":
            return self._begin(migration, instance)
        if status.get("switched"):
            return self._conclude(migration, instance)
        move = instance.spec.get("migration") if instance is not None else None
        if instance is None or move is None or move["uid"] != meta.uid:
            return (self._end(migration, "Failed", CHANGED),)
        reason = self._give_up(migration, instance, move)
        return self._roll_back(migration, instance, reason) if reason else ()

    def _begin(self, migration: Resource, instance: Resource | None) -> tuple[Operation, ...]:
        spec = msgspec.convert(migration.spec, MigrationSpec)
        found = problems(self._store, migration.metadata.namespace, spec, migration.metadata.uid)
        if migration.status.get("deleting"):
            found = ["it was deleted"]
        if found or instance is None:
            return (self._end(migration, "Failed", "; ".join(found)),)
        target, why = self._target(spec, instance)
        if target is None:
            return (self._end(migration, "Failed", why),)
        current = msgspec.convert(instance.spec, InstanceSpec)
        move = Move(
            uid=migration.metadata.uid,
            name=migration.metadata.name,
            target=target.metadata.uid,
            target_name=target.metadata.name,
            target_epoch=int(target.status.get("epoch", 0)),
            run=current.run + 1,
            live=spec.live,
        )
        status = {
            "phase": "Preparing",
            "reason": "",
            "source": current.node_name,
            "sourceUid": current.node,
            "target": move.target_name,
            "targetUid": move.target,
            "run": move.run,
            "startedAtMs": self._now_ms,
        }
        return (
            _put(instance, msgspec.structs.replace(current, migration=move)),
            _patch(migration, status),
        )

    def _target(self, spec: MigrationSpec, instance: Resource) -> tuple[Resource | None, str]:
        """Return the node, or why none has room."""
        vm = self._store.by_uid(instance.metadata.owner)
        wish = msgspec.convert(vm.spec, VMSpec) if vm is not None else VMSpec()
        current = msgspec.convert(instance.spec, InstanceSpec)
        rooms = Rooms(self._store)
        rooms.release(current.node, instance.metadata.owner, request_of(wish, current))
        others = [
            room
            for room in rooms.seen_by(instance.metadata.owner)
            if room.uid != current.node and spec.target_node in ("", room.name)
        ]
        choice = choose(request_of(wish, current), others)
        if choice.node is None:
            return None, choice.why
        return self._store.by_uid(choice.node.uid), ""

    def _give_up(self, migration: Resource, instance: Resource, move: dict[str, Any]) -> str:
        """Return why a migration that is not switched yet must be rolled back; empty: it need not.

        A source that is silent is none: what it does not say is covered by the deadline.
        """
        source, target = (
            self._store.by_uid(instance.spec["node"]),
            self._store.by_uid(move["target"]),
        )
        here = (target.status.get("state"), target.status.get("epoch")) if target else ("", 0)
        if target is None or here != ("Ready", move["targetEpoch"]):
            return f"the target {move['targetName']} was lost"
        if target.status.get("removing"):
            return f"the target {move['targetName']} is to be removed"
        if source is None or source.status.get("state") == "Lost":
            return "its node was lost"
        phase = instance.status.get("phase")
        if phase not in ("Running", "Migrating", "Unknown"):
            return f"the guest is {phase}"
        if migration.status.get("deleting"):
            return "it was deleted"
        return "its deadline passed" if migration.metadata.uid in self._overdue else ""

    def _roll_back(
        self, migration: Resource, instance: Resource, reason: str
    ) -> tuple[Operation, ...]:
        return (*roll_back(instance), self._end(migration, "Failed", reason))

    def _conclude(self, migration: Resource, instance: Resource | None) -> tuple[Operation, ...]:
        """Say what became of the memory, once the target did or cannot any more."""
        status, uid = migration.status, migration.metadata.uid
        lost = LOST.format(status.get("target"))
        if instance is None or instance.spec.get("desired") != "Running":
            return (self._end(migration, "Failed", CHANGED),)
        if instance.spec.get("run") != status.get("run"):
            lost = LOST.format(instance.spec.get("nodeName") or "another node")
            return (self._end(migration, "Failed", f"placed anew after the switch; {lost}"),)
        said = instance.status
        if said.get("run") == status.get("run"):
            if said.get("arrivedBy") == uid:
                return (self._arrived(migration, said),)
            return (self._end(migration, "Failed", lost),)
        node = self._store.by_uid(str(status.get("targetUid")))
        if node is None or node.status.get("state") == "Lost":
            return (
                self._end(migration, "Failed", f"the target was lost after the switch; {lost}"),
            )
        return ()

    def _arrived(self, migration: Resource, said: dict[str, Any]) -> Operation:
        downtime_ms = migration.status.get("downtimeMs", 0) + said.get("arrivalMs", 0)
        return self._end(migration, "Succeeded", "", {"downtimeMs": downtime_ms})

    def _end(
        self, migration: Resource, phase: str, reason: str, more: dict[str, object] | None = None
    ) -> Operation:
        status = {"phase": phase, "reason": reason, "endedAtMs": self._now_ms, **(more or {})}
        return _patch(migration, status)


def roll_back(instance: Resource) -> tuple[Operation, ...]:
    """Return what makes a switch impossible from now on."""
    spec = msgspec.convert(instance.spec, InstanceSpec)
    left = _left(spec, spec.migration.target, but=spec.node) if spec.migration else spec.left
    return (_put(instance, msgspec.structs.replace(spec, migration=msgspec.UNSET, left=left)),)


def _left(spec: InstanceSpec, node: str, *, but: str) -> tuple[str, ...] | msgspec.UnsetType:
    """Return who may not have given the volumes back: with *node*, without the one that has it."""
    if not any(volume.backend != "local" for volume in spec.disks):
        return spec.left
    kept = tuple(uid for uid in spec.left_nodes if uid not in (node, but))
    return (*kept, node)[-LEFT_MAX:]


def answer(
    store: Store, node_uid: str, word: MoveWord, *, now_ms: int
) -> tuple[MoveAnswer | None, tuple[Operation, ...]]:
    """Return the answer to a node's word, or None and what is to be committed first.

    The word was confirmed to be heard by the leader; *store* is linearizable after it.
    """
    migration, instance = store.by_uid(word.migration), store.by_uid(word.instance)
    if migration is None or instance is None or instance.kind != "Instance":
        return MoveAnswer(done=False, reason=CHANGED), ()
    status = migration.status
    if word.said == "sent":
        return _sent(migration, node_uid, word)
    if status.get("switched"):
        return MoveAnswer(done=word.said == "paused", reason="it is switched"), ()
    move = instance.spec.get("migration")
    if move is None or move["uid"] != word.migration:
        return MoveAnswer(done=word.said == "failed", reason=status.get("reason", CHANGED)), ()
    role = {move["target"]: "target", instance.spec["node"]: "source"}.get(node_uid)
    node = store.by_uid(node_uid)
    if role is None or node is None or node.status.get("epoch") != word.epoch:
        return MoveAnswer(done=False, reason="another node or epoch moves it"), ()
    if word.said == "failed":
        end = {"phase": "Failed", "reason": word.reason, "endedAtMs": now_ms}
        return None, (*roll_back(instance), _patch(migration, end))
    if word.said == "prepared" and role == "target":
        if move["step"] == "copy":
            return MoveAnswer(done=True), ()
        return None, (_stepped(instance, "copy"), _patch(migration, {"phase": "Copying"}))
    if word.said == "paused" and role == "source":
        return None, switch(instance, migration, word.epoch)
    return MoveAnswer(done=False, reason=f"the {role} does not say {word.said}"), ()


def switch(instance: Resource, migration: Resource, epoch: int) -> tuple[Operation, ...]:
    """Return the one transaction that gives the instance to the target.

    The source's word counts under its own run and epoch only; with it stands the change of owner.
    """
    spec = msgspec.convert(instance.spec, InstanceSpec)
    move = spec.migration
    assert move
    paused = _patch(instance, {PAUSED_FOR: move.uid})
    moved = msgspec.structs.replace(
        spec,
        node=move.target,
        node_name=move.target_name,
        node_epoch=move.target_epoch,
        run=move.run,
        placement=f"moved from {spec.node_name} by {move.name}",
        migration=msgspec.UNSET,
        left=_left(spec, spec.node, but=move.target),
    )
    return (
        msgspec.structs.replace(paused, node_uid=spec.node, node_epoch=epoch, run=spec.run),
        Put.of(instance, msgspec.to_builtins(moved)),
        PatchStatus.of(
            instance,
            {"phase": "Migrating", "reason": "", PAUSED_FOR: None, "arrivedBy": None},
        ),
        _patch(migration, {"phase": "Switching", "switched": True}),
    )


def _sent(
    migration: Resource, node_uid: str, word: MoveWord
) -> tuple[MoveAnswer | None, tuple[Operation, ...]]:
    status = migration.status
    if status.get("sourceUid") != node_uid or status.get("bytes"):
        return MoveAnswer(done=True), ()
    downtime_ms = word.downtime_ms + status.get("downtimeMs", 0)
    said = {"totalMs": word.total_ms, "bytes": word.bytes_sent, "downtimeMs": downtime_ms}
    return None, (_patch(migration, said),)


def _stepped(instance: Resource, step: str) -> Operation:
    spec = {**instance.spec, "migration": {**instance.spec["migration"], "step": step}}
    return Put.of(instance, spec, unchanged=True)


def _superfluous(finished: list[Resource]) -> list[Resource]:
    """Return those that are to go: deleted ones, and the oldest beyond those that are kept."""
    ordered = sorted(finished, key=lambda m: (m.status.get("endedAtMs", 0), m.metadata.uid))
    return [
        migration
        for place, migration in enumerate(ordered)
        if migration.status.get("deleting") or place < len(ordered) - FINISHED_KEPT
    ]


def _patch(resource: Resource, status: dict[str, object]) -> PatchStatus:
    return PatchStatus.of(resource, status, unchanged=True)


def _put(instance: Resource, spec: InstanceSpec) -> Put:
    return Put.of(instance, msgspec.to_builtins(spec), unchanged=True)
