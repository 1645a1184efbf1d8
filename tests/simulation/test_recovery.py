"""A majority is lost for good; the node with the longest log goes on alone."""

from contextlib import nullcontext

import msgspec
import pytest
from tests.simulation.mutants import patched

from blixard.cluster import recovery as cluster_recovery
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.recovery import go_on_alone
from blixard.consensus import offline
from blixard.node.kinds import all_kinds
from blixard.node.node import PEERS_FILE, RAFT_DIRECTORY
from blixard.simulation.contention import check_final
from blixard.simulation.planning import Plan
from blixard.simulation.run import SECOND, Options, Simulation

pytestmark = pytest.mark.simulation

NEW_ID = "01JSJM00000000000000000001"


class RecoveryRun(Simulation):
    """Every daemon is killed at one instant, guests run on; the longest log's node goes on alone."""

    survivor = None

    def _phases(self):
        for host in self.world.hosts:
            host.boot()
            self.start(host)
        assert self._wait(20, self._formed)
        self._disturb(40 * SECOND)
        self._to(14 * SECOND)
        for client in self.clients:
            client.stopped = True
        self.operator.stopped = True
        for host in self.world.hosts:
            host.kill_daemon()
        self._recover(self._longest())
        self._go_on()

    def _longest(self):
        """Return the host to go on with; of like logs one that does not run the fenced guest."""
        found = {host: self._offline(host, self._read) for host in self.world.hosts}
        best = max(log.position for log in found.values())
        hosts = [host for host, log in found.items() if log.position == best]
        elsewhere = [h for h in hosts if all(p.name != "single-0" for p in h.guests.running())]
        return (elsewhere or hosts)[0]

    def _offline(self, host, work):
        """Do something on a host's disk while its daemon does not run."""
        daemon, results = host.start_daemon(), []

        async def run():
            results.append(await work(daemon.env))

        daemon.env.spawn(run(), name="offline")
        assert self._wait(5, lambda: bool(results))
        host.kill_daemon()
        return results[0]

    async def _read(self, env):
        return await offline.read_log(env, RAFT_DIRECTORY, self.knobs.raft)

    def _recover(self, host):
        async def recover(env):
            found = await self._read(env)
            machine = ClusterMachine(all_kinds())
            offline.replay(found, machine)
            machine.rewrite(
                found.last_index + 1,
                lambda draft: cluster_recovery.go_on_alone(
                    draft, host.uid, cluster_id=NEW_ID, trust_domain="new",
                    now_ms=env.wall_time_ms(), new_uid=env.new_id,
                ),
            )  # fmt: skip
            payload = machine.encode(machine.freeze())
            await offline.start_over(env, RAFT_DIRECTORY, found, cluster_id=NEW_ID, payload=payload)
            env.disk.unlink(PEERS_FILE)

        self._offline(host, recover)
        self.survivor = host

    def _go_on(self):
        host = self.survivor
        self.oracles.acknowledged = lambda *_: None  # of one voter, not of three hosts
        self.start(host)
        if not self._wait(10, self._led):
            self._unless_failed("liveness", "the recovered node does not lead")
            return
        values = self.apps[host.number].values()
        check_final(self.history, values, self.oracles.fail, "after the recovery")
        if self._failed():
            return
        other = next(h for h in self.world.hosts if h is not host)
        self.start(other)  # one of the old members comes back by mistake
        if not self._wait(40, self._alone):
            self._unless_failed("liveness", "the other nodes are not gone, or guests do not run")
        elif self.apps[other.number].raft.role == "leader":
            self.oracles.fail("old member", f"host {other.number} leads the old cluster")

    def _alone(self):
        app = self.apps[self.survivor.number]
        nodes = app.node.voter.machine.store.list("Node")
        return [n.metadata.uid for n in nodes] == [self.survivor.uid] and not app.unsettled()


def run(seed, plant=nullcontext):
    options = Options(seed=seed, nodes=3, node=True, duration_s=40)
    simulation = RecoveryRun(options, plan=Plan((), 30_000))
    with plant():
        return simulation, simulation.run()


@pytest.mark.parametrize("seed", range(1, 5))
def test_last_node_loses_no_acknowledged_write_and_runs_nothing_twice(seed):
    simulation, report = run(seed)
    assert report.violations == ()
    assert report.writes > 20
    assert simulation.oracles.runs >= 3


def others_lost_at_once():
    """The others' leases are taken for ended already."""

    def hasty(draft, own_uid, **given):
        go_on_alone(draft, own_uid, **given)
        for node in draft.list("Node"):
            if node.metadata.uid != own_uid:
                epoch = int(node.status.get("epoch", 0)) + 1
                status = {**node.status, "state": "Lost", "epoch": epoch, "lostAtMs": 1}
                draft.put(msgspec.structs.replace(node, status=status))

    return patched(cluster_recovery, "go_on_alone", hasty)


def uncommitted_entries_dropped():
    """What is not known to be committed is cut off."""
    read_log = offline.read_log

    async def cautious(env, directory, config):
        found = await read_log(env, directory, config)
        kept = [entry for entry in found.entries if entry[0] <= found.commit_index]
        return msgspec.structs.replace(found, entries=kept)

    return patched(offline, "read_log", cautious)


@pytest.mark.parametrize(
    ("plant", "oracle"),
    [
        (others_lost_at_once, "double run"),
        (uncommitted_entries_dropped, "acknowledged writes"),
    ],
)
def test_planted_bug_in_recovery_is_caught(plant, oracle):
    caught = ""
    for seed in range(1, 11):
        _, report = run(seed, plant)
        caught = " ".join(report.violations)
        if caught:
            break
    assert oracle in caught
