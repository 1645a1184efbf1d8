"""What became of instances when nodes died: seen at the hypervisors, explained by the cluster."""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.vms.spec import InstanceSpec

Outcome = Literal[
    "runs on", "moved", "restarted", "new", "Pending", "Unknown", "down", "stopped", "removed"
]


class Fate(msgspec.Struct, kw_only=True):
    """One instance: the node on which it answered before, and since; ``new``: made afterwards."""

    instance: Resource
    was: str = ""
    on: str = ""
    new: bool = False
    down_s: float | None = None
    back_s: float | None = None

    def seen(self, on: str, after_s: float) -> None:
        """Note where it answers *after_s* seconds after the deaths."""
        if on == self.on:
            return
        if self.on and self.down_s is None:
            self.down_s = after_s
        self.back_s = after_s if on else None
        self.on = on


class Quorum(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who voted, who is left, who leads; ``votersKnown``: the file said who votes."""

    voters: tuple[str, ...]
    left: tuple[str, ...]
    kept: bool
    leader_before: str
    leader: str
    leader_after_s: float | None
    voters_known: bool


class Row(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer for one instance; ``partition``: fenced, kept or local data; times in seconds."""

    namespace: str
    name: str
    vm: str
    was_on: str
    outcome: str
    on: str
    down_after_s: float | None
    back_after_s: float | None
    partition: str
    why: str


class VMRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Replicas of a VM: wanted, answering before the deaths, answering at the end."""

    namespace: str
    name: str
    wanted: int
    before: int
    after: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All that was seen; ``killed``: seconds until the cluster knew each node to be lost."""

    seed: int
    for_s: float
    killed: dict[str, float | None]
    quorum: Quorum
    says: str
    instances: tuple[Row, ...]
    vms: tuple[VMRow, ...]


def answer(
    store: Store,
    fates: list[Fate],
    quorum: Quorum,
    *,
    killed: dict[str, float | None],
    seed: int,
    for_s: float,
) -> Answer:
    """Return what is told of a run that is over."""
    ordered = sorted(fates, key=lambda fate: _place(fate.instance))
    newer: dict[str, str] = {}
    for fate in ordered:
        if fate.new and fate.on:
            newer.setdefault(fate.instance.metadata.owner, fate.instance.metadata.name)
    rows = tuple(_row(store, fate, newer, killed, quorum) for fate in ordered)
    return Answer(
        seed=seed, for_s=for_s, killed=killed, quorum=quorum, says=_says(quorum), instances=rows,
        vms=tuple(_vm(vm, ordered) for vm in store.list("VM")),
    )  # fmt: skip


def _place(instance: Resource) -> tuple[str, str, int]:
    meta = instance.metadata
    return meta.namespace, str(instance.spec.get("vm", "")), int(instance.spec.get("ordinal", 0))


def _vm(vm: Resource, fates: list[Fate]) -> VMRow:
    own = [fate for fate in fates if fate.instance.metadata.owner == vm.metadata.uid]
    return VMRow(
        namespace=vm.metadata.namespace,
        name=vm.metadata.name,
        wanted=int(vm.spec.get("replicas", 1)) if vm.spec.get("running", True) else 0,
        before=sum(bool(fate.was) for fate in own),
        after=sum(bool(fate.on) for fate in own),
    )


def _row(
    store: Store,
    fate: Fate,
    newer: dict[str, str],
    killed: dict[str, float | None],
    quorum: Quorum,
) -> Row:
    spec = msgspec.convert(fate.instance.spec, InstanceSpec)
    meta = fate.instance.metadata
    there = store.by_uid(meta.uid)
    outcome, why = _outcome(fate, there, spec, killed, quorum)
    if outcome == "Unknown":
        heir = newer.get(meta.owner)
        if spec.persistent:
            why = f"its data exists only on {spec.node_name}: it waits for that node"
        elif heir:
            why = f"its node is lost; {heir} takes its place"
    return Row(
        namespace=meta.namespace,
        name=meta.name,
        vm=spec.vm,
        was_on=fate.was,
        outcome=outcome,
        on=fate.on,
        down_after_s=_rounded(fate.down_s),
        back_after_s=_rounded(fate.back_s),
        partition="local data" if spec.persistent else "fenced" if spec.fenced else "kept",
        why=why,
    )


def _outcome(
    fate: Fate,
    there: Resource | None,
    spec: InstanceSpec,
    killed: dict[str, float | None],
    quorum: Quorum,
) -> tuple[Outcome, str]:
    if fate.on:
        if fate.new:
            return "new", spec.placement
        if fate.down_s is None:
            return "runs on", ""
        return ("restarted", "") if fate.on == fate.was else ("moved", spec.placement)
    if not quorum.kept:
        if fate.was in killed:
            return "down", "nothing is started without a quorum"
        if fate.was:
            return "stopped", "the lease of its node ended, and nobody can renew it"
    if there is None:
        return "removed", "more replicas than wanted"
    if spec.desired == "Stopped":
        return "stopped", "it is wanted stopped"
    phase, reason = str(there.status.get("phase", "Pending")), str(there.status.get("reason", ""))
    if phase == "Unknown":
        return "Unknown", reason
    return ("Pending", reason) if phase == "Pending" else ("down", reason or phase)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _says(quorum: Quorum) -> str:
    """Return in words whether the cluster can still decide, and what to do if it cannot."""
    total, left = len(quorum.voters), len(quorum.left)
    needed = total // 2 + 1
    if quorum.kept:
        spare = left - needed
        led = f"{quorum.leader} leads" if quorum.leader else "nobody leads yet"
        if quorum.leader != quorum.leader_before and quorum.leader_after_s is not None:
            led += f", after {quorum.leader_after_s:.1f} s"
        more = f"{spare} more may die" if spare else "not one more may die"
        return f"quorum kept: {left} of {total} voters are left, {more}; {led}"
    gone = ", ".join(sorted(set(quorum.voters) - set(quorum.left)))
    return (
        f"quorum lost: {left} of {total} voters are left, {needed} are needed. Nothing is started, "
        f"moved or changed until {needed - left} of {gone} come back; if they never do: "
        "blixard cluster recover"
    )
