"""States of a small cluster for tests: real machine, real rules, committed by transactions."""

from __future__ import annotations

import itertools

from blixard.base.ids import ulid
from blixard.cluster.commands import encode_command
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Operation, PatchStatus, Put, Transaction
from blixard.node.founding import Founding, NodeFacts, founding_ops
from blixard.node.kinds import all_kinds
from blixard.vms.replicas import ReplicaPlanner
from blixard.vms.settled import Settled

START_MS = 1_700_000_000_000


class Cluster:
    """A machine fed directly; every commit must succeed."""

    def __init__(self, nodes: int = 3, vcpus: int = 4, memory_mib: int = 4096) -> None:
        self.machine = ClusterMachine(all_kinds())
        self._number = itertools.count(1)
        self.settled = Settled()
        facts = NodeFacts(vcpus=vcpus, memory_mib=memory_mib)
        founding = Founding(trust_domain="t", facts=facts)
        self.commit(
            *founding_ops(
                founding,
                cluster_id="c",
                uid="u1",
                name="node1",
                address="10.0.0.1:1",
                new_uid=self.uid,
            )
        )
        for n in range(2, nodes + 1):
            self.commit(self._node(n, vcpus, memory_mib))
        for n in range(1, nodes + 1):
            self.patch("Node", f"node{n}", state="Ready")

    def _node(self, n: int, vcpus: int, memory_mib: int) -> Put:
        return Put(
            kind="Node",
            namespace="",
            name=f"node{n}",
            uid=f"u{n}",
            expect=0,
            spec={
                "address": f"10.0.0.{n}:1",
                "raftId": n,
                "maxVms": 100,
                "schedulable": True,
                "capacity": {"vcpus": vcpus, "memoryMib": memory_mib},
            },
            status={"epoch": 1, "state": "Joining"},
        )

    @property
    def store(self):
        return self.machine.store

    def uid(self) -> str:
        return ulid(START_MS, next(self._number))

    def apply(self, *ops: Operation, term: int = 0):
        index = next(self._number) + 1000
        data = encode_command(
            Transaction(
                request_id=ulid(START_MS + index, index),
                time_ms=START_MS + index,
                actor="test",
                ops=ops,
                term=term,
            )
        )
        return self.machine.apply(index, 1, data)

    def commit(self, *ops: Operation) -> None:
        outcome = self.apply(*ops)
        assert not outcome.code, (outcome.code, outcome.message)

    def patch(self, kind: str, name: str, namespace: str = "", **status) -> None:
        resource = self.store.get(kind, namespace, name)
        self.commit(
            PatchStatus(
                kind=kind, namespace=namespace, name=name, uid=resource.metadata.uid, status=status
            )
        )

    def vm(self, name: str = "web", **spec) -> None:
        body = {"recipe": {}, "memory": 128, **spec}
        self.commit(Put(kind="VM", namespace="default", name=name, spec=body, uid=self.uid()))

    def plan(self) -> int:
        ops = ReplicaPlanner(self.store, self.uid, self.settled).plan()
        if ops:
            self.commit(*ops)
        return len(ops)

    def settle(self) -> None:
        for _ in range(20):
            if not self.plan():
                return
        raise AssertionError("the planner never comes to rest")

    def instances(self) -> dict[str, dict]:
        return {i.metadata.name: i.spec for i in self.store.list("Instance")}

    def statuses(self) -> dict[str, dict]:
        return {i.metadata.name: i.status for i in self.store.list("Instance")}

    def all_ready(self) -> None:
        for instance in self.store.list("Instance"):
            if instance.spec["node"]:
                self.report(instance.metadata.name, phase="Running", ready=True)

    def report(self, name: str, **status) -> None:
        run = self.store.get("Instance", "default", name).spec["run"]
        self.patch("Instance", name, "default", run=run, **status)

    def stopped(self) -> None:
        """The nodes say that what they were told to stop has ended; then nothing is left to do."""
        for instance in self.store.list("Instance"):
            if instance.spec["node"] and instance.spec["desired"] == "Stopped":
                self.report(instance.metadata.name, phase="Stopped", ready=False)
        self.settle()

    def lose(self, name: str) -> None:
        epoch = self.store.get("Node", "", name).status["epoch"]
        self.patch("Node", name, state="Lost", epoch=epoch + 1)

    def vm_status(self, name: str = "web") -> dict:
        return self.store.get("VM", "default", name).status
