"""A large cluster: a hundred nodes join, run a thousand VMs, and lose a rack of ten for a while."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.planning import Plan
from blixard.simulation.report import Options
from blixard.simulation.run import Simulation
from blixard.simulation.under_test import SECOND
from blixard.simulation.whole import NodeApp
from blixard.simulation.workload import APPLY, Asking, Declare
from blixard.simulation.world import Host

_VOTERS = 5
_JOIN_S = 120.0
_RUN_S = 240.0
_MOVE_S = 120.0
_CONVERGE_S = 60.0
_OPERATORS = 20
_FIRST_CLIENT = 50
_DECLARE_AGAIN_S = 0.2


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, in virtual seconds.

    ``joined_s``: until all nodes were ready; ``ready_s``: from then until all VMs ran; ``moved_s``:
    from the death of the rack until all VMs ran elsewhere; ``converged_s``: from its return until
    all nodes were ready, all VMs ran, and all voters held the same state.
    """

    joined_s: float
    ready_s: float
    moved_s: float
    converged_s: float
    violations: tuple[str, ...]
    trace_hash: str


class _Large(Simulation):
    def __init__(
        self, seed: int, *, nodes: int, vms: int, rack: int, progress: Callable[[str], None]
    ) -> None:
        options = Options(seed=seed, nodes=nodes, duration_s=0, node=True, clients=0)
        super().__init__(options, plan=Plan((), 0))
        self.factory = functools.partial(
            NodeApp, config=self.knobs.raft, voters_max=min(nodes, _VOTERS)
        )
        self.took_s: list[float] = []
        self._vms = vms
        self._rack = self.world.hosts[_VOTERS - 1 : _VOTERS - 1 + rack]  # one of them votes
        self._progress = progress

    def _phases(self) -> None:
        for host in self.world.hosts:
            host.boot()
            self.start(host)
        for part in (self._join, self._fill, self._lose_the_rack, self._bring_it_back):
            if not self._failed():
                part()

    def _join(self) -> None:
        self._until(_JOIN_S, self._joined, f"{len(self.world.hosts)} nodes are ready")

    def _fill(self) -> None:
        for number in range(_OPERATORS):
            env = self.world.client(_FIRST_CLIENT + number)
            env.spawn(self._declare(env, number), name="operator")
        self._until(_RUN_S, self._all_run, f"{self._vms} VMs run")

    def _lose_the_rack(self) -> None:
        for host in self._rack:
            host.crash()
        self._until(_MOVE_S, self._all_run_elsewhere, f"they run without {len(self._rack)} nodes")

    def _bring_it_back(self) -> None:
        for host in self._rack:
            host.boot()
            self.start(host)
        self._until(_CONVERGE_S, self._whole_again, "all nodes are back, and agree")

    def _until(self, seconds: float, condition: Callable[[], bool], what: str) -> None:
        began_ns = self.world.loop.now_ns
        if not self._wait(seconds, condition):
            self._unless_failed("liveness", f"not within {seconds:g} s: {what}")
            return
        self.took_s.append(round((self.world.loop.now_ns - began_ns) / SECOND, 1))
        self._progress(f"{what}: {self.took_s[-1]} virtual s")

    async def _declare(self, env: SimEnvironment, first: int) -> None:
        """Want every VM whose number is this operator's; the same again after an error."""
        voters = [host.uid for host in self.world.hosts[:_VOTERS]]
        asking = Asking(env, voters, first)
        for number in range(first, self._vms, _OPERATORS):
            wanted = msgspec.msgpack.encode(Declare(f"vm-{number}", 1, "fence"))
            while not await self._declared_one(asking, wanted):
                await asyncio.sleep(_DECLARE_AGAIN_S)

    async def _declared_one(self, asking: Asking, wanted: bytes) -> bool:
        try:
            await asking.ask(APPLY, wanted)
        except BlixardError as error:
            return error.code == "ALREADY_EXISTS"
        return True

    # questions

    def _leader(self) -> NodeApp | None:
        for app in self._live():
            if isinstance(app, NodeApp) and app.raft is not None and app.raft.is_leader:
                return app
        return None

    def _ready_nodes(self, leader: NodeApp) -> int:
        assert leader.node.voter is not None
        nodes = leader.node.voter.machine.store.list("Node")
        return sum(node.status.get("state") == "Ready" for node in nodes)

    def _joined(self) -> bool:
        leader = self._leader()
        return (
            leader is not None
            and leader.formed(_VOTERS)
            and self._ready_nodes(leader) == len(self.world.hosts)
        )

    def _all_run(self) -> bool:
        leader = self._leader()
        if leader is None or leader.node.voter is None:
            return False
        vms = list(leader.node.voter.machine.store.list("VM"))
        return len(vms) == self._vms and all(vm.status.get("readyReplicas") == 1 for vm in vms)

    def _running_on(self, hosts: list[Host]) -> int:
        return sum(len(host.guests.running()) for host in hosts if host.up)

    def _all_run_elsewhere(self) -> bool:
        alive = [host for host in self.world.hosts if host not in self._rack]
        return self._all_run() and self._running_on(alive) == self._vms

    def _whole_again(self) -> bool:
        if not self._joined() or not self._all_run():
            return False
        rafts = [app.raft for app in self._live() if app.raft is not None]
        return (
            len({raft.applied_index for raft in rafts}) == 1
            and self._running_on(self.world.hosts) == self._vms
        )


def hundred_nodes(
    seed: int,
    *,
    nodes: int = 100,
    vms: int = 1_000,
    rack: int = 10,
    progress: Callable[[str], None] = lambda _text: None,
) -> Scale:
    """Run it once; smaller numbers are for tests."""
    run = _Large(seed, nodes=nodes, vms=vms, rack=rack, progress=progress)
    report = run.run()
    joined, ready, moved, converged = (run.took_s + 4 * [-1.0])[:4]
    return Scale(
        joined_s=joined, ready_s=ready, moved_s=moved, converged_s=converged,
        violations=report.violations, trace_hash=report.trace_hash,
    )  # fmt: skip
