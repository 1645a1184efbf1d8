"""For authors of simulations: a cluster of real nodes that is disturbed and questioned by calls.

Nodes are named by their index, from 0; in texts the node with index 0 is ``node-1``. Each call lets
virtual time pass, under all oracles; what breaks a promise is raised where it is noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Self

from blixard.simulation.guest_runs import vm_of
from blixard.simulation.hands import Undo
from blixard.simulation.loop import LivelockError
from blixard.simulation.report import Report
from blixard.simulation.scenarios import volumes
from blixard.simulation.scenarios.guests import apart, is_ready, ownerless, store_of, unready
from blixard.simulation.scenarios.moving import Moves
from blixard.simulation.scenarios.shell import Shell, serve
from blixard.simulation.scenarios.stage import BrokenPromiseError, Scenario, Stage
from blixard.simulation.world import Host

__all__ = ["BrokenPromiseError", "ClusterSimulation", "create_simulation"]


class ClusterSimulation:
    """A cluster on a stage that is open.

    ``stage`` has all other verbs (crashes, pauses, faults of disks and clocks, moments), ``shell``
    runs command lines of the product.
    """

    def __init__(self, stage: Stage) -> None:
        assert stage.operator is not None
        stage.operator.stopped = True  # nobody but the author wants VMs
        self.stage = stage
        self.shell = Shell(stage)
        self.moves = Moves(stage, self.shell)
        self._undos: list[Undo] = []
        self._began_s = time.perf_counter()
        self._report: Report | None = None

    # acts

    def create_vm_stack(
        self,
        name: str,
        *,
        replicas: int = 1,
        vcpus: int | None = None,
        memory: str | None = None,
        packages: Sequence[str] = ("nginx",),
        on_partition: Literal["keep", "fence"] | None = None,
        pool: str | None = None,
        replication: int = 3,
        size_gb: int = 10,
        within_s: float = 40.0,
    ) -> None:
        """Create a VM as ``blixard vm create`` does, and wait until its replicas are ready.

        What is None is the product's default. ``on_partition``: a replica that is cut off ends and
        runs elsewhere ("fence"), or runs on where it is ("keep"). With a *pool* each replica has a
        volume of *size_gb* in it; a pool that is not there is made, of *replication* copies.
        """
        if pool is not None:
            volumes.make_pool(self.shell, pool, replicas=replication)
            spec = {"replicas": replicas, "vcpus": vcpus, "memory": memory,
                    "onPartition": on_partition,
                    "recipe": {"packages": list(packages)}}  # fmt: skip
            volumes.make_vm(
                self.shell, name, pool=pool, size=f"{size_gb}GiB",
                more={key: value for key, value in spec.items() if value is not None},
            )  # fmt: skip
            self._until_ready(name, replicas, within_s)
            return
        given = {"--vcpus": vcpus, "--memory": memory, "--on-partition": on_partition}
        more = [word for flag, value in given.items() if value is not None
                for word in (flag, str(value))]  # fmt: skip
        self.shell.good(
            "vm", "create", name, "--packages", ",".join(packages), "--replicas", str(replicas),
            *more, "--detach",
        )  # fmt: skip
        self._until_ready(name, replicas, within_s)

    def _until_ready(self, name: str, replicas: int, within_s: float) -> None:
        self.stage.until(
            within_s, lambda: is_ready(self.stage, name, replicas), f"{name} is ready",
            seen=lambda: self._runs(name),
        )  # fmt: skip

    def partition_nodes(self, *groups: Sequence[int]) -> None:
        """Cut groups of nodes from each other, and from those in no group, until it is healed.

        A partition of before is healed first.

        Raises:
            ValueError: a node that is not there, or is in two groups.
        """
        numbers = [index + 1 for group in groups for index in group]
        nodes = len(self.stage.world.hosts)
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(1, nodes + 1)):
            raise ValueError(f"{groups}: each of the nodes 0 to {nodes - 1} at most once")
        self.heal_partition()
        # A group is cut from all others: where every node is in one, the last has been cut off.
        for group in groups[:-1] if len(numbers) == nodes else groups:
            hosts = [self.stage.host(index + 1) for index in group]
            self._undos.append(self.stage.fault("partition", *hosts))

    def heal_partition(self) -> None:
        """End what :meth:`partition_nodes` began; other faults go on."""
        for undo in self._undos:
            undo()
        self._undos.clear()

    def trigger_live_migration(
        self, instance: str, node: int | str, *, live: bool | None = None, deadline_s: int = 60
    ) -> str:
        """Ask that a running instance moves to a node; return the name of the migration.

        *node* is an index, or a text: ``node4`` is the one with index 4. *live*: copy the memory
        while it runs, or stop it first (None: what the product thinks best).

        Raises:
            BrokenPromiseError: the cluster refuses, with all its reasons.
        """
        index = node if isinstance(node, int) else int(node.removeprefix("node"))
        target = self.stage.world.hosts[index]
        return self.moves.begin(instance, target, live=live, deadline_s=deadline_s)

    def verify_vm_migrated_successfully(self, instance: str, *, within_s: float = 60.0) -> None:
        """The migration asked for last succeeds: the guest answers there, and is what it was.

        Its memory, the state of its CPUs and its connections are those with which it was stopped on
        the node before, and it runs nowhere else.

        Raises:
            BrokenPromiseError: what the migration says, and where the instance has run.
        """
        self.moves.verify(instance, within_s=within_s)

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.stage.run_for(seconds)

    def run_until(
        self, condition: Callable[[], bool], *, within_s: float, what: str = "the condition holds"
    ) -> None:
        """Let virtual time pass until *condition* holds; that it does not in time is an error."""
        self.stage.until(within_s, condition, what)

    # questions

    def verify_no_vm_split_brain(self) -> None:
        """No replica has run on two hosts at once, by its name, from the beginning until now.

        Raises:
            BrokenPromiseError: which ran where and when; or nothing has run at all.
        """
        runs = self.stage.oracles.guest_runs
        twice = "; ".join(f"{one.text()}, and {other.text()}" for one, other in runs.twice)
        self.stage.expect(not twice, twice, "split brain")
        self.stage.expect(bool(runs.begun), "no VM has run yet: nothing is shown", "split brain")

    def verify_vm_availability(
        self, name: str, *, at_least: int = 1, within_s: float = 0.0
    ) -> None:
        """So many replicas of a VM answer in the largest part of the cluster, now or in time.

        It counts processes that run and guests that have booted, whatever the nodes say of them.

        Raises:
            BrokenPromiseError: where each replica runs, or ran last, and who is connected.
        """
        self.stage.until(
            within_s, lambda: len(self.serving(name)) >= at_least,
            f"{at_least} of {name} answer", "availability",
            seen=lambda: f"{self._runs(name)}; connected: {_names(self._largest_part())}",
        )  # fmt: skip

    def verify_cluster_convergence(self, *, within_s: float = 30.0) -> None:
        """One node leads, all that run keep up with it and agree, what is wanted runs, no more.

        A node keeps up that has applied something written after the call: what was the same just
        before a cut shows nothing.

        Raises:
            BrokenPromiseError: what is not so, node by node.
        """
        new_index = 0

        def missing() -> list[str]:
            nonlocal new_index
            leaders = self.stage.leaders()
            if not new_index and len(leaders) == 1:
                new_index = self.stage.raft(leaders[0]).last_index + 1
            return self._unconverged(new_index)

        self.stage.until(
            within_s, lambda: not missing(), "the cluster converges", "convergence",
            seen=lambda: "; ".join(missing()),
        )  # fmt: skip

    def verify_ceph_quorum_maintained(self, *, within_s: float = 60.0) -> None:
        """A majority of Ceph's monitors agree, and what lies in the pools can be read and written.

        What has lost most of its copies has to wait until some of them are made anew.

        Raises:
            BrokenPromiseError: what is not so; or there is no pool.
        """
        ceph = self.stage.world.ceph
        self.stage.until(
            within_s, lambda: bool(ceph.pools) and not ceph.unserved(), "Ceph serves its pools",
            "ceph quorum", seen=lambda: "; ".join(ceph.unserved()) or "there is no pool",
        )  # fmt: skip

    def verify_ceph_rebalancing_complete(self, *, within_s: float = 120.0) -> None:
        """Every object in the pools has all its copies, where they belong, on OSDs that run.

        Raises:
            BrokenPromiseError: what lacks; or there is no pool.
        """
        ceph = self.stage.world.ceph
        self.stage.until(
            within_s, lambda: bool(ceph.pools) and not ceph.unbalanced(), "Ceph has rebalanced",
            "ceph rebalancing",
            seen=lambda: "; ".join(ceph.unbalanced()) or "there is no pool",
        )  # fmt: skip

    def serving(self, name: str) -> list[Host]:
        """Return the hosts in the largest part of the cluster where replicas of a VM answer."""
        return [
            host
            for host in self._largest_part()
            for plan in host.guests.running()
            if vm_of(plan) == name and plan.namespace == "default"
            and host.guests.ready(plan.instance_uid)
        ]  # fmt: skip

    def _largest_part(self) -> list[Host]:
        """Return the most hosts that one host reaches both ways; the first such one decides."""
        up = [host for host in self.stage.world.hosts if host.up and not host.frozen]
        parts = [[other for other in up if self._connected(host, other)] for host in up]
        return max(parts, key=len, default=[])

    def _connected(self, one: Host, other: Host) -> bool:
        blocked = self.stage.world.network.is_blocked
        return not (blocked(one.uid, other.uid) or blocked(other.uid, one.uid))

    def _runs(self, name: str) -> str:
        runs = self.stage.oracles.guest_runs.last(name)
        return "; ".join(run.text() for run in runs) or f"no instance of {name} has run"

    def _unconverged(self, index: int) -> list[str]:
        stage = self.stage
        leaders = stage.leaders()
        if len(leaders) != 1:
            return [f"{_names(leaders)} lead"]
        store = store_of(stage, leaders[0])
        rafts = {h: stage.apps[h.number].raft for h in stage.world.hosts if h.daemon is not None}
        applied = {host: raft.applied_index if raft else 0 for host, raft in rafts.items()}
        return [
            *(f"{h.uid} has applied {n} of {index}" for h, n in applied.items() if n < index),
            *(unready(store) if store is not None else [f"{leaders[0].uid} has no state"]),
            *apart(stage),
            *(f"{uid} runs where it should not" for uid in ownerless(stage)),
        ]

    # the end

    def finish(self) -> Report:
        """Heal all, compare all nodes, switch all hosts off and on, compare again; the world ends.

        Raises:
            BrokenPromiseError: all that the oracles said, now or before, and how to repeat it.
        """
        if self._report is None:
            try:
                self.stage.close()
            except BrokenPromiseError:
                self.stage.happened("stage over")
            except LivelockError as error:
                self.stage.oracles.fail("livelock", str(error))
            self._report = self.stage.conclude(time.perf_counter() - self._began_s)
        if not self._report.ok:
            raise BrokenPromiseError(self._report.violations, self._report.replay)
        return self._report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Finish, or end the world if something was raised."""
        if error is None:
            self.finish()
        elif self._report is None:
            self.stage.world.close()


def _names(hosts: list[Host]) -> str:
    return ", ".join(host.uid for host in hosts) or "none"


def create_simulation(nodes: int, *, seed: int = 1, clients: int = 1) -> ClusterSimulation:
    """Return a formed cluster whose nodes serve the API, with clients that write and read keys.

    *seed* decides all that is drawn: equal calls on equal seeds are equal runs.

    Raises:
        BrokenPromiseError: the cluster could not be formed.
        ValueError: an even number of nodes, of which one would not vote, while the oracles compare
            voters; or no client, without whose writes nothing shows that a cluster works.
    """
    if nodes < 1 or nodes % 2 == 0 or clients < 1:
        raise ValueError(f"{nodes} nodes, {clients} clients: an odd number of nodes, and a client")
    scenario = Scenario(
        name="own", rows=(), incident="", act=lambda _stage: None, prepare=serve, nodes=nodes,
        node=True, clients=clients,
    )  # fmt: skip
    stage = Stage(scenario, seed)
    stage.replay = f"the same calls after create_simulation({nodes}, {seed=}, {clients=})"
    try:
        stage.open()
    except BrokenPromiseError:
        stage.world.close()
        raise
    return ClusterSimulation(stage)
