"""The stage: a cluster of real nodes under all oracles, and a few verbs to write a scenario with.

A scenario acts on a cluster that is formed and used by clients. When it returns, everything is
healed, and the cluster has to come back as after any run: it elects, answers, agrees on every host,
and survives the power loss of all hosts with every acknowledged write.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Operation
from blixard.consensus.config import RaftConfig
from blixard.consensus.node import RaftNode
from blixard.node.kinds import Program
from blixard.simulation.cluster import App, RaftApp
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.hands import Undo
from blixard.simulation.observed import Watch
from blixard.simulation.planning import Fault, Plan
from blixard.simulation.report import Options, Report
from blixard.simulation.run import Simulation
from blixard.simulation.scenarios.moments import Moment, Moments, Trap
from blixard.simulation.under_test import SECOND
from blixard.simulation.whole import NodeApp
from blixard.simulation.world import Host

_FORM_S = 30.0
_LEADER_S = 10.0
_ANOTHER_LEADS_S = 20.0
_HEALED_S = 3.0
_CAUGHT_UP_S = 45.0  # a snapshot may be under way to a node that is gone: its request has 10 s
_NEVER_MS = 10**12
_ADMIN = 91
_NEAR = 10
_VMS = 3  # that the operator of a run declares

T = TypeVar("T")


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One situation: what it covers, who was hit by it, and what happens.

    ``rows``: what it covers, as ``fault/7``; ``happens``: counters that must not be 0 at the end,
    or the scenario shows nothing; ``prepare`` acts before the hosts boot.
    ``ends``: "power loss" heals, compares, switches all off and on again and compares; "healed"
    heals and waits for a leader and writes; "open" leaves everything to the scenario.
    """

    name: str
    rows: tuple[str, ...]
    incident: str
    act: Callable[[Stage], None]
    happens: tuple[str, ...] = ()
    nodes: int = 3
    node: bool = False
    clients: int = 3
    config: RaftConfig | None = None
    prepare: Callable[[Stage], None] | None = None
    ends: Literal["power loss", "healed", "open"] = "power loss"

    @property
    def summary(self) -> str:
        """What happens in it, in a sentence."""
        return (self.act.__doc__ or "").strip().splitlines()[0]


class BrokenPromiseError(Exception):
    """An oracle has spoken: what it saw; nothing that follows would mean anything."""

    def __init__(self, violations: tuple[str, ...], replay: str) -> None:
        super().__init__("\n".join((*violations, f"again: {replay}")))
        self.violations = violations


class Stage(Simulation):
    """One run of a scenario; all that it draws comes from the seed."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        options = Options(
            seed=seed, nodes=scenario.nodes, node=scenario.node, clients=scenario.clients,
            duration_s=0,
        )  # fmt: skip
        super().__init__(options, factory=self._make, plan=Plan((), _NEVER_MS))
        self.scenario = scenario
        self.replay = f"blixard sim scenarios {scenario.name} --seed {seed}"
        self.draw: random.Random = self.world.streams.get("scenario")
        self.config: RaftConfig = scenario.config or self.knobs.raft
        self.configs: dict[int, RaftConfig] = {}  # host number -> its own settings
        self.programs: dict[int, Program] = {}  # host number -> another version than ours
        self._moments = {host.number: Moments(host) for host in self.world.hosts}
        self._admin: SimEnvironment | None = None
        self._may_stop: list[tuple[int, str]] = []
        self.watch.on_raft = self._follow

    def _make(self, host: Host, hosts: list[Host], watch: Watch) -> App:
        config = self.configs.get(host.number, self.config)
        if not self.options.node:
            return RaftApp(host, hosts, watch, config=config)
        return NodeApp(host, hosts, watch, config=config, program=self.programs.get(host.number))

    def _follow(self, raft_id: int, raft: RaftNode) -> None:
        self._moments[self.world.host_of(raft_id).number].follow(raft)

    def may_stop(self, host: Host, code: str) -> None:
        """Excuse a daemon that refuses to start, or stops, with an error."""
        self._may_stop.append((host.number, code))

    def _excused(self, host: Host, code: str) -> bool:
        return (host.number, code) in self._may_stop or super()._excused(host, code)

    # phases

    def _phases(self) -> None:
        try:
            self.open()
            self._play()
            self.close()
        except BrokenPromiseError:
            self.happened("stage over")

    def open(self) -> None:
        """Prepare, form the cluster, and let clients use it."""
        if self.scenario.prepare is not None:
            self.scenario.prepare(self)
        self._form()

    def _form(self) -> None:
        for host in self.world.hosts:
            host.boot()
            self.start(host)
        self.until(_FORM_S, self._formed, "the nodes become voters", "formation")
        self._disturb(0)

    def close(self) -> None:
        """End as the scenario says, and see that what it is about happened."""
        if self.scenario.ends != "open":
            self.heal()
        if self.scenario.ends == "power loss" and not self._failed():
            self._end(self.now_ns)
        for name in self.scenario.happens:
            self.expect(bool(self.counted().get(name)), f"{name!r} never happened", "happened")
        self._check()

    def _play(self) -> None:
        try:
            self.scenario.act(self)
        except BlixardError as error:
            self.expect(False, f"{error.code}: {error.message}")

    def heal(self) -> None:
        """End every fault, bring every host back, and see the cluster elect and answer."""
        for moments in self._moments.values():
            moments.clear()
        assert self.injector is not None
        self.injector.heal()
        self.until(_LEADER_S, self._led, "a leader after healing", "liveness")
        if not self._repaired():
            raise BrokenPromiseError(self._violations(), self.replay)
        self.writes(1, within_s=_HEALED_S)
        self.until(
            _CAUGHT_UP_S, lambda: all(map(self.near, self.world.hosts)), "all catch up", "liveness"
        )

    def counted(self) -> dict[str, int]:
        """Return what happened, and how often: faults, moments, and what the oracles saw."""
        fired = self.injector.fired if self.injector is not None else {}
        return dict(sorted({**fired, **self.oracles.seen}.items()))

    def _report(self, wall_s: float) -> Report:
        report = super()._report(wall_s)
        return msgspec.structs.replace(report, faults=self.counted(), replay=self.replay)

    # time

    @property
    def now_ns(self) -> int:
        """The world's time."""
        return self.world.loop.now_ns

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._to(self.now_ns + int(seconds * SECOND))
        self._check()

    def until(
        self,
        seconds: float,
        condition: Callable[[], bool],
        what: str,
        name: str = "expected",
        *,
        seen: Callable[[], str] | None = None,
    ) -> None:
        """Run until *condition* holds; that it does not within *seconds* is a violation.

        *seen* tells in its text what is there instead.
        """
        if not self._wait(seconds, condition):
            instead = f"; seen: {seen()}" if seen is not None else ""
            self._unless_failed(name, f"{what}, within {seconds:g} s{instead}")
        self._check()

    def expect(self, truth: bool, text: str, name: str = "expected") -> None:
        """Break a promise of the scenario unless *truth*."""
        if not truth:
            self._unless_failed(name, text)
        self._check()

    def _check(self) -> None:
        if self._failed():
            raise BrokenPromiseError(self._violations(), self.replay)

    def happened(self, what: str) -> None:
        """Count something."""
        self.oracles.happened(what)

    # who

    def host(self, number: int) -> Host:
        """Return a host; the first one is 1."""
        return self.world.hosts[number - 1]

    def raft(self, host: Host) -> RaftNode:
        """Return the Raft node that runs on a host."""
        raft = self.apps[host.number].raft
        assert raft is not None
        return raft

    def node(self, host: Host) -> NodeApp:
        """Return the whole node on a host."""
        app = self.apps[host.number]
        assert isinstance(app, NodeApp)
        return app

    def leaders(self) -> list[Host]:
        """Return the hosts that run and hold themselves for the leader, highest term first."""
        running = [h for h in self.world.hosts if h.daemon is not None]
        found = [h for h in running if (r := self.apps[h.number].raft) is not None and r.is_leader]
        return sorted(found, key=lambda host: -self.raft(host).term)

    def leader(self, within_s: float = _LEADER_S) -> Host:
        """Return the host that leads; waits for one."""
        self.until(within_s, lambda: bool(self.leaders()), "a leader", "liveness")
        return self.leaders()[0]

    def others(self, *hosts: Host) -> list[Host]:
        """Return all hosts but these."""
        return [host for host in self.world.hosts if host not in hosts]

    def follower(self) -> Host:
        """Draw one host that does not lead."""
        return self.draw.choice(self.others(self.leader()))

    def guests_ready(self) -> bool:
        """Tell whether every VM that is wanted has all its replicas ready, as the leader knows."""
        if not self.leaders():
            return False
        voter = self.node(self.leaders()[0]).node.voter
        return voter is not None and len(voter.machine.store.list("VM")) == _VMS and self._settled()

    def near(self, host: Host) -> bool:
        """Tell whether a host has applied almost all that the leader has."""
        raft = self.apps[host.number].raft
        if host.daemon is None or raft is None or not self.leaders():
            return False
        return raft.applied_index + _NEAR >= self.raft(self.leaders()[0]).applied_index > 0

    def another_leads(self, old: Host) -> bool:
        """Tell whether a host other than *old* leads."""
        leaders = self.leaders()
        return bool(leaders) and leaders[0] is not old

    def another(self, old: Host, within_s: float = _ANOTHER_LEADS_S) -> Host:
        """Wait until a host other than *old* leads, and return it."""
        self.until(within_s, lambda: self.another_leads(old), "another leads")
        return self.leaders()[0]

    # acts

    def fault(self, kind: str, *hosts: Host, lasts_s: float = 0.0, strength: float = 0.5) -> Undo:
        """Begin a fault as the plans have it; it ends after *lasts_s*, by the undo, or by heal.

        Without *lasts_s* it lasts; a stall and a clog need one.
        """
        assert self.injector is not None
        numbers = tuple(host.number for host in hosts)
        at_ms = self.now_ns // 1_000_000
        salt = self.draw.getrandbits(32)
        lasts_ms = int(lasts_s * 1000) or _NEVER_MS
        fault = Fault(at_ms, kind, lasts_ms, numbers, strength, salt)
        return self.injector.begin(fault)

    def crash(self, host: Host) -> None:
        """Power loss of one host."""
        self.fault("crash", host)

    def back(self, *hosts: Host) -> None:
        """Bring hosts and their daemons back to life."""
        assert self.injector is not None
        for host in hosts:
            self.injector.bring_back(host)

    def trap(self, host: Host, moment: Moment, action: Callable[[], None]) -> Trap:
        """Do something at a moment in the life of a host; counted under the moment's name."""

        def act() -> None:
            self.happened(f"at {moment.text()}")
            action()

        trap = Trap(moment, act)
        self._moments[host.number].add(trap)
        return trap

    def crash_at(self, host: Host, moment: Moment, *, within_s: float, kill: bool = False) -> None:
        """Take the power from a host (or kill its daemon) at a moment; wait until it happened."""
        action = host.kill_daemon if kill else host.crash
        trap = self.trap(host, moment, action)
        self.until(within_s, lambda: trap.sprung, f"host {host.number} at {moment.text()}")

    def slow_disks(self, seconds: float, *hosts: Host) -> None:
        """Let every sync take about that long, on all hosts if none is named."""
        for host in hosts or tuple(self.world.hosts):
            host.image.sync_mean_s = seconds

    # what clients and operators do

    def writes(self, count: int, *, within_s: float) -> None:
        """Wait until the clients have done so many more writes."""
        goal = self.history.writes + count
        self.until(within_s, lambda: self.history.writes >= goal, f"{count} writes", "liveness")

    def commit(self, *ops: Operation) -> None:
        """Let an operator's transaction be committed by whoever leads.

        Raises:
            BlixardError: why it was not.
        """
        leader = self.leader()
        voter = self.node(leader).node.voter
        assert voter is not None
        self.do(
            lambda: voter.cluster.commit(ops, actor="operator", timeout_s=5), within_s=8,
            host=leader,
        )  # fmt: skip

    def remove(self, host: Host) -> None:
        """Let whoever leads remove a member of the Raft group.

        Raises:
            BlixardError: why it was not; NOT_LEADER for the leader itself, which hands over.
        """
        leader = self.leader()
        raft, raft_id = self.raft(leader), host.raft_id
        self.do(lambda: raft.remove(raft_id, timeout_s=5), within_s=8, host=leader)

    def replace(self, host: Host) -> None:
        """Let an operator replace a host's node by a new one with an empty disk."""
        host.kill_daemon()
        self.repairs.replace(host)
        self.back(host)

    @property
    def admin(self) -> SimEnvironment:
        """The outside of an operator: a client of her own."""
        if self._admin is None:
            self._admin = self.world.client(_ADMIN)
        return self._admin

    def do(
        self, work: Callable[[], Awaitable[T]], *, within_s: float, host: Host | None = None
    ) -> T:
        """Run a coroutine to its end, as an operator or inside the daemon of *host*.

        Raises:
            BlixardError: what the coroutine raised.
        """
        results: list[T] = []
        errors: list[BlixardError] = []

        async def run() -> None:
            try:
                results.append(await work())
            except BlixardError as error:
                errors.append(error)

        if host is not None:
            assert host.daemon is not None
        env: Any = host.daemon.env if host is not None and host.daemon is not None else self.admin
        env.spawn(run(), name="operator")
        self.until(within_s, lambda: bool(results or errors), "the operation ends")
        if errors:
            raise errors[0]
        return results[0]


def play(scenario: Scenario, seed: int) -> Report:
    """Run a scenario once; ``faults`` of the report counts all that happened."""
    return Stage(scenario, seed).run()
