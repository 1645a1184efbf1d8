"""Wishes that change, and nodes that are removed in order, while an instance moves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from blixard.cli.session import without_status
from blixard.ports.guests import GuestRecipe
from blixard.simulation.author import ClusterSimulation
from blixard.simulation.scenarios.guests import check, guests, instances, settle, state
from blixard.simulation.scenarios.moving import FINISHED, Moves
from blixard.simulation.scenarios.shell import serve
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host
from blixard.vms.launcher import recipe_key

_PHASES = ("Pending", "Preparing", "Copying", "Switching")
_REMOVED_S = 120.0
_MIB = 320  # of a VM that is given another size
_PACKAGE = "redis"  # of one that is given another image

Change = Callable[[ClusterSimulation, str], object]
Fulfilled = Callable[[Stage, str], bool]


def _asked(verb: str, *more: str) -> Change:
    def ask(simulation: ClusterSimulation, vm: str) -> object:
        return simulation.shell.good("vm", verb, vm, *more, "--yes", "--detach")

    return ask


def _written(spec: dict[str, Any]) -> Change:
    """Do what ``apply -f`` does with a changed VM; the simulated world has no files."""

    def write(simulation: ClusterSimulation, vm: str) -> object:
        client, path = simulation.shell.client, f"/v1/namespaces/default/vms/{vm}"
        known = client.request("GET", path, timeout_s=5)
        changed = {**known, "spec": {**known["spec"], **spec}}
        return client.request("PUT", path, body=without_status(changed), timeout_s=5)

    return write


def _count(number: int) -> Fulfilled:
    return lambda stage, vm: len(guests(stage, vm)) == number


def _gone(stage: Stage, vm: str) -> bool:
    return not instances(stage, vm) and not guests(stage, vm)


def _resized(stage: Stage, vm: str) -> bool:
    return [plan.memory_mib for _, plan in guests(stage, vm)] == [_MIB, _MIB]


def _rebuilt(stage: Stage, vm: str) -> bool:
    wanted = recipe_key(GuestRecipe(packages=(_PACKAGE,)))
    return [plan.recipe for _, plan in guests(stage, vm)] == [wanted, wanted]


CHANGES: dict[str, tuple[Change, Fulfilled]] = {
    "restart": (_asked("restart"), _count(2)),
    "scale": (_asked("scale", "--replicas", "1"), _count(1)),
    "stop": (_asked("stop"), _count(0)),
    "delete": (_asked("delete"), _gone),
    "size": (_written({"memory": f"{_MIB}MiB"}), _resized),
    "image": (_written({"recipe": {"packages": [_PACKAGE]}}), _rebuilt),
    "partition": (_written({"onPartition": "fence"}), _count(2)),
}


def _past(moves: Moves, name: str, phase: str) -> bool:
    order = (*_PHASES, *FINISHED)
    known = moves.status(name).get("phase", "Pending")
    return order.index(known) >= order.index(phase)


def _begun(stage: Stage, moves: Moves, instance: str, target: Host) -> str:
    """Begin a migration and let it come to a drawn moment; return its name."""
    name = moves.begin(instance, target, live=stage.draw.choice((True, False)))
    phase = stage.draw.choice(_PHASES)
    moves.at(phase, functools.partial(_past, moves, name, phase))
    stage.run_for(stage.draw.choice((0.0, 0.0, 0.003, 0.02, 0.1, 0.5)))
    return name


def _ended(stage: Stage, moves: Moves, name: str) -> None:
    """The migration ends, and says why if it failed."""
    if moves.finish(name) == "Failed":
        stage.expect(bool(moves.status(name).get("reason")), f"{name} says no reason", "migration")


def _nothing_reserved(stage: Stage) -> None:
    """Soon each node reserves what runs there, and what is stopped there; no move left a thing."""
    stage.until(
        8, lambda: not _kept(stage), "nothing is reserved for nobody", "reservation",
        seen=lambda: "; ".join(_kept(stage)),
    )  # fmt: skip


def _kept(stage: Stage) -> list[str]:
    if not stage.leaders():
        return ["nobody leads"]
    store = state(stage)
    kept = [f"{i.metadata.name} moves" for i in instances(stage) if i.spec.get("migration")]
    stopped = [i.spec for i in instances(stage) if i.spec["desired"] == "Stopped"]
    for host in stage.world.hosts:
        plans = [plan for where, plan in guests(stage) if where is host and plan.purpose == "vm"]
        keep = [spec for spec in stopped if spec.get("node") == host.uid]
        used = (
            sum(p.vcpus for p in plans) + sum(s["vcpus"] for s in keep),
            sum(p.memory_mib for p in plans) + sum(s["memoryMib"] for s in keep),
        )
        reserved = store.reserved(host.uid)
        if reserved != used:
            kept.append(f"{host.uid} has {reserved} reserved and {used} used")
    return kept


def _change(stage: Stage, simulation: ClusterSimulation, vm: str, what: str) -> None:
    """Change a VM while one of its instances moves; what is wanted then is there."""
    change, fulfilled = CHANGES[what]
    moves = simulation.moves
    instance = f"{vm}-{stage.draw.choice((1, 2))}"
    name = _begun(stage, moves, instance, stage.draw.choice(stage.others(moves.home(instance))))
    meanwhile = not _past(moves, name, FINISHED[0])
    change(simulation, vm)
    stage.happened(f"{what} meanwhile" if meanwhile else f"{what} too late")
    _ended(stage, moves, name)
    stage.until(60, lambda: fulfilled(stage, vm), f"{vm}: {what}", "wish")
    settle(stage, 60)
    check(stage)
    _nothing_reserved(stage)


def changed_meanwhile(stage: Stage) -> None:
    """VMs are stopped, scaled, changed, deleted while they move; what is wanted then is there."""
    names = ("vm0", "vm1", "vm2", "vm3")
    simulation = ClusterSimulation(stage)
    for name in names:
        simulation.create_vm_stack(name, replicas=2)
    for name, what in zip(names[:3], stage.draw.sample(sorted(CHANGES), 3), strict=True):
        _change(stage, simulation, name, what)
        stage.happened("changed meanwhile")
    simulation.verify_no_vm_split_brain()


def removed_meanwhile(stage: Stage) -> None:
    """The source or the target of a move is removed in order: what it ran runs elsewhere."""
    simulation = ClusterSimulation(stage)
    for vm in ("app", "db"):
        simulation.create_vm_stack(vm, replicas=3)
    moves = simulation.moves
    instance = stage.draw.choice(instances(stage)).metadata.name
    source = moves.home(instance)
    target = stage.draw.choice(stage.others(source))
    name = _begun(stage, moves, instance, target)
    role, removed = stage.draw.choice((("source", source), ("target", target)))
    node = state(stage).by_uid(removed.uid)
    assert node is not None
    simulation.shell.good("cluster", "remove-node", node.metadata.name, "--yes", "--detach")
    stage.happened(f"{role} removed")
    stage.happened("node removed")
    _ended(stage, moves, name)
    forgotten = functools.partial(_forgotten, stage, removed)
    stage.until(_REMOVED_S, forgotten, f"{removed.uid} is forgotten", "wish")
    settle(stage, 60)
    on_it = [plan.name for host, plan in guests(stage) if host is removed]
    stage.expect(not on_it, f"{on_it} run on the removed node", "wish")
    removed.kill_daemon()
    check(stage)
    _nothing_reserved(stage)


def _forgotten(stage: Stage, host: Host) -> bool:
    return bool(stage.leaders()) and state(stage).by_uid(host.uid) is None


SCENARIOS = (
    Scenario(
        name="migrations/changed-meanwhile", rows=("SIM-44",),
        incident="a guest that was deleted here and lived on there",
        act=changed_meanwhile, prepare=serve, nodes=5, node=True, clients=1,
        happens=("changed meanwhile",),
    ),
    Scenario(
        name="migrations/removed-meanwhile", rows=("SIM-44",),
        incident="a node that was to be emptied and got another guest",
        act=removed_meanwhile, prepare=serve, nodes=5, node=True, clients=1,
        happens=("node removed",), ends="open",
    ),
)  # fmt: skip
