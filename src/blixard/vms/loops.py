"""The two loops of the package: replicas on the leader, instances on every node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.ports.environment import Environment
from blixard.ports.guests import GuestBuilder
from blixard.ports.hypervisor import Hypervisor, HypervisorInstance
from blixard.ports.network import NetworkBackend, NetworkView
from blixard.vms.reconcile import Assignment
from blixard.vms.replicas import ReplicaPlanner
from blixard.vms.settled import Settled
from blixard.vms.spec import InstanceStatus, Phase
from blixard.vms.worker import Authority, Tools, Worker

PASS_DEADLINE_S = 10.0
WATCHED_KINDS = ("VM", "Instance", "Image", "Network", "Node", "ClusterConfig")


class ReplicaController:
    """Runs on the leader: wake up, decide, commit under the term of the decision."""

    def __init__(self, env: Environment, cluster: Cluster) -> None:
        self._env = env
        self._cluster = cluster
        self._settled = Settled()

    async def one_pass(self, term: int) -> int:
        """Plan and commit once; return how many operations were committed."""
        planner = ReplicaPlanner(self._cluster.store, self._env.new_id, self._settled)
        ops = planner.plan()
        if not ops:
            return 0
        await self._cluster.commit(
            tuple(ops), actor="system:replicas", term=term, timeout_s=PASS_DEADLINE_S
        )
        return len(ops)


class Reconciler:
    """Runs on every node: keeps one worker per instance that is assigned or still here."""

    def __init__(
        self,
        env: Environment,
        *,
        hypervisor: Hypervisor,
        network: NetworkBackend,
        builder: GuestBuilder,
        authority: Authority,
        report: Callable[[Assignment, InstanceStatus, tuple[Phase, ...]], None],
    ) -> None:
        self._env = env
        self._network = network
        self._views: dict[str, NetworkView] = {}
        self._networks: tuple[NetworkView, ...] = ()
        self._networks_changed = asyncio.Event()
        self._build_lock = asyncio.Lock()
        self._tools = Tools(
            env=env,
            hypervisor=hypervisor,
            network=network,
            builder=builder,
            authority=authority,
            report=report,
            network_of=self._network_of,
        )
        self.workers: dict[str, Worker] = {}

    def adopt(self, processes: list[HypervisorInstance]) -> None:
        """Make workers for the VMs that the guard still runs from before a restart."""
        for process in processes:
            if process.plan.purpose == "vm":
                self._worker(process.instance_uid)

    async def run_network(self) -> None:
        """Keep the node's network as the cluster wants it; retry after failures."""
        while True:
            await self._networks_changed.wait()
            self._networks_changed.clear()
            try:
                await self._network.apply(self._networks)
            except (BlixardError, OSError) as error:
                self._env.log("error", "network_apply_failed", detail=str(error))
                await asyncio.sleep(1.0)
                self._networks_changed.set()
                continue
            self.wake_all()

    def assign(self, assignments: list[Assignment], networks: tuple[NetworkView, ...]) -> None:
        """Take the newest linearizable view of this node's duties."""
        if networks != self._networks:
            self._networks = networks
            self._views = {view.name: view for view in networks}
            self._networks_changed.set()
        mine = {a.uid: a for a in assignments}
        for uid in sorted(mine):
            self._worker(uid)
        for uid in sorted(self.workers):
            self.workers[uid].assign(mine.get(uid))

    def wake_all(self) -> None:
        """Let every worker look again (the lease or the network changed)."""
        for uid in sorted(self.workers):
            self.workers[uid].wake()

    def report_all(self) -> None:
        """Send every status anew: a new leader or epoch has none of them."""
        for uid in sorted(self.workers):
            self.workers[uid].report_again()

    def changed(self, uid: str) -> None:
        """Look at an instance now: its process or its guest changed."""
        worker = self.workers.get(uid)
        if worker is not None:
            worker.history.next_check_s = 0.0
            worker.wake()

    def _worker(self, uid: str) -> Worker:
        worker = self.workers.get(uid)
        if worker is None:
            worker = Worker(uid, self._tools, self._build_lock)
            self.workers[uid] = worker
            self._env.spawn(self._run_worker(worker), name=f"instance {uid}")
        return worker

    async def _run_worker(self, worker: Worker) -> None:
        await worker.run()
        if self.workers.get(worker.uid) is worker:
            del self.workers[worker.uid]

    def _network_of(self, name: str) -> tuple[str, int, int]:
        view = self._views.get(name)
        if view is None:
            raise BlixardError("NETWORK_FAILED", f"network {name!r} is not known on this node yet")
        return view.gateway, int(view.cidr.rpartition("/")[2]), view.mtu
