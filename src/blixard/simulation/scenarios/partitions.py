"""Ways between hosts that are cut, one-way, flapping, slow, or tell old stories again."""

from __future__ import annotations

from blixard.simulation.author import ClusterSimulation
from blixard.simulation.network import LinkFaults
from blixard.simulation.scenarios.guests import no_violations, where
from blixard.simulation.scenarios.shell import serve
from blixard.simulation.scenarios.stage import Scenario, Stage

_MOMENT_S = 20.0
_REPLICAS = 3


def minority_leader(stage: Stage) -> None:
    """The leader is cut off with a minority; the others elect, and take writes."""
    for _ in range(2):
        leader = stage.leader()
        beside = stage.draw.choice(stage.others(leader))
        heal = stage.fault("partition", leader, beside)
        stage.another(leader)
        stage.writes(5, within_s=_MOMENT_S)
        stage.run_for(stage.draw.choice((0.5, 5.0)))
        heal()
        stage.run_for(3)


def leader_not_heard(stage: Stage) -> None:
    """What the leader sends does not arrive, while it hears all the others."""
    leader = stage.leader()
    stage.fault("one_way", leader)
    stage.another(leader)
    stage.writes(5, within_s=_MOMENT_S)


def leader_does_not_hear(stage: Stage) -> None:
    """The leader is heard by all, and hears nobody: it must not keep them from electing."""
    leader = stage.leader()
    stage.fault("one_way", *stage.others(leader))
    stage.another(leader)
    stage.writes(5, within_s=_MOMENT_S)


def bridge(stage: Stage) -> None:
    """Two halves do not see each other, one node sees both: it makes a majority, writes go on."""
    for _ in range(3):
        middle = stage.draw.choice(stage.world.hosts)
        heal = stage.fault("bridge", middle)
        stage.run_for(3)
        stage.writes(5, within_s=_MOMENT_S)
        heal()
        stage.run_for(1)


def one_way_between_two(stage: Stage) -> None:
    """One way of one pair is cut for long, whoever leads; writes go on."""
    for _ in range(4):
        one, other = stage.draw.sample(stage.world.hosts, 2)
        stage.world.network.block(one.uid, other.uid)
        stage.happened("one way of a pair cut")
        stage.run_for(3)
        stage.writes(3, within_s=_MOMENT_S)
        stage.world.network.unblock(one.uid, other.uid)


def flapping(stage: Stage) -> None:
    """The way between the leader and a follower comes and goes several times a second."""
    for strength in (0.05, 0.3, 0.9):
        leader = stage.leader()
        stage.fault("flap", leader, stage.follower(), lasts_s=8, strength=strength)
        stage.run_for(8)
        stage.writes(3, within_s=_MOMENT_S)


def swizzle(stage: Stage) -> None:
    """Hosts are cut off one by one until all are alone, and come back in another order."""
    for _ in range(2):
        stage.fault("swizzle", *stage.world.hosts, lasts_s=8)
        stage.run_for(9)
        stage.writes(3, within_s=_MOMENT_S)


def held_back(stage: Stage) -> None:
    """One direction holds its messages back over a minute and two elections, then delivers all."""
    for lasts_s in (5, 60):
        leader = stage.leader()
        stage.fault("clog", leader, stage.follower(), lasts_s=lasts_s)
        stage.run_for(2)
        stage.fault("kill", leader, lasts_s=12)
        stage.another(leader)
        stage.run_for(lasts_s)
        stage.writes(3, within_s=_MOMENT_S)


def replayed(stage: Stage) -> None:
    """All that was said in a term is said again in the next ones, in another order."""
    for _ in range(3):
        leader = stage.leader()
        stage.fault("replay", *stage.world.hosts, lasts_s=8)
        stage.run_for(2)
        stage.fault("pause", leader, lasts_s=12)
        stage.another(leader)
        stage.run_for(8)
    stage.writes(3, within_s=_MOMENT_S)


def late_by_a_minute(stage: Stage) -> None:
    """A third of all messages is doubled, a third comes up to a minute late."""
    stage.world.network.faults = LinkFaults(duplicate=0.33, reorder=0.33, reorder_ms=60_000)
    stage.run_for(20)
    network = stage.world.network
    stage.expect(network.duplicated > 100 < network.reordered, "messages are late and doubled")
    stage.happened("messages late")
    stage.world.network.faults = LinkFaults()
    stage.run_for(60)


def guests_under_partition(stage: Stage) -> None:
    """Each host of a cluster that runs VMs is cut off in turn; none of them runs twice."""
    stage.until(60, stage.guests_ready, "the VMs run")
    for host in stage.world.hosts:
        heal = stage.fault("partition", host)
        stage.run_for(20)
        heal()
        stage.until(60, stage.guests_ready, "the VMs run again")


def stack_of_three(stage: Stage) -> None:
    """Two of five hosts are cut off: a VM of three replicas is there all the time, and whole again.

    The majority starts anew what ran with the minority, with its volumes, and moves a replica with
    its volume while it runs; no copy runs twice, and all agree after healing.
    """
    simulation = ClusterSimulation(stage)
    simulation.create_vm_stack(
        "webapp", replicas=_REPLICAS, on_partition="fence", pool="ssd-pool", replication=3,
        size_gb=20,
    )  # fmt: skip
    few, many = stage.world.hosts[:2], stage.world.hosts[2:]
    if stage.draw.random() < 0.5:  # the leader and one beside it, with or without replicas
        few = [stage.leader(), stage.follower()]
        many = stage.others(*few)
    kept = [host for host in where(stage, "webapp") if host in many]
    simulation.partition_nodes([host.number - 1 for host in few])
    stage.until(_MOMENT_S, lambda: stage.leaders()[:1] != few[:1], "the majority leads")
    whole_s = 0
    while whole_s < 60 and len(simulation.serving("webapp")) < _REPLICAS:
        simulation.run_for(1)
        whole_s += 1
        running = {host for host in many if host.up and host.guests.running()}
        stage.expect(running >= set(kept), "what ran with the majority runs on", "availability")
    simulation.verify_vm_availability("webapp", at_least=_REPLICAS)
    simulation.verify_no_vm_split_brain()
    simulation.verify_ceph_quorum_maintained()
    stage.happened("replicas moved" if len(kept) < _REPLICAS else "nothing to move")
    home = simulation.moves.home("webapp-1")
    target = stage.draw.choice([host for host in many if host is not home])
    simulation.trigger_live_migration("webapp-1", target.number - 1)
    simulation.verify_vm_migrated_successfully("webapp-1")
    simulation.heal_partition()
    simulation.run_for(10)
    simulation.verify_cluster_convergence(within_s=40)
    simulation.verify_ceph_rebalancing_complete()
    no_violations(stage)


SCENARIOS = (
    Scenario(
        name="partitions/leader-in-minority", rows=("fault/10",),
        incident="Jepsen's first test of everybody: a leader that does not know it was replaced",
        act=minority_leader, nodes=5, happens=("partition", "another leader"),
    ),
    Scenario(
        name="partitions/leader-not-heard", rows=("fault/10",),
        incident="etcd #15271: a one-way cut and a leader nobody hears",
        act=leader_not_heard, happens=("one_way", "another leader"),
    ),
    Scenario(
        name="partitions/leader-does-not-hear", rows=("fault/10",),
        incident="Cloudflare 2020: a leader that hears nobody and keeps them quiet",
        act=leader_does_not_hear, happens=("one_way", "another leader"),
    ),
    Scenario(
        name="partitions/bridge", rows=("fault/10",),
        incident="openraft #2080: a bridge node leaves a connected quorum without a leader",
        act=bridge, nodes=5, happens=("bridge",),
    ),
    Scenario(
        name="partitions/one-way-of-a-pair", rows=("fault/10",),
        incident="openraft #2080; partial partitions of OmniPaxos' paper",
        act=one_way_between_two, nodes=5, happens=("one way of a pair cut",),
    ),
    Scenario(
        name="partitions/flapping", rows=("fault/10",),
        incident="Antithesis' jammed links; endless elections",
        act=flapping, happens=("flap",),
    ),
    Scenario(
        name="partitions/swizzle", rows=("fault/10",),
        incident="FoundationDB's swizzle-clog, which finds what nothing else does",
        act=swizzle, nodes=5, happens=("swizzle",),
    ),
    Scenario(
        name="partitions/held-back", rows=("fault/11",),
        incident="raft-rs #557: a late rejection moved a follower's index back",
        act=held_back, clients=1, happens=("clog", "kill"),
    ),
    Scenario(
        name="partitions/replayed-from-an-old-term", rows=("fault/11", "fault/9"),
        incident="etcd #20418: late answers to heartbeats released newer reads",
        act=replayed, happens=("replay", "pause"),
    ),
    Scenario(
        name="partitions/late-by-a-minute", rows=("fault/11",),
        incident="raft-rs #557: append answers out of order",
        act=late_by_a_minute, clients=1, happens=("messages late",),
    ),
    Scenario(
        name="partitions/with-guests", rows=("fault/10",),
        incident="Jepsen etcd 3.4.3: a lock is no mutual exclusion",
        act=guests_under_partition, node=True, happens=("partition",),
    ),
    Scenario(
        name="partitions/stack-of-three", rows=("SIM-31", "fault/10"),
        incident="a service that was gone, or there twice, while two racks did not see each other",
        act=stack_of_three, prepare=serve, nodes=5, node=True, clients=1,
        happens=("partition", "migration verified"),
    ),
)  # fmt: skip
