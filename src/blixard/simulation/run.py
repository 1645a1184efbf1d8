"""One run: form a cluster, disturb it, heal it, and ask whether every promise was kept."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.simulation.cluster import App, Factory, RaftApp
from blixard.simulation.contention import check_final
from blixard.simulation.faults import Injector
from blixard.simulation.garbage import freeze, uncollected
from blixard.simulation.knobs import Knobs, draw_knobs
from blixard.simulation.loop import LivelockError
from blixard.simulation.observed import Watch, watch_votes
from blixard.simulation.oracles import Oracles
from blixard.simulation.planning import Plan, draw_plan
from blixard.simulation.repair import Repairs
from blixard.simulation.streams import Streams
from blixard.simulation.whole import NodeApp
from blixard.simulation.workload import Client, Operator
from blixard.simulation.world import Host, World

SECOND = 1_000_000_000
_FORM_S = 20
_LEADER_WITHIN_S = 10
_QUIET_S = 3
_BLACKOUT_S = 8
_SETTLE_S = 30
_POLL_NS = SECOND // 10
_REPAIR_S = 60
_RESTART_S = 2
_MAY_STOP = ("LOG_CORRUPT", "DISK_FAILED")
_MAX_STEPS = 20_000_000
_MOVING = 0.125  # of all runs have migrations


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is; together with the code, it decides every event."""

    seed: int
    nodes: int = 5
    duration_s: float = 60.0
    clients: int = 5
    node: bool = False

    def command(self) -> str:
        """Return the command line that repeats the run."""
        return (
            f"blixard sim run --seed {self.seed} --nodes {self.nodes} "
            f"--duration {self.duration_s:g}s --clients {self.clients}"
            f"{'' if self.node else ' --only raft'}"
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of a run."""

    seed: int
    nodes: int
    duration_s: float
    ok: bool
    trace_hash: str
    violations: tuple[str, ...]
    replay: str
    mode: str
    callbacks: int
    events: int
    writes: int
    reads: int
    unknown: int
    client_rate: float  # answers per client and virtual second between healing and the end
    messages: int
    faults: dict[str, int]
    guest_runs: int
    stops: int
    replaced: int
    virtual_s: float  # with what follows on the duration: settling, and a power loss of all
    wall_s: float


class Simulation:
    """The state of one run; *plan* and *knobs* are drawn from the seed if they are not given."""

    def __init__(
        self,
        options: Options,
        *,
        factory: Factory | None = None,
        plan: Plan | None = None,
        knobs: Knobs | None = None,
    ) -> None:
        self.options = options
        self.knobs = knobs or draw_knobs(Streams(options.seed).get("knobs"))
        self.oracles = Oracles()
        self.world = World(
            options.seed, options.nodes, mode=self.knobs.mode, observer=self.oracles,
            max_steps=_MAX_STEPS, change_points=self.knobs.change_points,
        )  # fmt: skip
        self.world.on_fatal = self.world.loop.stop
        self.world.on_stopped = self._stopped
        self.repairs = Repairs(self.world, self.oracles.happened)
        self.oracles.now_ns = self.world.now_ns
        self.oracles.on_violation = self.world.loop.stop
        self.oracles.stored = self.world.ceph.stored
        self.world.ceph.stored.fail = self.oracles.fail
        self.world.ceph.stored.happened = self.oracles.happened
        self.watch = Watch(self.world, self.oracles)
        app = NodeApp if options.node else RaftApp
        self.factory = factory or functools.partial(app, config=self.knobs.raft)
        self.apps: dict[int, App] = {}
        self.history = self.watch.history
        self.clients: list[Client] = []
        self.operator: Operator | None = None
        self.addresses = [host.uid for host in self.world.hosts]  # what clients and operator know
        self.plan = plan
        self.injector: Injector | None = None
        self._healthy: list[tuple[int, int]] = []  # answers and time when it begins and ends

    # hosts

    def start(self, host: Host) -> None:
        """Start a daemon on a host that is up."""
        if not host.up or host.daemon is not None:
            return
        daemon = host.start_daemon()
        watch_votes(daemon.env.transport, host.raft_id, self.watch)
        app = self.factory(host, self.world.hosts, self.watch)
        self.apps[host.number] = app
        daemon.env.spawn(self._serve(host, app), name="app")

    async def _serve(self, host: Host, app: App) -> None:
        """Run the application; a disk that failed is a reason not to start."""
        daemon = host.daemon
        assert daemon is not None
        try:
            await app.run()
        except BlixardError as error:
            if not self._excused(host, error.code):
                if error.code not in _MAY_STOP:
                    raise
                self.oracles.fail("recovery", f"host {host.number}, whose disk is whole: {error}")
                return
            self.world.stopped(daemon.process, error.code)

    def _excused(self, host: Host, code: str) -> bool:
        """Tell whether a daemon may refuse to start, or stop, with this error."""
        if host.image.hurt and code in _MAY_STOP:
            return True
        return host.image.no_room and code == "DISK_FULL"

    def _stopped(self, host: Host, code: str) -> None:
        """Start the daemon again as a service manager does; have a damaged node replaced."""
        if code == "LOG_CORRUPT":
            self.repairs.replace(host)
        when_ns = self.world.loop.now_ns + _RESTART_S * SECOND
        self.world.loop.root.call_at_ns(when_ns, self._restart, host)

    def _restart(self, host: Host) -> None:
        if host.up and host.daemon is None:
            self.start(host)

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

    def _to(self, until_ns: int) -> None:
        if not self._failed():
            self.world.loop.run_until(until_ns)

    def _wait(self, seconds: float, condition: Callable[[], bool]) -> bool:
        """Run until *condition* holds; False after *seconds*."""
        end_ns = self.world.loop.now_ns + int(seconds * SECOND)
        while not self._failed() and self.world.loop.now_ns < end_ns:
            if condition():
                return True
            self.world.loop.run_until(self.world.loop.now_ns + _POLL_NS)
        return not self._failed() and condition()

    # questions

    def _failed(self) -> bool:
        world = self.world
        return bool(self.oracles.violations or world.fatals or world.bugs or world.loop.errors)

    def _unless_failed(self, name: str, text: str) -> None:
        if not self._failed():
            self.oracles.fail(name, text)

    def _live(self) -> list[App]:
        return [self.apps[host.number] for host in self.world.hosts if host.daemon is not None]

    def _formed(self) -> bool:
        nodes = self.options.nodes
        return all(app.formed(nodes) for app in self._live()) and self._led()

    def _led(self) -> bool:
        return any(app.raft is not None and app.raft.is_leader for app in self._live())

    def _indexes(self) -> list[int]:
        """Return what each host has applied; -1: it does not run."""
        rafts = [app.raft for app in self._live()]
        applied = [raft.applied_index if raft is not None else -1 for raft in rafts]
        return applied + [-1] * (len(self.world.hosts) - len(applied))

    def _converged(self) -> bool:
        return len(set(self._indexes())) == 1

    def _unsettled(self) -> list[str]:
        live = self._live()
        confs = [app.raft.membership.conf for app in live if app.raft and app.raft.is_leader]
        texts = [f"the members are still joint: {conf}" for conf in confs if conf[2]]
        return texts + [text for app in live for text in app.unsettled()]

    def _settled(self) -> bool:
        return not self._unsettled()

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
