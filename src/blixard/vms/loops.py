"""The two loops of the package: replicas on the leader, instances on every node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.ports.environment import Environment
from blixard.ports.guests import GuestBuilder
from blixard.ports.hypervisor import Hypervisor, HypervisorInstance
from blixard.ports.network import NetworkBackend, NetworkView
from blixard.ports.transport import Stream
from blixard.vms.disks import Disks
from blixard.vms.migrations import MigrationPlanner
from blixard.vms.mover import MOVE_STREAM
from blixard.vms.moves import DEADLINE_S, MoveOpening, active
from blixard.vms.reconcile import Assignment
from blixard.vms.replicas import ReplicaPlanner
from blixard.vms.settled import Settled
from blixard.vms.spec import InstanceStatus, Phase
from blixard.vms.tools import Authority, Tools
from blixard.vms.worker import Worker

PASS_DEADLINE_S = 10.0


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


class MigrationController:
    """Runs on the leader beside it: begins migrations and ends them; nodes do what is between.

    A migration's deadline counts from when this leader first saw it: clocks of leaders may differ,
    and each of them is bounded.
    """

    def __init__(self, env: Environment, cluster: Cluster) -> None:
        self._env = env
        self._cluster = cluster
        self._seen_s: dict[str, float] = {}

    @property
    def busy(self) -> bool:
        """Tell whether a migration is under way, whose deadline may pass."""
        return bool(self._seen_s)

    async def one_pass(self, term: int) -> None:
        """Plan and commit once, each migration for itself."""
        if not self._seen_s and not self._cluster.store.count("Migration"):
            return
        overdue = self._overdue(asyncio.get_running_loop().time())
        now_ms = self._env.wall_time_ms()
        for ops in MigrationPlanner(self._cluster.store, now_ms=now_ms, overdue=overdue).plan():
            await self._cluster.commit(
                ops, actor="system:migrations", term=term, timeout_s=PASS_DEADLINE_S
            )

    def _overdue(self, now_s: float) -> frozenset[str]:
        under_way = [m for m in self._cluster.store.list("Migration") if active(m.status)]
        seen = self._seen_s
        self._seen_s = {m.metadata.uid: seen.get(m.metadata.uid, now_s) for m in under_way}
        return frozenset(
            m.metadata.uid
            for m in under_way
            if now_s - self._seen_s[m.metadata.uid] > m.spec.get("deadlineS", DEADLINE_S)
        )


class Reconciler:
    """Runs on every node: keeps one worker per instance that is assigned or still here."""

    def __init__(
        self,
        env: Environment,
        *,
        hypervisor: Hypervisor,
        network: NetworkBackend,
        builder: GuestBuilder,
        disks: Disks,
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
            disks=disks,
            authority=authority,
            report=report,
            network_of=self._network_of,
        )
        self.workers: dict[str, Worker] = {}
        env.transport.on_stream(MOVE_STREAM, self._on_memory)

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
            self.workers[uid].reporter.say_again()

    def changed(self, uid: str) -> None:
        """Look at an instance now: its process or its guest changed."""
        worker = self.workers.get(uid)
        if worker is not None:
            worker.history.next_check_s = 0.0
            worker.wake()

    async def _on_memory(self, caller: str, payload: bytes, stream: Stream) -> None:
        """Another node sends the memory of an instance that is to be moved here."""
        opening = msgspec.msgpack.decode(payload, type=MoveOpening)
        worker = self.workers.get(opening.instance)
        if worker is None:
            raise BlixardError("MIGRATION_REFUSED", f"{opening.instance} is not to come here")
        await worker.mover.receive(caller, opening, stream)

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
