"""One run: form a cluster, disturb it, heal it, and ask whether every promise was kept."""

from __future__ import annotations

import gc
import time

from blixard.simulation.cluster import Factory
from blixard.simulation.contention import check_final
from blixard.simulation.faults import Injector
from blixard.simulation.garbage import freeze, uncollected
from blixard.simulation.knobs import Knobs
from blixard.simulation.loop import LivelockError
from blixard.simulation.planning import Plan, draw_plan
from blixard.simulation.report import Options, Report
from blixard.simulation.under_test import SECOND, ClusterUnderTest
from blixard.simulation.workload import Client, Operator

_FORM_S = 20
_LEADER_WITHIN_S = 10
_QUIET_S = 3
_BLACKOUT_S = 8
_SETTLE_S = 30
_REPAIR_S = 60
_MOVING = 0.125  # of all runs have migrations


class Simulation(ClusterUnderTest):
    """The state of one run; *plan* and *knobs* are drawn from the seed if they are not given."""

    def __init__(
        self,
        options: Options,
        *,
        factory: Factory | None = None,
        plan: Plan | None = None,
        knobs: Knobs | None = None,
    ) -> None:
        super().__init__(options, factory=factory, knobs=knobs)
        self.history = self.watch.history
        self.clients: list[Client] = []
        self.operator: Operator | None = None
        self.addresses = [host.uid for host in self.world.hosts]  # what clients and operator know
        self.plan = plan
        self.injector: Injector | None = None
        self._healthy: list[tuple[int, int]] = []  # answers and time when it begins and ends

    # phases

    def run(self) -> Report:
        """Run all phases and return what came out."""
        began = time.perf_counter()
        with uncollected():
            try:
                self._phases()
            except LivelockError as error:
                self.oracles.fail("livelock", str(error))
            return self.conclude(time.perf_counter() - began)

    def conclude(self, wall_s: float) -> Report:
        """End the world and return what came out."""
        report = self._report(wall_s)
        self.world.close()
        return report

    def _phases(self) -> None:
        end_ns = int(self.options.duration_s * SECOND)
        for host in self.world.hosts:
            host.boot()
            self.start(host)
        if not self._wait(_FORM_S, self._formed):
            self._unless_failed("formation", "the nodes did not become voters")
            return
        heal_ns = self._disturb(end_ns)
        self._to(heal_ns)
        if not self._wait(_LEADER_WITHIN_S, self._led):
            self._unless_failed("liveness", f"no leader {_LEADER_WITHIN_S} s after healing")
            return
        if not self._repaired():
            return
        before = [client.successes for client in self.clients]
        self._note_answers()
        self._to(max(end_ns - _QUIET_S * SECOND, self.world.loop.now_ns + 2 * SECOND))
        self._note_answers()
        idle = [c for c, old in zip(self.clients, before, strict=True) if c.successes == old]
        if len(idle) == len(self.clients):
            self._unless_failed("liveness", "no write succeeded after healing")
            return
        self._end(end_ns)

    def _end(self, end_ns: int) -> None:
        """Stop the clients, compare all nodes, then switch everything off and on again."""
        for client in self.clients:
            client.stopped = True
        if self.operator is not None:
            self.operator.stopped = True
        self._to(max(end_ns, self.world.loop.now_ns + _QUIET_S * SECOND))
        self._compare("at the end")
        if not self._wait(_SETTLE_S, self._settled):
            self._unless_failed("liveness", f"not ready: {self._unsettled()}")
            return
        for host in self.world.hosts:
            host.crash()
        for host in self.world.hosts:
            host.boot()
            self.start(host)
        if not self._wait(_BLACKOUT_S, self._led):
            self._unless_failed("liveness", "no leader after power loss of all hosts")
            return
        self._to(self.world.loop.now_ns + SECOND)
        if not self._repaired():
            return
        self._compare("after power loss of all hosts")
        if not self._failed():
            self.history.finish()

    def _disturb(self, end_ns: int) -> int:
        """Put the clients and the faults on the clock; return when healing begins."""
        nodes = self.addresses
        for number in range(self.options.clients):
            env = self.world.client(number)
            client = Client(env, number, nodes, self.history)
            self.clients.append(client)
            env.spawn(client.run(), name="client")
        if self.options.node:
            env = self.world.client(self.options.clients)
            self.operator = Operator(env, nodes)
            env.spawn(self.operator.run(), name="operator")
            env.spawn(self.operator.switch(), name="switcher")
            moves = self.world.streams.get("moves")
            if moves.random() < _MOVING:
                env.spawn(self.operator.migrate(moves), name="mover")
        now_ms = self.world.loop.now_ns // 1_000_000
        heal_ms = max(now_ms + 1_000, int(end_ns * 0.75) // 1_000_000)
        plan = self.plan or draw_plan(
            self.world.streams.get("faults"),
            nodes=self.options.nodes,
            begin_ms=now_ms + 500,
            heal_at_ms=heal_ms,
        )
        self.plan = plan
        self.injector = Injector(self.world, plan, start=self.start, broken=self.repairs.replace)
        self.injector.schedule()
        self.oracles.under_fault = self.injector.under_fault
        return plan.heal_at_ms * 1_000_000

    def _repaired(self) -> bool:
        """Wait until all damaged nodes are replaced."""
        done = self._wait(_REPAIR_S, lambda: self.repairs.idle) and (
            not self.repairs.done or self._wait(_FORM_S, self._formed)
        )
        if not done:
            self._unless_failed("liveness", f"a broken node is not replaced after {_REPAIR_S} s")
        return done

    def _compare(self, when: str) -> None:
        """All nodes have applied the same, and it holds every acknowledged write."""
        if self._failed():
            return
        if not self._wait(_QUIET_S, self._converged):
            self._unless_failed("convergence", f"{when}, hosts have applied {self._indexes()}")
            return
        for host in self.world.hosts:
            values = self.apps[host.number].values()
            check_final(self.history, values, self.oracles.fail, f"on host {host.number} {when}")

    def _note_answers(self) -> None:
        history = self.history
        answers = history.reads + history.writes + history.stale_reads
        self._healthy.append((answers, self.world.loop.now_ns))

    def _client_rate(self) -> float:
        if len(self._healthy) < 2:
            return 0.0
        (before, began_ns), (after, ended_ns) = self._healthy
        seconds = max(1, ended_ns - began_ns) / SECOND
        return round((after - before) / seconds / max(1, len(self.clients)), 2)

    def _violations(self) -> tuple[str, ...]:
        """Return what the oracles said, and what broke without them."""
        world = self.world
        violations = [*self.oracles.violations, *(f"crash: {bug}" for bug in world.bugs)]
        violations += [f"error: {text}" for text in world.loop.errors]
        violations += [f"fatal: {text}" for text in world.fatals if not world.bugs]
        return tuple(violations)

    def _report(self, wall_s: float) -> Report:
        world, violations = self.world, self._violations()
        world.note(0, "end", world.loop.steps)
        return Report(
            seed=self.options.seed,
            nodes=self.options.nodes,
            duration_s=self.options.duration_s,
            ok=not violations,
            trace_hash=world.trace.digest(),
            violations=violations,
            replay=self.options.command(),
            mode=self.knobs.mode,
            callbacks=world.loop.steps,
            events=world.trace.count,
            writes=self.history.writes,
            reads=self.history.reads,
            unknown=self.history.unknown,
            client_rate=self._client_rate(),
            messages=world.network.sent,
            faults=dict(sorted(self.injector.fired.items())) if self.injector else {},
            guest_runs=self.oracles.guest_runs.begun,
            stops=world.stops,
            replaced=self.repairs.done,
            virtual_s=round(world.loop.now_ns / SECOND, 3),
            wall_s=round(wall_s, 3),
        )


def simulate(
    options: Options, *, factory: Factory | None = None, plan: Plan | None = None
) -> Report:
    """Run one seed, and free all of it: its objects refer to each other."""
    freeze()
    with uncollected():
        report = Simulation(options, factory=factory, plan=plan).run()
        gc.collect()
    return report
