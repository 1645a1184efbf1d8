"""Instances that move while they run: as they were, or not at all, whatever happens meanwhile."""

from __future__ import annotations

import functools
from typing import Literal

from blixard.simulation.author import ClusterSimulation
from blixard.simulation.scenarios.guests import check, instances, settle, state, store_of
from blixard.simulation.scenarios.moving import Moves
from blixard.simulation.scenarios.shell import serve
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_ROUNDS = 5
_TROUBLES = ("crash", "kill", "pause", "freeze", "partition", "one_way", "cut")
_LASTS_S = (0.3, 2.0, 6.0, 15.0)
_STAGES = ("Pending", "Preparing", "Copying", "Switching")


def _cluster(
    stage: Stage, *names: str, replicas: int = 1, keep: bool = False, pool: str | None = None
) -> ClusterSimulation:
    simulation = ClusterSimulation(stage)
    for name in names or ("app",):
        guard: Literal["keep"] | None = "keep" if keep else None
        simulation.create_vm_stack(name, replicas=replicas, on_partition=guard, pool=pool)
    return simulation


def _elsewhere(stage: Stage, moves: Moves, instance: str) -> tuple[Host, Host]:
    """Return where an instance is, and where it could go."""
    source = moves.home(instance)
    return source, stage.draw.choice(stage.others(source))


def _ready(stage: Stage, *without: Host) -> list[Host]:
    """Return the hosts that the cluster counts on, but these."""
    nodes = {node.metadata.uid: node.status.get("state") for node in state(stage).list("Node")}
    return [host for host in stage.others(*without) if nodes.get(host.uid) == "Ready"]


def _running(stage: Stage) -> list[str]:
    """Return the names of the instances that run and are to run."""
    return [
        instance.metadata.name
        for instance in instances(stage)
        if instance.status.get("phase") == "Running" and instance.spec["desired"] == "Running"
    ]


def preserve_state(stage: Stage) -> None:
    """1 to 10 VMs move 1 to 20 times: each goes on with the memory, CPU and connections it had."""
    simulation = _cluster(stage, *(f"vm{n}" for n in range(stage.draw.randint(1, 10))))
    for _ in range(stage.draw.randint(1, 20)):
        instance = stage.draw.choice(instances(stage)).metadata.name
        _, target = _elsewhere(stage, simulation.moves, instance)
        birth = simulation.moves.birth(instance)
        live = stage.draw.choice((True, False, None))
        simulation.trigger_live_migration(instance, target.number - 1, live=live)
        simulation.verify_vm_migrated_successfully(instance)
        same = simulation.moves.birth(instance) == birth
        stage.expect(same, f"{instance} booted anew", "migration")
        if stage.draw.random() < 0.5:
            simulation.run_for(stage.draw.choice((0.1, 1.0, 5.0)))
    simulation.verify_no_vm_split_brain()
    settle(stage)
    check(stage)


def _trouble(stage: Stage, hosts: dict[str, Host]) -> str:
    """Begin a trouble of one of those who take part; return what it is."""
    who = stage.draw.choice(sorted(hosts))
    kind = stage.draw.choice(_TROUBLES)
    lasts_s = stage.draw.choice(_LASTS_S)
    if kind == "cut":  # only the two of them
        one, other = hosts["source"], hosts["target"]
        network, root = stage.world.network, stage.world.loop.root
        for a, b in ((one, other), (other, one)):
            network.block(a.uid, b.uid)
            when_ns = stage.now_ns + int(lasts_s * 1_000_000_000)
            root.call_at_ns(when_ns, network.unblock, a.uid, b.uid)
        return "cut"
    stage.fault(kind, hosts[who], lasts_s=lasts_s)
    return f"{kind} {who}"


def interrupted(stage: Stage, *, pool: str | None = None) -> None:
    """A host is lost, stops or is cut off at any moment of a move: the guest comes back."""
    simulation = _cluster(stage, "app", "db", pool=pool)
    moves = simulation.moves
    for _ in range(_ROUNDS):
        settle(stage, 90)
        instance = stage.draw.choice(("app-1", "db-1"))
        source, target = _elsewhere(stage, moves, instance)
        live = stage.draw.choice((True, False))
        name = moves.try_begin(instance, target, live=live, deadline_s=30)
        phase = stage.draw.choice(_STAGES)
        if name:
            stage.happened("move interrupted")
            moves.at(phase, functools.partial(_past, moves, name, phase), within_s=5, must=False)
        stage.run_for(stage.draw.choice((0.0, 0.0, 0.005, 0.02, 0.1)))
        hosts = {"source": source, "target": target, "leader": stage.leader(20)}
        stage.happened(_trouble(stage, hosts))
        stage.happened("migration interrupted")
        stage.run_for(stage.draw.choice((1.0, 8.0)))
        if name and moves.resource(name) is not None:
            moves.finish(name)
    stage.run_for(_LASTS_S[-1])  # who is cut off cannot agree
    settle(stage, 90)
    check(stage)
    simulation.verify_no_vm_split_brain()


def _past(moves: Moves, name: str, phase: str) -> bool:
    order = (*_STAGES, "Succeeded", "Failed")
    known = moves.resource(name)
    return known is not None and order.index(known.status.get("phase", "Pending")) >= order.index(
        phase
    )


def node_failure(stage: Stage) -> None:
    """The source or the target loses power while instances move: all run again, each once."""
    simulation = _cluster(stage, "app", replicas=3)
    moves = simulation.moves
    for which in ("source", "target"):
        settle(stage, 90)
        instance = stage.draw.choice(_running(stage))
        source = moves.home(instance)
        target = stage.draw.choice(_ready(stage, source))
        name = moves.begin(instance, target)
        phase = stage.draw.choice(_STAGES[1:])
        moves.at(phase, functools.partial(_past, moves, name, phase))
        host = source if which == "source" else target
        stage.crash(host)
        moves.finish(name)
        stage.run_for(stage.draw.choice((1.0, 20.0)))
        stage.back(host)
    settle(stage, 90)
    check(stage)
    simulation.verify_no_vm_split_brain()


def source_restarts(stage: Stage) -> None:
    """The source's daemon dies while it copies: the guest runs on, the move is taken back."""
    simulation = _cluster(stage)
    moves = simulation.moves
    source, target = _elsewhere(stage, moves, "app-1")
    birth = moves.birth("app-1")
    name = moves.begin("app-1", target)
    moves.at("it copies", lambda: _past(moves, name, "Copying"))
    stage.run_for(0.1)
    source.kill_daemon()
    stage.run_for(1)
    stage.back(source)
    stage.expect(moves.finish(name) == "Failed", f"{name} went on", "migration")
    settle(stage)
    stage.expect(moves.birth("app-1") == birth, "app-1 booted anew", "migration")
    stage.expect(moves.home("app-1") is source, "app-1 is elsewhere", "migration")
    check(stage)


def _paused_at_source(moves: Moves) -> bool:
    return any(p.ran for _, p in moves.processes("app-1", "paused"))


def _copying(stage: Stage) -> tuple[ClusterSimulation, str, Host, Host]:
    """Return a move that copies, and its source, which does not lead, and its target."""
    simulation = _cluster(stage, keep=True)
    moves = simulation.moves
    leader = stage.leader()
    source = moves.home("app-1")
    if source is leader:
        moves.finish(moves.begin("app-1", stage.draw.choice(stage.others(source))))
        source = moves.home("app-1")
    target = stage.draw.choice(stage.others(source, leader))
    name = moves.begin("app-1", target)
    moves.at("it copies", functools.partial(_past, moves, name, "Copying"))
    return simulation, name, source, target


def paused_and_restarted(stage: Stage) -> None:
    """The source's daemon dies while its guest stands still for the switch: it goes on."""
    simulation, name, source, target = _copying(stage)
    moves, network = simulation.moves, stage.world.network
    birth = moves.birth("app-1")
    for host in stage.others(source, target):  # the question for the switch does not arrive
        network.block(source.uid, host.uid)
    moves.at("the source stands still", lambda: _paused_at_source(moves))
    stage.run_for(stage.draw.choice((0.0, 1.0)))
    source.kill_daemon()
    for host in stage.others(source, target):
        network.unblock(source.uid, host.uid)
    # Not so long that the node is lost: what is kept there would be replaced, and be the surplus.
    stage.run_for(stage.draw.choice((0.1, 1.0, 2.0)))
    stage.back(source)
    stage.expect(moves.finish(name) == "Failed", f"{name} went on", "migration")
    settle(stage, 60)
    check(stage)
    stage.expect(moves.birth("app-1") == birth, "app-1 booted anew", "migration")
    stage.expect(moves.home("app-1") is source, "app-1 is elsewhere", "migration")


def outcome_unknown(stage: Stage) -> None:
    """The source hears no answer about the switch: neither side runs until it is known."""
    simulation, name, source, target = _copying(stage)
    moves = simulation.moves
    moves.at("the source stands still", lambda: _paused_at_source(moves))
    for host in stage.others(source, target):
        stage.world.network.block(host.uid, source.uid)
    stage.happened("answer held back")
    stage.run_for(stage.draw.choice((1.0, 10.0)))
    for host in stage.others(source, target):
        stage.world.network.unblock(host.uid, source.uid)
    moves.finish(name)
    settle(stage, 60)
    check(stage)
    simulation.verify_no_vm_split_brain()


def lost_after_the_switch(stage: Stage) -> None:
    """The source or the target loses power right after the switch: the guest starts anew, once."""
    simulation = _cluster(stage)
    moves = simulation.moves
    for which in ("source", "target"):
        source, target = _elsewhere(stage, moves, "app-1")
        birth = moves.birth("app-1")
        name = moves.begin("app-1", target, live=stage.draw.choice((True, False)))
        moves.at("it is switched", functools.partial(_past, moves, name, "Switching"))
        lost = source if which == "source" else target
        lost.crash()
        stage.happened(f"{which} lost after the switch")
        if moves.finish(name) == "Failed":
            reason = moves.status(name)["reason"]
            stage.expect("memory was lost" in reason, f"{name}: {reason}", "migration")
        stage.back(lost)
        settle(stage, 90)
        arrived = moves.status(name)["phase"] == "Succeeded" and which == "source"
        same = moves.birth("app-1") == birth
        stage.expect(same == arrived, f"app-1 is the same: {same}", "migration")
    check(stage)
    simulation.verify_no_vm_split_brain()


def _all_ready(stage: Stage) -> bool:
    """Tell whether the leader's state has every node as one that takes part."""
    leaders = stage.leaders()
    store = store_of(stage, leaders[0]) if leaders else None
    nodes = store.list("Node") if store is not None else []
    return bool(nodes) and all(node.status.get("state") == "Ready" for node in nodes)


def leader_changes(stage: Stage) -> None:
    """The leader goes at each step of a move: the next one carries on, and nothing boots anew."""
    simulation = _cluster(stage, replicas=3, keep=True)
    moves = simulation.moves
    for phase in _STAGES:
        stage.until(30, functools.partial(_all_ready, stage), "all nodes take part")
        leader = stage.leader(20)
        here = [name for name in _running(stage) if moves.home(name) is not leader]
        instance = stage.draw.choice(here)
        source = moves.home(instance)
        birth = moves.birth(instance)
        target = stage.draw.choice(stage.others(source, leader))
        name = moves.begin(instance, target)
        moves.at(phase, functools.partial(_past, moves, name, phase))
        stage.fault(stage.draw.choice(("kill", "pause", "partition")), leader, lasts_s=8)
        stage.another(leader)
        moves.finish(name)
        stage.run_for(8)
        settle(stage, 60)
        stage.expect(moves.birth(instance) == birth, f"{instance} booted anew", "migration")
    check(stage)


def both_cut_off(stage: Stage) -> None:
    """Source and target do not reach each other: the move fails, the guest runs on as it was."""
    simulation = _cluster(stage)
    moves = simulation.moves
    for live in (True, False):
        source, target = _elsewhere(stage, moves, "app-1")
        birth = moves.birth("app-1")
        name = moves.begin("app-1", target, live=live, deadline_s=20)
        if stage.draw.random() < 0.5:
            moves.at("it copies", functools.partial(_past, moves, name, "Copying"))
        network = stage.world.network
        network.block(source.uid, target.uid)
        phase = moves.finish(name)
        network.unblock(source.uid, target.uid)
        stage.expect(phase == "Failed", f"{name}: {moves.status(name)}", "migration")
        settle(stage, 60)
        stage.expect(moves.birth("app-1") == birth, "app-1 booted anew", "migration")
        stage.expect(moves.home("app-1") is source, "app-1 is elsewhere", "migration")
    check(stage)


def no_room(stage: Stage) -> None:
    """A node with room for one is to take two at once: it never runs more than it has."""
    simulation = ClusterSimulation(stage)
    moves = simulation.moves
    for name in ("big0", "big1", "big2", "big3"):
        simulation.create_vm_stack(name, memory="5GiB")
    homes = {moves.home(f"big{n}-1") for n in range(4)}
    (target,) = stage.others(*homes)
    for name in ("big0-1", "big1-1"):
        moves.try_begin(name, target)
    stage.happened("two for one place")
    simulation.run_for(10)
    check(stage)
    stage.expect(len(moves.processes("big0-1", "running")) == 1, "big0 runs", "migration")


SCENARIOS = (
    Scenario(
        name="migrations/preserve-state", rows=("SIM-24", "SIM-34", "SIM-39"),
        incident="network-lab: a copy under load that was not what the guest had",
        act=preserve_state, prepare=serve, nodes=5, node=True, clients=1,
        happens=("guest moved", "migration verified"),
    ),
    Scenario(
        name="migrations/interrupted", rows=("SIM-44",),
        incident="a guest on two hosts, or on none, after a migration that failed",
        act=interrupted, prepare=serve, nodes=5, node=True, clients=1,
        happens=("migration interrupted",),
    ),
    Scenario(
        name="migrations/node-failure", rows=("SIM-29",),
        incident="a host that died with the only copy of a guest",
        act=node_failure, prepare=serve, nodes=5, node=True, clients=1, happens=("crash",),
    ),
    Scenario(
        name="migrations/source-restarts", rows=("SIM-44",),
        incident="an upgrade of the daemon that took the guest it was moving with it",
        act=source_restarts, prepare=serve, nodes=5, node=True, clients=1,
        happens=("migration failed",),
    ),
    Scenario(
        name="migrations/paused-and-restarted", rows=("SIM-44",),
        incident="a guest that stayed paused for ever after its migration was cancelled",
        act=paused_and_restarted, prepare=serve, nodes=5, node=True, clients=1,
        happens=("migration failed",),
    ),
    Scenario(
        name="migrations/outcome-unknown", rows=("SIM-44",),
        incident="a switch that was committed and not heard of: two guests with one disk",
        act=outcome_unknown, prepare=serve, nodes=5, node=True, clients=1,
        happens=("answer held back",),
    ),
    Scenario(
        name="migrations/lost-after-the-switch", rows=("SIM-29", "SIM-44"),
        incident="a guest that no host had after its migration",
        act=lost_after_the_switch, prepare=serve, nodes=5, node=True, clients=1,
        happens=("source lost after the switch", "target lost after the switch"),
    ),
    Scenario(
        name="migrations/leader-changes", rows=("SIM-44",),
        incident="a control plane that forgot what it was moving",
        act=leader_changes, prepare=serve, nodes=5, node=True, clients=1,
        happens=("another leader",),
    ),
    Scenario(
        name="migrations/cut-between-both", rows=("SIM-44",),
        incident="a migration that hangs for ever, and nobody may touch the VM",
        act=both_cut_off, prepare=serve, nodes=5, node=True, clients=1,
        happens=("migration failed",),
    ),
    Scenario(
        name="migrations/no-room", rows=("SIM-44",),
        incident="a host that ran out of memory with what was moved to it",
        act=no_room, prepare=serve, nodes=5, node=True, clients=1,
        happens=("two for one place", "guest moved"),
    ),
)  # fmt: skip
