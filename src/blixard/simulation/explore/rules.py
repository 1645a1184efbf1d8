"""The decisions that the model runs: the very functions of the node, the leader and the guard.

A test replaces one of them to see the model object.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from blixard.base.ids import ulid
from blixard.cluster.apply import apply_transaction
from blixard.cluster.kind import KindTable
from blixard.cluster.leases import LeaderLeases, LeaseConfig
from blixard.cluster.resources import Metadata, Operation, PatchStatus, Resource, Transaction
from blixard.cluster.store import Store, rebuild
from blixard.hypervisors.guard import deadlines
from blixard.node.authority import NodeAuthority, ends_with_epoch
from blixard.node.kinds import all_kinds
from blixard.node.views import (
    ClusterView,
    heartbeat_verdict,
    lost_status,
    may_start,
    to_be_fenced,
)
from blixard.ports.hypervisor import HypervisorInstance, LaunchPlan
from blixard.simulation.explore.state import NODES, Instance, Member, Replicated
from blixard.vms.reconcile import Assignment, History, decide, start_step
from blixard.vms.replicas import ReplicaPlanner
from blixard.vms.spec import InstanceSpec

# One tick of the model is a second of theirs; the kill takes less than a tick.
LEASE = LeaseConfig(lease_s=2.0, heartbeat_s=1.0, drift=0.0, kill_s=1.0, margin_s=0.0)
VM_UID, INSTANCE_UID = "vm", "instance"
_KINDS = KindTable(all_kinds())
_RECIPE = "recipe"
_TIME_MS = 1_700_000_000_000


class Rules:
    """Every decision under its name."""

    config: LeaseConfig = LEASE
    leases: type[LeaderLeases] = LeaderLeases
    authority: type[NodeAuthority] = NodeAuthority
    heartbeat_verdict: Callable[..., str] = staticmethod(heartbeat_verdict)
    to_be_fenced: Callable[..., bool] = staticmethod(to_be_fenced)
    may_start: Callable[..., bool] = staticmethod(may_start)
    start_step: Callable[..., Any] = staticmethod(start_step)
    ends_with_epoch: Callable[..., bool] = staticmethod(ends_with_epoch)
    decide: Callable[..., Any] = staticmethod(decide)
    armed: Callable[..., int] = staticmethod(deadlines.armed)
    extended: Callable[..., int] = staticmethod(deadlines.extended)
    expired: Callable[..., bool] = staticmethod(deadlines.expired)
    why_dead: Callable[..., str] = staticmethod(deadlines.why_dead)
    apply: Callable[..., Any] = staticmethod(apply_transaction)

    def __init__(self) -> None:
        # The replicated state is tiny: each answer about it is worked out once.
        self.worker_step = functools.cache(self._worker_step)
        self.confirmed_start = functools.cache(self._confirmed_start)
        self.assigned_run = functools.cache(self._assigned_run)
        self.fenced = functools.cache(self._fenced)
        self.welcomed = functools.cache(self._welcomed)
        self.planned = functools.cache(self._planned)
        self.foreign_reports = functools.cache(self._foreign_reports)
        self.node = functools.cache(self._node)

    # -- the replicated state --

    def _node(self, cluster: Replicated, number: int) -> Resource:
        found = store_of(cluster).by_uid(NODES[number])
        assert found is not None
        return found

    def _assigned_run(self, cluster: Replicated, number: int) -> int:
        """Return the run that a node's view gives it; 0: none."""
        view = ClusterView(store_of(cluster), set()).of(self.node(cluster, number))
        found = view.assignments
        return found[0].spec.run if found else 0

    def _confirmed_start(self, cluster: Replicated, number: int, run: int, epoch: int) -> bool:
        store = store_of(cluster)
        return self.may_start(store, NODES[number], uid=INSTANCE_UID, run=run, epoch=epoch)

    def _fenced(
        self, cluster: Replicated, number: int, seen: Member, decided: int, entered: int
    ) -> tuple[Replicated, str]:
        """Apply a fencing decided in term *decided* on *seen*, in an entry of term *entered*."""
        before = cluster._replace(members=_with(cluster.members, number, seen))
        node = self.node(before, number)
        op = PatchStatus.of(node, lost_status(node, "", _TIME_MS), unchanged=True)
        return self._commit(cluster, (op,), decided=decided, entered=entered)

    def _welcomed(self, cluster: Replicated, number: int) -> Replicated:
        op = PatchStatus.of(
            self.node(cluster, number), {"state": "Ready", "reason": ""}, unchanged=True
        )
        return self._commit(cluster, (op,), decided=1, entered=1)[0]

    def _planned(self, cluster: Replicated) -> Replicated:
        """Return the state after one pass of the planner."""
        numbers = itertools.count(1)
        planner = ReplicaPlanner(store_of(cluster), lambda: ulid(_TIME_MS, next(numbers)))
        ops = tuple(planner.plan())
        return self._commit(cluster, ops, decided=1, entered=1)[0] if ops else cluster

    def _foreign_reports(self, cluster: Replicated) -> tuple[str, ...]:
        """Return every report of another node, epoch or run that would count."""
        place = cluster.instance
        wrong = []
        for number, epoch, run in itertools.product(
            range(len(NODES)), range(1, 5), range(1, place.run + 2)
        ):
            current = epoch == cluster.members[number].epoch == place.epoch
            if (number, run) == (place.node, place.run) and current:
                continue
            op = PatchStatus(
                kind="Instance", namespace="default", name="web-1", uid=INSTANCE_UID,
                status={"ready": True},
                node_uid=NODES[number], node_epoch=epoch, run=run,
            )  # fmt: skip
            if not self._commit(cluster, (op,), decided=0, entered=1)[1]:
                wrong.append(f"node {NODES[number]}, epoch {epoch}, run {run}")
        return tuple(wrong)

    def _commit(
        self, cluster: Replicated, ops: tuple[Operation, ...], *, decided: int, entered: int
    ) -> tuple[Replicated, str]:
        transaction = Transaction(
            request_id="r", time_ms=_TIME_MS, actor="system", ops=ops, term=decided
        )
        after, outcome, _ = self.apply(
            store_of(cluster), _KINDS, transaction, index=10_000, term=entered
        )
        return (cluster, outcome.code) if outcome.code else (replicated_of(after), "")

    # -- the node --

    def _worker_step(
        self, number: int, run: int, process: tuple[str, int, int] | None, authority: bool
    ) -> str:
        """Return what the worker does: *run* assigned (0: none), process (state, epoch, run)."""
        assignment = None
        if run:
            spec = instance_spec(Instance(node=number, run=run, epoch=1))
            assignment = Assignment(uid=INSTANCE_UID, namespace="default", name="web-1", spec=spec)
        return str(
            self.decide(
                assignment,
                process_of(*process) if process is not None else None,
                History(built_for=_RECIPE, next_check_s=1.0),
                authority=authority,
                recipe_key=_RECIPE,
                now_s=0.0,
            ).kind
        )


def process_of(state: str, epoch: int, run: int) -> HypervisorInstance:
    """Return the process as the port shows it."""
    spec = InstanceSpec(vm="web", ordinal=1)
    plan = LaunchPlan(
        instance_uid=INSTANCE_UID, name="web-1", namespace="default", node_epoch=epoch, run=run,
        runner="", memory_mib=spec.memory_mib, vcpus=spec.vcpus,
    )  # fmt: skip
    return HypervisorInstance(
        instance_uid=INSTANCE_UID, plan=plan, state=state, pid=1,  # type: ignore[arg-type]
        guard="fence", guard_epoch=epoch,
    )  # fmt: skip


def instance_spec(place: Instance) -> InstanceSpec:
    """Return the instance as the planner would write it."""
    placed = place.node >= 0
    return InstanceSpec(
        vm="web", ordinal=1, run=place.run, node_epoch=place.epoch, fenced=True, network="default",
        node=NODES[place.node] if placed else "",
        node_name=NODES[place.node] if placed else "",
        ip="10.42.0.10", mac="02:00:00:00:00:0a", vm_generation=1,
    )  # fmt: skip


@functools.cache
def store_of(cluster: Replicated) -> Store:
    """Return a store that holds the state; revisions differ whenever a node's state does."""
    found = [_resource("Namespace", "default", "ns")]
    network = {"cidr": "10.42.0.0/24", "vni": 1}
    found.append(_resource("Network", "default", "net", spec=network))
    for number, (member, uid) in enumerate(zip(cluster.members, NODES, strict=True)):
        spec = {
            "address": f"10.0.0.{number}:1", "raftId": number + 1, "maxVms": 10,
            "schedulable": True, "capacity": {"vcpus": 8, "memoryMib": 8192},
        }  # fmt: skip
        status = {"epoch": member.epoch, "state": "Ready" if member.ready else "Lost"}
        revision = 2 * member.epoch + member.ready
        found.append(_resource("Node", uid, uid, spec=spec, status=status, revision=revision))
    vm = {"recipe": {}, "replicas": 1, "onPartition": "fence"}
    found.append(_resource("VM", "web", VM_UID, spec=vm, namespace="default"))
    spec = msgspec.to_builtins(instance_spec(cluster.instance))
    found.append(
        _resource("Instance", "web-1", INSTANCE_UID, spec=spec, namespace="default", owner=VM_UID)
    )
    return Store(rebuild(found, ()), 100)


def _resource(
    kind: str,
    name: str,
    uid: str,
    *,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    namespace: str = "",
    owner: str = "",
    revision: int = 1,
) -> Resource:
    meta = Metadata(
        name=name, namespace=namespace, uid=uid, owner=owner, revision=revision, generation=1
    )
    return Resource(kind=kind, metadata=meta, spec=spec or {}, status=status or {})


def replicated_of(store: Store) -> Replicated:
    """Return what the model remembers of a store."""
    members = []
    for uid in NODES:
        node = store.by_uid(uid)
        assert node is not None
        ready = node.status["state"] == "Ready"
        members.append(Member(ready=ready, epoch=int(node.status["epoch"])))
    instance = store.by_uid(INSTANCE_UID)
    assert instance is not None
    spec = instance.spec
    number = NODES.index(spec["node"]) if spec.get("node") else -1
    return Replicated(
        members=(members[0], members[1]),
        instance=Instance(node=number, run=spec["run"], epoch=spec["nodeEpoch"]),
    )


def _with(members: tuple[Member, ...], number: int, member: Member) -> tuple[Member, Member]:
    return (member, members[1]) if number == 0 else (members[0], member)
