"""Volumes on Ceph: writers that were replaced, hosts with disks that die, a storage that hangs."""

from __future__ import annotations

import functools
import random

from blixard.base.errors import BlixardError
from blixard.simulation.author import ClusterSimulation
from blixard.simulation.scenarios.guests import (
    check,
    guests,
    instances,
    is_ready,
    pids,
    settle,
    state,
    unplaceable,
    where,
)
from blixard.simulation.scenarios.migrations import interrupted
from blixard.simulation.scenarios.moving import Moves
from blixard.simulation.scenarios.shell import Shell, serve
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.scenarios.volumes import (
    CLAIM,
    ceph,
    check_storage,
    make_pool,
    make_vm,
    stored_well,
)
from blixard.simulation.world import Host

_POOL = "ssd-pool"
_HELD_S = 40
_NAMES = tuple(f"db-{number}" for number in range(4))
_MAY_FAIL = (0, 3, 5, 6, 7, 8)  # exit codes: absent, conflict, no place, too late, no quorum
_ROUNDS = 5


def _begin(stage: Stage, *names: str) -> Shell:
    """Make a pool, and a VM with a volume of each name; nobody else wants VMs."""
    assert stage.operator is not None
    stage.operator.stopped = True
    shell = Shell(stage)
    make_pool(shell, _POOL)
    for name in names:
        make_vm(shell, name, pool=_POOL)
    if names:
        settle(stage)
    return shell


def _writes(stage: Stage, count: int, *, within_s: float = 20.0) -> None:
    """Wait until volumes have taken so many more writes."""
    goal = ceph(stage).stored.writes + count
    stage.until(within_s, lambda: ceph(stage).stored.writes >= goal, "volumes take writes")


def _moved(stage: Stage, vm: str, old: Host) -> bool:
    homes = {host for host, _ in guests(stage, vm)}
    return is_ready(stage, vm, 1) and bool(homes) and old not in homes


def fenced_writer(stage: Stage) -> None:
    """A host is cut off from the nodes, not from the storage, and its last writes are late.

    Its guest is replaced by one that writes. What the old one sent is refused when it arrives. Each
    time the guest moves on, in the end to a host that was fenced before.
    """
    _begin(stage, "db")
    ceph(stage).own_network = True
    for _ in range(len(stage.world.hosts)):
        _writes(stage, 3)
        host = where(stage, "db")[0]
        until_ns = stage.now_ns + _HELD_S * 1_000_000_000
        ceph(stage).held_until_ns[host.number] = until_ns
        heal = stage.fault("partition", host)
        elsewhere = functools.partial(_moved, stage, "db", host)
        stage.until(30, elsewhere, "db runs elsewhere", "liveness")
        _writes(stage, 5)
        refused = stage.counted().get("write refused", 0)
        stage.run_for(max(0.1, (until_ns - stage.now_ns) / 1e9 + 3))
        late = stage.counted().get("write refused", 0) - refused
        stage.expect(late > 0, "the late write is refused")
        heal()
        stage.run_for(8)
        settle(stage)
        check(stage)
        check_storage(stage)


def osd_host_dies(stage: Stage) -> None:
    """Hosts with disks lose power for long, and one its disk: writes go on, copies are renewed."""
    _begin(stage, "db", "web")
    for lost in (False, True):
        _writes(stage, 4)
        host = stage.draw.choice(stage.world.hosts)
        stage.crash(host)
        stage.run_for(4)
        settle(stage, 60)
        _writes(stage, 6, within_s=30)
        stage.until(60, lambda: not ceph(stage).lacking_any(), "all copies are made anew")
        if lost:
            ceph(stage).lose_disk(host)
        stage.back(host)
        settle(stage)
        check_storage(stage)
        check(stage)


def quorum_lost(stage: Stage) -> None:
    """Most monitors stop: writes hang, no guest is ended, a lost node's guest waits for its fence.

    When they are back, all goes on, and nothing is lost.
    """
    _begin(stage, "db", "web")
    _writes(stage, 4)
    before = pids(stage)
    hosts = stage.draw.sample(ceph(stage).monitors(), 2)
    ceph(stage).stopped |= {host.number for host in hosts}
    stage.run_for(15)
    stage.expect(pids(stage) == before, "no guest ends because its storage hangs")
    taken = ceph(stage).stored.writes
    stage.run_for(10)
    stage.expect(ceph(stage).stored.writes == taken, "nothing is written without a majority")
    host = where(stage, "db")[0]
    heal = stage.fault("partition", host)
    stage.run_for(20)
    stage.expect(not _moved(stage, "db", host), "db waits for the fence of its storage")
    stage.happened("waits for the storage")
    ceph(stage).stopped.clear()
    stage.until(40, lambda: _moved(stage, "db", host), "db runs elsewhere")
    _writes(stage, 6)
    heal()
    stage.run_for(5)
    settle(stage)
    check_storage(stage)


def deleted_in_use(stage: Stage) -> None:
    """The volume of a stopped VM is deleted: it stays until the VM goes, and the VM finds it."""
    shell = _begin(stage, "db")
    _writes(stage, 4)
    shell.good("vm", "stop", "db")
    path = f"/v1/namespaces/default/volumes/db-1-{CLAIM}"
    shell.client.request("DELETE", path, timeout_s=5)
    stage.run_for(10)
    stage.expect(bool(ceph(stage).images), "the volume is there while its VM is", "kept volume")
    shell.good("vm", "start", "db", "--detach")
    settle(stage)
    _writes(stage, 4)
    shell.good("vm", "delete", "db", "--yes")
    stage.until(20, lambda: not ceph(stage).images, "the volume goes with its VM")
    stage.until(20, lambda: not state(stage).count("Volume"), "and its declaration")
    stage.happened("deleted at last")
    check_storage(stage)


def _operate(stage: Stage, shell: Shell, draw: random.Random) -> None:
    """Do one drawn operation on VMs with volumes; it succeeds, or it says why not."""
    name = draw.choice(_NAMES)
    kind = draw.choice(("create",) * 3 + ("scale",) * 2 + ("stop", "start", "restart", "delete"))
    try:
        if kind == "create":
            make_vm(
                shell, name, pool=_POOL, size=f"{draw.randint(1, 20)}GiB",
                reclaim=draw.choice(("retain", "delete")),
                more={"replicas": draw.randint(1, 3),
                      "onPartition": draw.choice(("keep", "fence"))},
            )  # fmt: skip
            code, said = 0, ""
        else:
            more = ("--replicas", str(draw.randint(0, 3))) if kind == "scale" else ()
            ran = shell("vm", kind, name, *more, "--yes", "--detach", "--timeout", "5s")
            code, said = ran.code, ran.err
    except BlixardError as error:
        code, said = error.info.exit_code, f"error[{error.code}]"
    stage.happened(f"volumes: vm {kind}" if not code else "operations refused")
    stage.expect(code in _MAY_FAIL, f"{kind} {name}: {code} {said}")


def operations(stage: Stage) -> None:
    """Operations on VMs with volumes; after each, copies, data and declarations are as they should.

    Volumes of before are found again, those that are to go with their VMs go.
    """
    shell = _begin(stage)
    for _ in range(stage.draw.randint(10, 30)):
        _operate(stage, shell, stage.draw)
        stage.run_for(stage.draw.choice((0.2, 1, 5)))
        check(stage)
        check_storage(stage)
        stage.happened("storage checked after an operation")
    _tidy_up(stage, shell)


def _tidy_up(stage: Stage, shell: Shell) -> None:
    stage.run_for(5)
    for name in unplaceable(stage):
        shell.good("vm", "delete", name, "--yes", "--detach")
    if instances(stage):
        settle(stage, 60)
    check_storage(stage)


def chaos(stage: Stage) -> None:
    """OSDs stop, disks are lost and rot, hosts die and are cut off, in the middle of operations."""
    shell = _begin(stage, *_NAMES[:2])
    for _ in range(_ROUNDS):
        _trouble(stage, stage.draw.choice(stage.world.hosts))
        for _ in range(3):
            _operate(stage, shell, stage.draw)
            stage.run_for(stage.draw.random())
        stage.run_for(stage.draw.choice((3, 12)))
        ceph(stage).stopped.clear()
        stage.heal()
        _tidy_up(stage, shell)
        check(stage)


def _trouble(stage: Stage, host: Host) -> None:
    """Begin one trouble; all was whole before, so that one disk less loses nothing."""
    stage.expect(not stored_well(stage), "whole before the next trouble")
    kind = stage.draw.choice(("stop", "lose", "damage", "crash", "partition", "freeze"))
    if kind == "stop":
        ceph(stage).stopped.add(host.number)
        stage.happened("OSD stopped")
    elif kind == "lose":
        ceph(stage).lose_disk(host)
    elif kind == "damage":
        ceph(stage).damage(host)
    else:
        stage.fault(kind, host, lasts_s=10)
    stage.happened("storage in trouble")


def _only_at(stage: Stage, simulation: ClusterSimulation, instance: str) -> bool:
    """Tell whether nobody but the node of an instance has its volume."""
    (image,) = [i for uid, i in ceph(stage).images.items() if _name(stage, uid) == instance]
    return list(image.holders) == [simulation.moves.home(instance).uid]


def _given_back(stage: Stage, simulation: ClusterSimulation) -> None:
    """Wait until whoever does not have the guest has given its volume back."""
    stage.until(
        20, lambda: _only_at(stage, simulation, "db-1"), "only its node has the volume", "storage"
    )


def _name(stage: Stage, volume_uid: str) -> str:
    volume = state(stage).by_uid(volume_uid)
    return str(volume.status.get("instanceName")) if volume is not None else ""


def _moving(stage: Stage) -> ClusterSimulation:
    simulation = ClusterSimulation(stage)
    simulation.create_vm_stack("db", on_partition="fence", pool=_POOL)
    _writes(stage, 4)
    return simulation


def moved(stage: Stage) -> None:
    """A guest that writes moves on and on, and some moves come to nothing; only its node has it.

    What it wrote before is read after. Nothing arrives from where it was, also if its daemon dies
    right after the switch; a node that waited in vain gives the volume back.
    """
    simulation = _moving(stage)
    moves = simulation.moves
    for trouble in ("", "cut", "", "source dies", "cut"):
        source = moves.home("db-1")
        # Who does not reach the leader loses its lease, and its guest for another reason.
        target = stage.draw.choice(stage.others(source, stage.leader()))
        birth = moves.birth("db-1")
        name = moves.begin("db-1", target, live=stage.draw.choice((True, False)), deadline_s=30)
        if trouble == "cut":
            moves.reach(name, "Copying", "Switching")
            stage.world.network.block(source.uid, target.uid)
        elif trouble:
            moves.at("all of it is there", functools.partial(_has_all, moves, target))
            source.kill_daemon()
            stage.run_for(4)  # what stands still there is still there
        phase = moves.finish(name)
        stage.world.network.unblock(source.uid, target.uid)
        if trouble == "source dies":
            stage.back(source)
        stage.happened(f"move with a volume {phase}")
        settle(stage)
        if phase == "Succeeded" or not moves.status(name).get("switched"):
            same = moves.birth("db-1") == birth
            stage.expect(same, f"db-1 booted anew: {moves.status(name)}", "migration")
        _given_back(stage, simulation)
        _writes(stage, 4)
        check_storage(stage)
    check(stage)
    simulation.shell.good("vm", "stop", "db")
    stage.until(20, lambda: not _held(stage), "who stopped has given the volume back")
    simulation.shell.good("vm", "start", "db", "--detach")
    settle(stage)
    _writes(stage, 4)


def _has_all(moves: Moves, host: Host) -> bool:
    return any(there is host and process.boots_at_ns for there, process in moves.processes("db-1"))


def _held(stage: Stage) -> list[str]:
    return [uid for image in ceph(stage).images.values() for uid in image.holders]


def moved_while_it_hangs(stage: Stage) -> None:
    """A write has no answer when a guest is to leave: the guest stays, and goes on when it has."""
    simulation = _moving(stage)
    moves = simulation.moves
    source = moves.home("db-1")
    birth = moves.birth("db-1")
    ceph(stage).held_until_ns[source.number] = stage.now_ns + _HELD_S * 1_000_000_000
    stage.run_for(3)
    name = moves.begin("db-1", stage.draw.choice(stage.others(source)), live=True)
    phase = moves.finish(name)
    left = stage.oracles.arrivals.of("db-1")
    stage.expect(not left, "db-1 left with a write under way", "migration")
    reason = moves.status(name)["reason"]
    stage.expect("storage" in reason, f"{name} is {phase}: {reason}", "migration")
    stage.run_for(_HELD_S)
    settle(stage)
    stage.expect(moves.birth("db-1") == birth, "db-1 booted anew", "migration")
    stage.expect(moves.home("db-1") is source, "db-1 is elsewhere", "migration")
    _writes(stage, 4)
    _given_back(stage, simulation)
    check_storage(stage)


def moved_and_interrupted(stage: Stage) -> None:
    """Source, target or leader are lost or cut off at any moment of a move: nothing is lost."""
    interrupted(stage, pool=_POOL)
    check_storage(stage)


SCENARIOS = (
    Scenario(
        name="storage/fenced-writer", rows=("STO-09", "SIM-36"), act=fenced_writer, prepare=serve,
        node=True, clients=1,
        happens=("partition", "node fenced", "write held back", "write refused"),
        incident="a host that came back and wrote into the file system of its successor",
    ),
    Scenario(
        name="storage/osd-host-dies", rows=("SIM-26",), act=osd_host_dies, prepare=serve, nodes=5,
        node=True, clients=1, happens=("OSD down", "OSD out", "object recovered", "OSD disk lost"),
        incident="a cluster that lost a second disk before the first one's copies were made anew",
    ),
    Scenario(
        name="storage/quorum-lost", rows=("SIM-26", "STO-40"), act=quorum_lost, prepare=serve,
        node=True, clients=1, happens=("write waits", "waits for the storage", "node fenced"),
        incident="guests restarted one by one, in vain, because the storage below did not answer",
    ),
    Scenario(
        name="storage/deleted-in-use", rows=("STO-37",), act=deleted_in_use, prepare=serve,
        node=True, clients=1, happens=("deleted at last",),
        incident="a claim deleted by mistake, with the database of a VM that was stopped",
    ),
    Scenario(
        name="storage/operations", rows=("SIM-33", "SIM-36", "STO-37"), act=operations,
        prepare=serve, node=True, clients=1, happens=("storage checked after an operation",),
        incident="an orchestrator that left volumes behind, and attached others twice",
    ),
    Scenario(
        name="storage/moved", rows=("SIM-31", "SIM-36"), act=moved, prepare=serve, nodes=5,
        node=True, clients=1, happens=("move with a volume Succeeded", "guest moved"),
        incident="two hosts that wrote into one image while a guest went from one to the other",
    ),
    Scenario(
        name="storage/moved-while-it-hangs", rows=("SIM-44",), act=moved_while_it_hangs,
        prepare=serve, node=True, clients=1, happens=("write held back", "migration failed"),
        incident="a write that was under way when its guest left, and arrived after it",
    ),
    Scenario(
        name="storage/move-interrupted", rows=("SIM-44", "SIM-42"), act=moved_and_interrupted,
        prepare=serve, nodes=5, node=True, clients=1, happens=("volume given back",),
        incident="a volume that no host could attach after a migration that failed",
    ),
    Scenario(
        name="storage/chaos", rows=("SIM-42",), act=chaos, prepare=serve, node=True, clients=3,
        happens=("storage in trouble",),
        incident="storage that was tested with one failure at a time, and no VM on it",
    ),
)  # fmt: skip
