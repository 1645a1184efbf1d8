"""A majority is lost for good; the node with the longest log goes on alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from blixard.cluster import recovery as cluster_recovery
from blixard.cluster.machine import ClusterMachine
from blixard.consensus import offline
from blixard.node.kinds import all_kinds
from blixard.node.node import PEERS_FILE, RAFT_DIRECTORY
from blixard.simulation.contention import check_final
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

NEW_ID = "01JSJM00000000000000000001"
_USED_S = 11.0

T = TypeVar("T")


def goes_on_alone(stage: Stage) -> None:
    """Every daemon is killed at one instant, guests run on; the longest log's node goes on alone.

    Later one of the old members is started by mistake.
    """
    stage.run_for(_USED_S)
    for client in stage.clients:
        client.stopped = True
    assert stage.operator is not None
    stage.operator.stopped = True
    for host in stage.world.hosts:
        host.kill_daemon()
    survivor = _longest(stage)
    _recover(stage, survivor)
    stage.oracles.acknowledged = _of_one_voter  # type: ignore[assignment,method-assign]
    stage.start(survivor)
    stage.leader()
    values = stage.apps[survivor.number].values()
    check_final(stage.history, values, stage.oracles.fail, "after the recovery")
    stage.run_for(0)
    other = stage.others(survivor)[0]
    stage.start(other)
    stage.until(40, lambda: _alone(stage, survivor), "the other nodes are gone, and guests run")
    stage.expect(stage.raft(other).role != "leader", "an old member leads", "old member")
    stage.happened("went on alone")


def _of_one_voter(_index: int) -> None:
    """Judge no acknowledgement: the disks of three hosts prove nothing of a group of one."""


def _longest(stage: Stage) -> Host:
    """Return the host to go on with; of like logs one that does not run the fenced guest."""
    found = {host: _offline(stage, host, lambda env: _read(stage, env)) for host in
             stage.world.hosts}  # fmt: skip
    best = max(log.position for log in found.values())
    hosts = [host for host, log in found.items() if log.position == best]
    elsewhere = [h for h in hosts if all(p.name != "single-0" for p in h.guests.running())]
    return (elsewhere or hosts)[0]


def _offline(stage: Stage, host: Host, work: Callable[[SimEnvironment], Awaitable[T]]) -> T:
    """Do something on a host's disk while its daemon does not run."""
    daemon = host.start_daemon()
    results: list[T] = []

    async def run() -> None:
        results.append(await work(daemon.env))

    daemon.env.spawn(run(), name="offline")
    stage.until(5, lambda: bool(results), "the command ends")
    host.kill_daemon()
    return results[0]


async def _read(stage: Stage, env: SimEnvironment) -> offline.FoundLog:
    return await offline.read_log(env, RAFT_DIRECTORY, stage.config)


def _recover(stage: Stage, host: Host) -> None:
    async def recover(env: SimEnvironment) -> None:
        found = await _read(stage, env)
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

    _offline(stage, host, recover)


def _alone(stage: Stage, survivor: Host) -> bool:
    app = stage.node(survivor)
    if app.node.voter is None:
        return False
    nodes = app.node.voter.machine.store.list("Node")
    return [n.metadata.uid for n in nodes] == [survivor.uid] and not app.unsettled()


SCENARIOS = (
    Scenario(
        name="recovery/goes-on-alone", rows=("complaint/1",), act=goes_on_alone, node=True,
        incident="nomad #9774, consul #5546, tikv #10483: files edited by hand, then a panic",
        happens=("went on alone",), ends="open",
    ),
)  # fmt: skip
