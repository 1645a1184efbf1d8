"""Nodes that come and go: replaced one by one, refused where a majority would be lost, shut out."""

from __future__ import annotations

import functools

from blixard.cluster.members import LAGS_AFTER_S, REPLACE_AFTER_S
from blixard.cluster.resources import Put
from blixard.simulation.scenarios.guests import settle, state
from blixard.simulation.scenarios.moments import LOG, Moment
from blixard.simulation.scenarios.restarts import PLAIN
from blixard.simulation.scenarios.shell import Shell, serve
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_LOST_S = REPLACE_AFTER_S + 30.0
_HANGS_S = 1000.0
_FIRST_ENTRIES = 3  # syncs of a log: its empty state, the start, and what the leader sent


def _votes(stage: Stage, host: Host) -> bool:
    member = stage.raft(stage.leader()).membership.by_uid(host.uid)
    return member is not None and not member.learner


def _voters(stage: Stage) -> list[str]:
    members = stage.raft(stage.leader()).members.values()
    return sorted(member.uid for member in members if not member.learner)


def removal_would_lose_quorum(stage: Stage) -> None:
    """Two of five are down and a third is to be removed: the vote stays until that is safe."""
    shell = Shell(stage)
    settle(stage)
    leader = stage.leader()
    live, dead = stage.others(leader)[:2], stage.others(leader)[2:]
    for host in dead:
        host.kill_daemon()
    stage.run_for(8)
    gone = live[0]
    node = state(stage).by_uid(gone.uid)
    assert node is not None
    shell.good("cluster", "force-remove-node", node.metadata.name, "--yes", "--detach")
    for _ in range(10):
        stage.run_for(2)
        stage.writes(1, within_s=5)
        running = [u for u in _voters(stage) if u not in [host.uid for host in dead]]
        enough = 2 * len(running) > len(_voters(stage))
        stage.expect(enough, f"voters {_voters(stage)}, running {running}", "quorum margin")
    stage.expect(_votes(stage, gone), f"{gone.uid} has lost its vote", "quorum margin")
    stage.happened("removal refused")
    stage.back(*dead)
    stage.until(30, lambda: not _votes(stage, gone), "the removal goes on")
    stage.until(30, lambda: state(stage).by_uid(gone.uid) is None, "the node is forgotten")
    stage.run_for(5)
    stage.writes(3, within_s=5)


def blue_green(stage: Stage) -> None:
    """All nodes are replaced by new ones, one at a time, while the clients work."""
    for number in (1, 2, 3):
        host = stage.host(number)
        before = host.uid
        _replaced(stage, host)
        stage.until(20, functools.partial(_votes, stage, host), f"{host.uid} votes")
        stage.expect(before not in _voters(stage), f"{before} votes still")
        stage.writes(5, within_s=5)
        stage.happened("node replaced")
    settle(stage)


def removed_node_returns(stage: Stage) -> None:
    """A node is removed while it is cut off, and comes back: nobody is disturbed, and it learns."""
    shell = Shell(stage)
    settle(stage)
    old = stage.follower()
    cut = stage.fault("partition", old)
    stage.run_for(8)
    node = state(stage).by_uid(old.uid)
    assert node is not None
    shell.good("cluster", "force-remove-node", node.metadata.name, "--yes", "--timeout", "60s")
    leader, term = stage.leader(), stage.raft(stage.leader()).term
    cut()
    if stage.draw.random() < 0.5:
        old.kill_daemon()
        stage.run_for(1)
        stage.back(old)
    for _ in range(10):
        stage.run_for(2)
        now = (stage.leader(), stage.raft(leader).term)
        stage.expect(now == (leader, term), f"term {term} became {now[1]}", "undisturbed")
        stage.writes(1, within_s=3)
    stage.expect(stage.node(old).node.link.removed, f"{old.uid} does not know that it was removed")
    stage.happened("removed node came back")


def lost_for_long(stage: Stage) -> None:
    """A voter is away for minutes, gives its vote up once another node is there, and comes back."""
    settle(stage)
    away, broken = stage.others(stage.leader())[:2]
    away.kill_daemon()
    stage.fault("lost_disk", broken, lasts_s=1)
    stage.until(90, lambda: stage.repairs.idle, f"{broken.uid} joins")
    stage.addresses[broken.number - 1] = broken.uid
    jumped = stage.fault("wall_jump", stage.leader(), strength=1.0)
    stage.run_for(60)
    stage.expect(_votes(stage, away), "a clock that jumps took a vote", "patience")
    jumped()
    stage.until(_LOST_S, lambda: not _votes(stage, away), f"{away.uid} gives its vote up")
    stage.happened("vote given up")
    stage.writes(3, within_s=5)
    stage.back(away)
    stage.until(60, lambda: len(_voters(stage)) == len(stage.world.hosts), "all vote again")
    stage.writes(3, within_s=5)


def spare_that_refuses(stage: Stage) -> None:
    """The first of three spares has a full disk when a voter is lost: another one votes."""
    first, third = _two_spares(stage)
    stage.fault("full", first)
    _another_votes(stage, third, within_s=30)
    stage.expect(not _votes(stage, first), f"{first.uid} votes with a full disk")
    stage.happened("spare passed over")


def learner_that_lags(stage: Stage) -> None:
    """The disk of a spare hangs as soon as it is a learner: another one gets the vote."""
    first, third = _two_spares(stage)

    def hang() -> None:
        stage.fault("stall", first, lasts_s=_HANGS_S)

    trap = stage.trap(first, Moment("sync", LOG, _FIRST_ENTRIES), hang)
    _another_votes(stage, third, within_s=LAGS_AFTER_S + 30)
    stage.expect(trap.sprung and not _votes(stage, first), f"{first.uid} votes without a disk")
    stage.happened("laggard passed over")


def _two_spares(stage: Stage) -> tuple[Host, Host]:
    """Let three of five vote; return the first of the spares, and a voter that follows."""
    settle(stage)
    config = state(stage).get("ClusterConfig", "", "cluster")
    assert config is not None
    spec = {**config.spec, "votersMax": 3}
    stage.commit(Put(kind="ClusterConfig", namespace="", name="cluster", spec=spec))
    first, second, third = stage.others(stage.leader())[:3]
    for host in (first, second):
        _replaced(stage, host)
    stage.until(30, lambda: len(_voters(stage)) == 3, "two of five no longer vote")
    return first, third


def _another_votes(stage: Stage, lost: Host, *, within_s: float) -> None:
    _replaced(stage, lost)
    stage.until(within_s, lambda: len(_voters(stage)) == 3, "another spare votes")
    stage.writes(3, within_s=5)


def _replaced(stage: Stage, host: Host) -> None:
    before = host.uid
    stage.fault("lost_disk", host, lasts_s=1)
    stage.until(60, lambda: stage.repairs.idle, f"{before} is replaced")
    stage.addresses[host.number - 1] = host.uid


SCENARIOS = (
    Scenario(
        name="membership/removal-would-lose-quorum", rows=("complaint/2",),
        act=removal_would_lose_quorum, prepare=serve, node=True, nodes=5, config=PLAIN,
        incident="nomad #4232: a blue-green swap of all servers lost the quorum",
        happens=("removal refused",), ends="open",
    ),
    Scenario(
        name="membership/blue-green", rows=("complaint/2",), act=blue_green, node=True,
        incident="nomad #4232: a blue-green swap of all servers lost the quorum",
        happens=("node replaced",), config=PLAIN,
    ),
    Scenario(
        name="membership/removed-node-returns", rows=("complaint/14",), act=removed_node_returns,
        incident="hashicorp/raft #524, consul #6113: a removed server disturbs with elections",
        happens=("removed node came back",), prepare=serve, node=True, nodes=5, config=PLAIN,
        ends="open",
    ),
    Scenario(
        name="membership/lost-for-long", rows=("fault/12", "complaint/14"), act=lost_for_long,
        incident="etcd and consul: a member that was removed while it was away never gets in again",
        happens=("vote given up",), node=True, nodes=5, clients=1, config=PLAIN,
    ),
    Scenario(
        name="membership/spare-that-refuses", rows=("fault/12",), act=spare_that_refuses,
        incident="a node that cannot become a voter kept all others from becoming one",
        happens=("spare passed over",), node=True, nodes=5, clients=1, config=PLAIN, ends="open",
    ),
    Scenario(
        name="membership/learner-that-lags", rows=("fault/12",), act=learner_that_lags,
        incident="a learner that cannot catch up held a place, and the cluster lacked a voter",
        happens=("laggard passed over",), node=True, nodes=5, clients=1, config=PLAIN, ends="open",
    ),
)  # fmt: skip
