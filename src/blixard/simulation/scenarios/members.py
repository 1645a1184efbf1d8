"""Members that come and go while something else goes wrong."""

from __future__ import annotations

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Put
from blixard.consensus.config import RaftConfig
from blixard.simulation.scenarios.moments import LOG, Moment
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_MOMENT_S = 20.0
_REPLACED_S = 120.0
SMALL = RaftConfig(snapshot_entries=40, trailing_entries=0, catch_up_entries=5, reserve_bytes=4096)


def _replaced(stage: Stage) -> None:
    stage.until(_REPLACED_S, lambda: stage.repairs.idle and stage._formed(), "the new node votes")


def partitioned_removed(stage: Stage) -> None:
    """A node that is cut off is removed; when it is back, it disturbs nobody."""
    host = stage.follower()
    heal = stage.fault("partition", host)
    stage.run_for(2)
    stage.remove(host)
    stage.happened("removed while cut off")
    heal()
    leader = stage.leader()
    term = stage.raft(leader).term
    stage.run_for(10)
    stage.expect(stage.leader() is leader and stage.raft(leader).term == term, "the leader stays")
    stage.replace(host)
    _replaced(stage)


def leader_removed(stage: Stage) -> None:
    """The leader is told to remove itself: it hands over, and the next one removes it."""
    old = stage.leader()
    try:
        stage.remove(old)
    except BlixardError as error:
        stage.expect(error.code == "NOT_LEADER", f"it answers {error.code}")
    stage.another(old)
    stage.remove(old)
    stage.happened("leader removed")
    stage.writes(5, within_s=_MOMENT_S)
    stage.run_for(5)
    stage.expect(stage.another_leads(old), "who was removed does not lead")
    stage.replace(old)
    _replaced(stage)


def crashes_during_changes(stage: Stage) -> None:
    """While a node is replaced, whoever leads loses power at moments of each change."""
    host = stage.draw.choice(stage.world.hosts)
    stage.replace(host)
    for _ in range(5):
        stage.run_for(stage.draw.uniform(0.1, 1.5))
        leader = stage.leader()
        if leader is host:
            continue
        step = stage.draw.choice((Moment("written", LOG), Moment("synced", LOG), Moment("apply")))
        stage.crash_at(leader, step, within_s=_MOMENT_S)
        stage.happened("crash in a change")
        stage.run_for(stage.draw.uniform(0.1, 2))
        stage.back(leader)
    _replaced(stage)


def cuts_during_changes(stage: Stage) -> None:
    """While nodes are replaced, the way to others is cut in all the ways there are."""
    for host in stage.draw.sample(stage.world.hosts, 2):
        stage.replace(host)
        while not stage.repairs.idle:
            kind = stage.draw.choice(("partition", "one_way", "bridge"))
            whom = stage.draw.sample(stage.world.hosts, 1 if kind == "bridge" else 2)
            end = stage.fault(kind, *whom)
            stage.happened("cut in a change")
            stage.run_for(stage.draw.uniform(0.5, 4))
            end()
            stage.run_for(stage.draw.uniform(0.5, 3))
        _replaced(stage)


def same_address_again(stage: Stage) -> None:
    """A machine leaves and joins again under its address, twice, with a new identity each time."""
    host = stage.follower()
    address, ids = host.address, [host.raft_id]
    for _ in range(2):
        stage.replace(host)
        _replaced(stage)
        ids.append(host.raft_id)
        stage.expect(host.address == address, "the address stays")
    stage.expect(len(set(ids)) == 3, "no raft id is used again")
    stage.happened("joined again")


def lagging_learner(stage: Stage) -> None:
    """A new node that does not keep up gets no vote; it gets it when it has caught up."""
    host = stage.follower()
    stage.slow_disks(2.0, host)
    near = stage.fault("lag", host, strength=1.0)
    stage.replace(host)

    def learns() -> bool:
        known = stage.raft(stage.leader()).members.get(host.raft_id)
        return known is not None and known.learner

    stage.until(_MOMENT_S, learns, "it is a learner")
    for _ in range(5):
        stage.writes(5, within_s=_MOMENT_S)
        stage.expect(learns(), "it has no vote while it lags")
    stage.happened("learner lags")
    stage.slow_disks(0.0005, host)
    near()
    _replaced(stage)


def too_few_left(stage: Stage) -> None:
    """With one node down, the removal of another one would leave no majority: it is refused."""
    down, asked = stage.others(stage.leader())
    down.crash()
    stage.run_for(3)
    try:
        stage.remove(asked)
    except BlixardError as error:
        stage.expect(error.code == "INVARIANT", f"it answers {error.code}: {error.message}")
        stage.happened("removal refused")
    stage.writes(5, within_s=_MOMENT_S)


def _force_remove(stage: Stage, host: Host) -> None:
    spec = {"type": "force-remove-node", "target": host.uid, "targetUid": host.uid}
    name = f"gone-{host.number}"
    stage.commit(
        Put(
            kind="Operation", namespace="", name=name, spec=spec, uid=stage.admin.new_id(), expect=0
        )
    )


def removed_with_guests(stage: Stage) -> None:
    """A node with VMs is removed while it is cut off; its VMs run elsewhere, and never twice."""
    stage.until(60, stage.guests_ready, "the VMs run")
    leader = stage.leader()
    host = max(stage.others(leader), key=lambda h: len(h.guests.running()))
    heal = stage.fault("partition", host)
    stage.run_for(stage.draw.uniform(0.5, 12))
    _force_remove(stage, host)
    stage.happened("removed while cut off")
    stage.run_for(stage.draw.uniform(0.5, 15))
    heal()
    stage.run_for(10)
    stage.replace(host)
    stage.until(_REPLACED_S, lambda: stage.repairs.idle and stage._formed(), "the new node votes")
    stage.until(90, stage.guests_ready, "the VMs run again")


SCENARIOS = (
    Scenario(
        name="members/partitioned-removed", rows=("fault/12",),
        incident="hashicorp/raft #524: a removed node disturbs the cluster",
        act=partitioned_removed, happens=("partition", "removed while cut off"),
    ),
    Scenario(
        name="members/leader-removed", rows=("fault/12",),
        incident="raft-rs: a removed leader stays leader and keeps the others from electing",
        act=leader_removed, happens=("leader removed",),
    ),
    Scenario(
        name="members/crashes-during-changes", rows=("fault/12",),
        incident="openraft #1796, tikv #6107: crashes in the middle of a change",
        act=crashes_during_changes, nodes=5, happens=("crash in a change",),
    ),
    Scenario(
        name="members/cuts-during-changes", rows=("fault/12",),
        incident="RethinkDB 2.2.3: updates lost when members changed under partitions",
        act=cuts_during_changes, nodes=5, happens=("cut in a change",),
    ),
    Scenario(
        name="members/same-address-again", rows=("fault/12",),
        incident="RedisRaft: a node added again under its address votes with an old memory",
        act=same_address_again, config=SMALL, happens=("joined again",),
    ),
    Scenario(
        name="members/lagging-learner", rows=("fault/12", "fault/15"),
        incident="etcd's learners: a new voter that lags takes the quorum along",
        act=lagging_learner, config=SMALL, happens=("lag", "learner lags"),
    ),
    Scenario(
        name="members/too-few-left", rows=("fault/12",),
        incident="nomad #4232: a swap of nodes kills the quorum",
        act=too_few_left, happens=("removal refused",),
    ),
    Scenario(
        name="members/removed-with-guests", rows=("fault/12", "fault/10"),
        incident="nomad #3840: allocations run twice or not at all after members changed",
        act=removed_with_guests, node=True, nodes=5,
        happens=("partition", "removed while cut off"),
    ),
)  # fmt: skip
