"""Where planted bugs are looked for: what each seed runs, with or without the bug."""

import functools
import random

from tests.unit.simulation.explore_mutants import SCOPES

from blixard.consensus.config import RaftConfig
from blixard.consensus.membership import ADD_LEARNER, REMOVE, encode_member
from blixard.simulation.explore.search import explore
from blixard.simulation.knobs import Knobs, draw_knobs
from blixard.simulation.planning import Fault, Plan, within_budget
from blixard.simulation.report import Options
from blixard.simulation.run import Simulation
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.scenarios.table import BY_NAME, run_scenario
from blixard.simulation.streams import Streams

SMALL = RaftConfig(snapshot_entries=50, trailing_entries=0, segment_bytes=16 << 10,
                   snapshot_chunk_bytes=1 << 10, reserve_bytes=4096, min_free_bytes=0)  # fmt: skip
TIGHT = RaftConfig(snapshot_entries=50, trailing_entries=0, segment_bytes=16 << 10,
                   max_uncommitted_bytes=1024, max_message_bytes=512, max_pending_proposals=4, max_batch_entries=1,
                   reserve_bytes=4096, min_free_bytes=0)  # fmt: skip


QUICK = RaftConfig(tick_s=0.02, reserve_bytes=4096, min_free_bytes=0)
SLOW = RaftConfig(tick_s=0.1, election_ticks=20, reserve_bytes=4096, min_free_bytes=0)
NARROW = RaftConfig(max_uncommitted_bytes=600, max_message_bytes=512, max_batch_entries=1,
                    election_ticks=30, reserve_bytes=4096, min_free_bytes=0)  # fmt: skip


def consensus(seed):
    """Consensus alone on five hosts, everything drawn."""
    return Simulation(Options(seed=seed, duration_s=40)).run()


def nodes(seed):
    """Whole nodes with guests on five hosts, everything drawn."""
    return Simulation(Options(seed=seed, node=True)).run()


def drawn(
    seed,
    kinds,
    *,
    hosts=3,
    node=False,
    config=None,
    clients=5,
    gap_ms=2_000,
    most_ms=6_000,
    heal_ms=0,
):
    """Only some kinds of faults, many of them, on few hosts."""
    draw = random.Random(f"bias/{seed}")
    faults, at_ms = [], 14_000 if node else 5_000
    heal_ms = heal_ms or (45_000 if node else 30_000)
    while at_ms < heal_ms - 1_000:
        kind = draw.choice(kinds)
        many = 2 if kind in ("clog", "lag") else 0 if kind in ("noise", "blackout", "replay") else 1
        whom = tuple(draw.sample(range(1, hosts + 1), many))
        lasts_ms = draw.randint(200, most_ms)
        strength = round(draw.random(), 3)
        faults.append(Fault(at_ms, kind, lasts_ms, whom, strength, draw.getrandbits(32)))
        at_ms += int(draw.expovariate(1 / gap_ms)) + 50
    plan = Plan(tuple(within_budget(faults, hosts)), heal_ms)
    options = Options(seed=seed, nodes=hosts, node=node, clients=clients,
                      duration_s=plan.heal_at_ms / 1000 + 10)  # fmt: skip
    knobs = Knobs(mode=draw.choice(("fifo", "random")), raft=config) if config else None
    return Simulation(
        options, plan=plan, knobs=knobs or draw_knobs(Streams(seed).get("knobs"))
    ).run()


def small(seed):
    """Three hosts, snapshots and segments tiny, hosts that die and are cut off."""
    return drawn(seed, ("crash", "kill", "partition", "crash"), config=SMALL, most_ms=3_000)


def bad_syncs(seed):
    """Syncs that fail."""
    return drawn(seed, ("sync_error", "crash"), config=SMALL, gap_ms=3_000)


def short_calls(seed):
    """Reads and writes that move fewer bytes than they were asked for."""
    return drawn(seed, ("short", "short", "crash"), config=SMALL, gap_ms=3_000)


def rot(seed):
    """Bits that turn over, and hosts that start again."""
    return drawn(seed, ("rot", "kill", "crash"), hosts=5, config=SMALL, gap_ms=800, most_ms=1_000)


def lossy(seed):
    """Messages that are lost, doubled and overtaken all the time."""
    return drawn(seed, ("noise", "noise", "partition", "one_way", "clog"), hosts=5, gap_ms=600)


def crowd(seed):
    """Many clients and small bounds."""
    return drawn(
        seed, ("partition", "pause"), config=TIGHT, clients=30, most_ms=4_000, heal_ms=20_000
    )


def leases(seed):
    """Whole nodes on three hosts that are cut off, paused and frozen for about a lease."""
    kinds = ("partition", "partition", "pause", "freeze", "clog", "one_way", "kill")
    return drawn(seed, kinds, node=True, most_ms=12_000, gap_ms=3_000)


def scenes(act, *, nodes=3, node=False, clients=5, config=SMALL, ends="healed"):
    """Return what plays a scene under the seed."""

    def run(seed):
        scenario = Scenario(name=act.__name__, rows=(), incident="planted", act=act, nodes=nodes,
                            node=node, clients=clients, config=config, ends=ends)  # fmt: skip
        return Stage(scenario, seed).run()

    run.__doc__ = act.__doc__
    return run


def full_nodes(seed):
    """The scenario of full nodes on which VMs end and others begin."""
    return run_scenario("operations/exchanged", seed)


def stalled_leader(stage: Stage) -> None:
    """The leader's disk hangs for long; the others go on."""
    stage.fault("stall", stage.leader(), lasts_s=20)
    stage.run_for(5)
    stage.writes(10, within_s=5)


def wall_clocks_go_back(stage: Stage) -> None:
    """All wall clocks go back by years, then the leader dies: another is elected meanwhile."""
    for host in stage.world.hosts:
        stage.fault("wall_jump", host, strength=0.4 * stage.draw.random())
    stage.run_for(1)
    leader = stage.leader()
    stage.crash(leader)
    stage.until(10, lambda: stage.another_leads(leader), "another leads", "liveness")
    stage.writes(5, within_s=5)


def full_leader(stage: Stage) -> None:
    """The leader's disk has no room; the others go on."""
    stage.fault("full", stage.leader(), lasts_s=20)
    stage.run_for(5)
    stage.writes(10, within_s=5)


def hand_over_to_the_dead(stage: Stage) -> None:
    """A hand-over to a host that is cut off just then comes to nothing; the leader goes on."""
    leader = stage.leader()
    target, other = stage.others(leader)
    undo = stage.fault("partition", target)
    stage.raft(leader)._core.transfer(stage.raft(target)._own.raft_id)
    stage.run_for(3)
    assert other is not target
    stage.writes(10, within_s=8)
    undo()


def leader_is_removed(stage: Stage) -> None:
    """The leader is removed by a change that it proposed itself, past the hand-over."""
    leader = stage.leader()
    raft = stage.raft(leader)
    own = raft._own.raft_id
    token = raft._proposals.token()
    raft._core.propose_change(token, [(REMOVE, own)], b"")
    raft.wake()
    stage.until(10, lambda: any(own not in stage.raft(h).members for h in stage.others(leader)),
                "the leader is removed")  # fmt: skip
    stage.run_for(2)
    stage.writes(5, within_s=8)


def is_fenced(stage: Stage, uid: str) -> bool:
    """Tell whether some node knows an instance as fenced."""
    voters = [stage.node(h).node.voter for h in stage.world.hosts if h.daemon is not None]
    found = [v.machine.store.by_uid(uid) for v in voters if v is not None]
    return any(instance is not None and instance.spec.get("fenced") for instance in found)


def fenced_guests(stage: Stage) -> list:
    """Return (host, plan) of all fenced guests that run."""
    return [(h, plan) for h in stage.world.hosts for plan in h.guests.running()
            if is_fenced(stage, plan.instance_uid)]  # fmt: skip


def where_fenced(stage: Stage) -> list:
    """Return the hosts that run a fenced guest."""
    return list(dict.fromkeys(host for host, _ in fenced_guests(stage)))


def deposed_leader_with_a_guest(stage: Stage) -> None:
    """A leader is stopped and cut off together with the node of a fenced guest, then goes on."""
    stage.until(30, lambda: bool(where_fenced(stage)), "a fenced guest runs")
    stage.run_for(4 + stage.draw.random())
    leader = stage.leader()
    node = (where_fenced(stage) or [leader])[0]
    if node is leader:
        node = stage.follower()
    stage.fault("partition", leader, node, lasts_s=14)
    stage.fault("pause", leader, lasts_s=1.5 + 0.4 * stage.draw.random())
    stage.run_for(14)


def running(stage: Stage) -> dict:
    """Return the process of every guest that runs, by instance."""
    return {plan.instance_uid: host.guests.get(plan.instance_uid).pid
            for host in stage.world.hosts for plan in host.guests.running()}  # fmt: skip


def leader_change(stage: Stage) -> None:
    """Leadership moves while all is well and nobody wants anything else: no guest stops."""
    stage.until(60, stage.guests_ready, "the VMs run")
    stage.operator.stopped = True
    stage.run_for(20)  # the operator's last wish is carried out
    before = running(stage)
    leader = stage.leader()
    stage.raft(leader)._core.transfer(stage.draw.choice(stage.others(leader)).raft_id)
    stage.raft(leader).wake()
    stage.run_for(6)
    after = running(stage)
    lost = sorted(uid for uid, pid in before.items() if after.get(uid) != pid)
    stage.expect(not lost, f"stopped by a change of leader: {lost}", "healthy guest stopped")


def crowd_before_a_cut_leader(stage: Stage) -> None:
    """Many write to a leader that has just been cut off."""
    stage.run_for(1)
    stage.fault("partition", stage.leader(), lasts_s=3)
    stage.run_for(3)


def guest_starts_late(stage: Stage) -> None:
    """The daemon of a node stops while it starts a fenced guest, and goes on much later."""
    stage.until(30, lambda: bool(where_fenced(stage)), "a fenced guest runs")
    stage.run_for(3)
    stage.crash(where_fenced(stage)[0])
    starting = []

    def starts() -> bool:
        starting[:] = [h for h in stage.world.hosts if h.up and any(
            i.state == "paused" and is_fenced(stage, uid)
            for uid, i in h.guests.instances.items())]  # fmt: skip
        return bool(starting)

    for _ in range(4_000):
        if starts():
            break
        stage.run_for(0.005)
    if not starting:
        return
    host = starting[0]
    stage.fault("pause", host, lasts_s=9 + 4 * stage.draw.random())
    stage.run_for(16)


def two_changes_at_once(stage: Stage) -> None:
    """Two changes in a row: a change that was accepted takes place."""
    raft = stage.raft(stage.leader())
    own = raft._own
    wanted = []
    for number in (901, 902):
        about = encode_member(type(own)(number, f"n{number}", "10.0.9.9:1", learner=True))
        if not raft._core.propose_change(raft._proposals.token(), [(ADD_LEARNER, number)], about):
            wanted.append(number)
        raft.wake()
    stage.run_for(3)
    members = set(stage.raft(stage.leader()).members)
    stage.expect(members >= set(wanted), f"accepted {wanted}, members are {sorted(members)}",
                 "members")  # fmt: skip


def joint_without_its_leader(stage: Stage) -> None:
    """A joint change is committed by a leader that is gone before it left the joint members."""
    leader = stage.leader()
    raft, other = stage.raft(leader), stage.others(leader)[0]
    about = encode_member(type(raft._own)(903, "n903", "10.0.9.9:1", learner=True))
    old = stage.raft(other)._own.raft_id
    changes = [(REMOVE, old), (ADD_LEARNER, 903)]
    raft._core.propose_change(raft._proposals.token(), changes, about)
    raft.wake()
    stage.run_for(0.02)
    raft._core.step_down()
    stage.run_for(1)
    stage.leader()
    stage.until(8, stage._settled, "the members are joint no longer", "liveness")


def reads_from_afar(stage: Stage) -> None:
    """The leader is far away, and two hosts apply late: their reads take long, the log goes on."""
    leader = stage.leader()
    late = stage.others(leader)[:2]
    usual_s = late[0].image.sync_mean_s
    stage.slow_disks(0.3, *late)
    stage.fault("lag", leader, strength=0.35, lasts_s=12)
    stage.run_for(12)
    stage.slow_disks(usual_s, *late)


def answers_held_back(stage: Stage) -> None:
    """A leader hands over; what was said to it before that arrives late, and the news later."""
    for _ in range(5):
        stage.until(20, lambda: len(stage.leaders()) == 1, "one leader")
        leader = stage.leader()
        target = stage.draw.choice(stage.others(leader))
        stage.run_for(0.3)
        for other in stage.others(leader):
            stage.fault("clog", other, leader, lasts_s=1.2)
        stage.raft(leader)._core.transfer(target.raft_id)
        stage.raft(leader).wake()
        stage.run_for(3)


def handed_over_unheard(stage: Stage) -> None:
    """A leader hands over, and hears nothing of the new one: it goes on for a while."""
    for _ in range(5):
        stage.until(20, lambda: len(stage.leaders()) == 1, "one leader")
        leader = stage.leader()
        target = stage.draw.choice(stage.others(leader))
        undo = stage.fault("one_way", *stage.others(leader))
        stage.raft(leader)._core.transfer(target.raft_id)
        stage.raft(leader).wake()
        stage.run_for(3)
        undo()
        stage.run_for(2)


def asleep(stage: Stage) -> None:
    """The machine of a fenced guest sleeps until the guest runs elsewhere, and wakes."""
    for _ in range(3):
        stage.until(60, lambda: bool(where_fenced(stage)), "a fenced guest runs")
        stage.run_for(4)
        wake = stage.fault("suspend", (where_fenced(stage) or stage.world.hosts)[0])
        stage.run_for(15 + 5 * stage.draw.random())
        wake()


BIASES = {
    "consensus": consensus,
    "nodes": nodes,
    "small": small,
    "bad syncs": bad_syncs,
    "rot": rot,
    "short calls": short_calls,
    "lossy": lossy,
    "clocks": scenes(wall_clocks_go_back),
    "crowd": crowd,
    "leases": leases,
    "full nodes": full_nodes,
    "stalled leader": scenes(stalled_leader),
    "full leader": scenes(full_leader, config=RaftConfig(reserve_bytes=4096)),
    "hand-over": scenes(hand_over_to_the_dead),
    "removed leader": scenes(leader_is_removed, ends="open"),
    "deposed leader": scenes(
        deposed_leader_with_a_guest, nodes=5, node=True, config=SLOW, ends="open"
    ),
    "leader change": scenes(leader_change, node=True, config=QUICK, ends="open"),
    "cut crowd": scenes(crowd_before_a_cut_leader, clients=100, config=NARROW),
    "late start": scenes(guest_starts_late, nodes=5, node=True, config=None),
    "asleep": scenes(asleep, node=True, ends="open"),
    "two changes": scenes(two_changes_at_once, ends="open"),
    "held back": scenes(answers_held_back, clients=20, config=SLOW),
    "read from afar": scenes(reads_from_afar, nodes=5, clients=20),
    "handed over": scenes(handed_over_unheard, clients=20, config=SLOW),
    "joint": scenes(joint_without_its_leader, nodes=5, ends="open"),
    **{name: functools.partial(run_scenario, name) for name in BY_NAME},
}

__all__ = ["BIASES", "SCOPES", "explore"]
