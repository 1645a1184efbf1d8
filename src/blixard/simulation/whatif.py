"""What happens if these nodes die: an exported cluster on simulated hosts, with real nodes.

The simulated nodes have the names, sizes, roles and labels of the exported ones, the same of them
vote, the same one leads, and every instance runs where it ran. Guests are taken to be healthy.
"""

from __future__ import annotations

import functools

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Operation
from blixard.cluster.store import Store
from blixard.consensus.config import RaftConfig
from blixard.simulation.cluster import App
from blixard.simulation.exported import Exported
from blixard.simulation.fates import Answer, Fate, Quorum, answer
from blixard.simulation.loading import load_ops
from blixard.simulation.observed import Watch
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.under_test import SECOND
from blixard.simulation.whole import NodeApp
from blixard.simulation.world import Host

_FORM_S, _LOST_S, _SETTLE_S, _COMMIT_S = 60.0, 30.0, 120.0, 5.0
_LOOK_S = 0.1


class WhatIf(Stage):
    """One run: form, load, settle, kill, watch."""

    def __init__(
        self, exported: Exported, killed: tuple[str, ...], *, seed: int, for_s: float
    ) -> None:
        scenario = Scenario(
            name="what-if", rows=(), incident="", act=_tell, nodes=len(exported.nodes),
            node=True, clients=0, config=RaftConfig(reserve_bytes=4096), ends="open",
        )  # fmt: skip
        voters = sum(node.voter for node in exported.nodes)
        self._voters = voters if voters % 2 else max(1, voters - 1)
        super().__init__(scenario, seed)
        self._exported = exported
        self._for_s = for_s
        self._hosts: dict[str, Host] = {}
        for host, node in zip(self.world.hosts, exported.nodes, strict=True):
            host.uid = node.name
            self._hosts[node.name] = host
        self._killed = [self._hosts[exported.node(name).name] for name in sorted(set(killed))]
        self._fates: dict[str, Fate] = {}
        self._lost_s: dict[str, float] = {}
        self._leader_s: float | None = None
        self.answer: Answer | None = None

    def _make(self, host: Host, hosts: list[Host], watch: Watch) -> App:
        app = functools.partial(NodeApp, config=self.config, voters_max=self._voters)
        return app(host, hosts, watch)

    # before

    def _form(self) -> None:
        """Boot the voters first: the leader chooses among those that are ready."""
        for part in (self.world.hosts[: self._voters], self.world.hosts[self._voters :]):
            for host in part:
                host.boot()
                self.start(host)
            self.until(_FORM_S, self._joined, "the nodes join")

    def _joined(self) -> bool:
        if not self.leaders():
            return False
        names = {host.uid for host in self.world.hosts if host.up}
        voters = sum(not m.learner for m in self.raft(self.leaders()[0]).members.values())
        states = self._states(self._store())
        return voters == self._voters and all(states.get(name) == "Ready" for name in names)

    def _states(self, store: Store) -> dict[str, str]:
        return {n.metadata.name: str(n.status.get("state", "")) for n in store.list("Node")}

    def _store(self) -> Store:
        """Return the newest state that a living voter has."""
        apps = [self.node(h) for h in self.world.hosts if h.daemon is not None]
        stores = [app.node.voter.machine.store for app in apps if app.node.voter is not None]
        return max(stores, key=lambda store: store.revision)

    def tell(self) -> None:
        """Load the state, then let the nodes die."""
        down = [host for host in self.world.hosts if not self._exported.node(host.uid).ready]
        self._end_of(down)
        for ops in load_ops(self._exported, self._store()):
            self._commit(ops)
        self.until(_SETTLE_S, self._runs, "what ran runs")
        self._lead()
        self.run_for(1)
        self._kill_and_watch()

    def _end_of(self, hosts: list[Host]) -> None:
        """Let those die that were dead already, and wait until the cluster knows."""
        for host in hosts:
            host.crash()
        gone = {host.uid for host in hosts}
        if gone:
            self.until(_LOST_S, lambda: self._are_lost(gone), "the cluster loses what was lost")

    def _are_lost(self, names: set[str]) -> bool:
        states = self._states(self._store())
        return bool(self.leaders()) and all(states.get(name) == "Lost" for name in names)

    def _commit(self, ops: tuple[Operation, ...]) -> None:
        host = self.leader()
        voter = self.node(host).node.voter
        assert voter is not None
        self.do(
            lambda: voter.cluster.commit(ops, actor="what-if", timeout_s=_COMMIT_S),
            within_s=_COMMIT_S + 1, host=host,
        )  # fmt: skip

    def _runs(self) -> bool:
        """Tell whether all that has a place is ready there."""
        store = self._store()
        alive = {host.uid for host in self.world.hosts if host.up}
        placed = [
            i for i in store.list("Instance")
            if i.spec.get("node") in alive and i.spec.get("desired") == "Running"
        ]  # fmt: skip
        return all(i.status.get("ready") for i in placed) and len(store.list("Instance")) >= len(
            self._exported.instances
        )

    def _lead(self) -> None:
        """Hand leadership to the node that led."""
        wanted = self._hosts.get(self._exported.leader)
        old = self.leader()
        if wanted is None or wanted is old or not wanted.up:
            return
        try:
            self.do(
                lambda: self.raft(old).transfer_leader(wanted.raft_id, timeout_s=_COMMIT_S),
                within_s=_COMMIT_S + 1, host=old,
            )  # fmt: skip
        except BlixardError as error:
            self.expect(False, f"{wanted.uid} does not lead: {error.message}")
        self.until(_FORM_S, lambda: self.leader() is wanted, f"{wanted.uid} leads")

    # after

    def _kill_and_watch(self) -> None:
        members = self.raft(self.leader()).members.values()
        voters = tuple(sorted(m.uid for m in members if not m.learner))
        leader = self.leader()
        before = self._store()
        ready = self._ready()
        for instance in before.list("Instance"):
            on = ready.get(instance.metadata.uid, "")
            self._fates[instance.metadata.uid] = Fate(instance=instance, was=on, on=on)
        for host in self._killed:
            host.crash()
        begin_ns = self.now_ns
        end_ns = begin_ns + int(self._for_s * SECOND)
        self._look(0.0)
        while self.now_ns < end_ns:
            self.run_for(min(_LOOK_S, (end_ns - self.now_ns) / SECOND))
            self._look((self.now_ns - begin_ns) / SECOND)
        left = tuple(name for name in voters if self._hosts[name].up)
        kept = len(left) > len(voters) // 2
        quorum = Quorum(
            voters=voters, left=left, kept=kept, leader_before=leader.uid,
            leader=self.leaders()[0].uid if kept and self.leaders() else "",
            leader_after_s=self._leader_s if kept else None,
            voters_known=self._exported.voters_known,
        )  # fmt: skip
        self.answer = answer(
            self._store(), list(self._fates.values()), quorum,
            killed={h.uid: self._lost_s.get(h.uid) for h in self._killed},
            seed=self.options.seed, for_s=self._for_s,
        )  # fmt: skip

    def _ready(self) -> dict[str, str]:
        """Return which instances answer, and on which node."""
        return {
            uid: host.uid
            for host in self.world.hosts if host.up
            for uid in host.guests.instances if host.guests.ready(uid)
        }  # fmt: skip

    def _look(self, after_s: float) -> None:
        store, ready = self._store(), self._ready()
        for instance in store.list("Instance"):
            uid = instance.metadata.uid
            fate = self._fates.setdefault(uid, Fate(instance=instance, new=True))
            fate.instance = instance
        for uid, fate in self._fates.items():
            fate.seen(ready.get(uid, ""), after_s)
        if self._leader_s is None and self.leaders():
            self._leader_s = after_s
        for name, state in self._states(store).items():
            if state == "Lost":
                self._lost_s.setdefault(name, after_s)


def _tell(stage: Stage) -> None:
    """Nodes of an exported cluster die at one moment."""
    assert isinstance(stage, WhatIf)
    stage.tell()


def what_if(exported: Exported, killed: tuple[str, ...], *, seed: int, for_s: float) -> Answer:
    """Return what happens to *exported* if the nodes *killed* die at one moment.

    Raises:
        BlixardError: NOT_FOUND, for a node that the file does not name; INVALID, when the cluster
            cannot be set up as the file has it.
    """
    voters = [node for node in exported.nodes if node.voter]
    ready = sum(node.ready for node in voters)
    if ready <= len(voters) // 2:
        raise BlixardError("INVALID", f"only {ready} of {len(voters)} voters were Ready: the "
                           "exported cluster had no quorum")  # fmt: skip
    run = WhatIf(exported, killed, seed=seed, for_s=for_s)
    report = run.run()
    if run.answer is None or not report.ok:
        said = "; ".join(v.strip().splitlines()[0] for v in report.violations) or "no answer"
        raise BlixardError("INVALID", f"the cluster cannot be played through: {said}")
    return run.answer
