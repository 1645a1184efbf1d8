"""What scenarios ask of VMs: what the state says, what really runs, and whether the two agree."""

from __future__ import annotations

from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.guest_runs import vm_of
from blixard.simulation.scenarios.stage import Stage
from blixard.simulation.whole import NodeApp, wanted_replicas
from blixard.simulation.world import Host

VCPUS, MEMORY_MIB = 8, 8192
_OVERCOMMIT_VCPUS = 4
_AGREE_S = 8.0


def store_of(stage: Stage, host: Host) -> Store | None:
    """Return the state that a host has applied, None if its node does not run or vote."""
    app = stage.apps.get(host.number)
    if host.daemon is None or not isinstance(app, NodeApp) or app.node.voter is None:
        return None
    return app.node.voter.machine.store


def state(stage: Stage) -> Store:
    """Return the state of the leader."""
    found = store_of(stage, stage.leader())
    assert found is not None
    return found


def instances(stage: Stage, vm: str = "") -> list[Resource]:
    """Return the instances of a VM, of all without a name."""
    return [i for i in state(stage).list("Instance") if not vm or i.spec["vm"] == vm]


def where(stage: Stage, vm: str) -> list[Host]:
    """Return the hosts on which the state says that a VM's instances are, in their order."""
    by_uid = {host.uid: host for host in stage.world.hosts}
    return [by_uid[i.spec["node"]] for i in instances(stage, vm) if i.spec.get("node") in by_uid]


def guests(stage: Stage, vm: str = "") -> list[tuple[Host, LaunchPlan]]:
    """Return what really runs, host by host."""
    up = [host for host in stage.world.hosts if host.up]
    found = [(host, plan) for host in up for plan in host.guests.running()]
    return [(host, plan) for host, plan in found if not vm or vm_of(plan) == vm]


def pids(stage: Stage) -> dict[str, int]:
    """Return the process of each running instance by its uid."""
    return {
        uid: instance.pid
        for host in stage.world.hosts if host.up
        for uid, instance in host.guests.instances.items() if instance.state == "running"
    }  # fmt: skip


def is_ready(stage: Stage, vm: str, replicas: int) -> bool:
    """Tell whether as many instances of a VM are ready as are wanted."""
    leaders = stage.leaders()
    store = store_of(stage, leaders[0]) if leaders else None
    found = store.get("VM", "default", vm) if store is not None else None
    return found is not None and found.status.get("readyReplicas") == replicas


def settle(stage: Stage, within_s: float = 40.0) -> None:
    """Wait until every VM that is wanted has all its replicas ready."""
    stage.until(within_s, lambda: _settled(stage), "all VMs are ready", "liveness")


def unplaceable(stage: Stage) -> list[str]:
    """Return the VMs of which an instance fits nowhere."""
    placed = state(stage).list("VM")
    return [vm.metadata.name for vm in placed if "fits nowhere" in vm.status.get("message", "")]


def _settled(stage: Stage) -> bool:
    leaders = stage.leaders()
    store = store_of(stage, leaders[0]) if leaders else None
    return store is not None and bool(store.list("VM")) and not unready(store)


def unready(store: Store) -> list[str]:
    """Return the VMs that lack ready replicas, and how many they have."""
    return [
        f"{vm.metadata.name} has {vm.status.get('readyReplicas', 0)} of {wanted_replicas(vm)} ready"
        for vm in store.list("VM")
        if vm.status.get("readyReplicas") != wanted_replicas(vm)
    ]


def agree(stage: Stage) -> None:
    """All running nodes say the same of all VMs and their instances."""
    stage.until(
        _AGREE_S, lambda: not apart(stage), "all nodes agree on the state of the VMs",
        seen=lambda: "; ".join(apart(stage)),
    )  # fmt: skip


def apart(stage: Stage) -> list[str]:
    """Return the running nodes that have no state, or another one than the first that has one."""
    hosts = [host for host in stage.world.hosts if host.daemon is not None]
    shown = [(h, _vm_state(s)) for h in hosts if (s := store_of(stage, h)) is not None]
    known = [host for host, _ in shown]
    texts = [f"{host.uid} has no state" for host in hosts if host not in known]
    return texts + [
        f"{host.uid} knows other VMs and instances than {known[0].uid}"
        for host, state_there in shown
        if state_there != shown[0][1]
    ]


def _vm_state(store: Store) -> list[Resource]:
    return [*store.list("VM"), *store.list("Instance")]


def no_violations(stage: Stage) -> None:
    """No node is asked for more than it has, and none runs more."""
    store = state(stage)
    for host in stage.world.hosts:
        vcpus, memory = store.reserved(host.uid)
        fits = vcpus <= VCPUS * _OVERCOMMIT_VCPUS and memory <= MEMORY_MIB
        stage.expect(fits, f"{host.uid} has {vcpus} vCPUs, {memory} MiB reserved", "resources")
    used_mib = _used_mib(stage)
    stage.expect(max(used_mib) <= MEMORY_MIB, f"the guests use {used_mib} MiB", "memory")


def _used_mib(stage: Stage) -> list[int]:
    """Return the memory of all that runs, host by host."""
    running = [host.guests.running() if host.up else [] for host in stage.world.hosts]
    return [sum(plan.memory_mib for plan in plans) for plans in running]


def no_orphans(stage: Stage) -> None:
    """Every instance has its VM, and soon every process and tap has its instance."""
    store = state(stage)
    vms = {vm.metadata.uid for vm in store.list("VM")}
    lost = [i.metadata.name for i in store.list("Instance") if i.metadata.owner not in vms]
    stage.expect(not lost, f"{lost} have no VM", "orphans")
    stage.until(_AGREE_S, lambda: not ownerless(stage), "no process without an instance")


def ownerless(stage: Stage) -> list[str]:
    """Return what runs where the state does not have it."""
    leaders = stage.leaders()
    store = store_of(stage, leaders[0]) if leaders else None
    if store is None:
        return ["nobody leads"]
    homes = {i.metadata.uid: i.spec.get("node") for i in store.list("Instance")}
    return [
        uid
        for host in stage.world.hosts if host.up
        for uid, process in sorted(host.guests.instances.items())
        if process.state != "exited" and homes.get(uid) != host.uid
        and process.plan.purpose == "vm"
    ]  # fmt: skip


def no_sleepers(stage: Stage) -> None:
    """Soon no guest stands still where it should run."""
    stage.until(
        _AGREE_S, lambda: not sleepers(stage), "no guest stands still", seen=lambda:
        ", ".join(sleepers(stage)),
    )  # fmt: skip


def sleepers(stage: Stage) -> list[str]:
    """Return the instances whose CPUs stand still."""
    return [
        f"{process.plan.name} on {host.uid}"
        for host in stage.world.hosts if host.up
        for process in host.guests.instances.values() if process.state == "paused"
    ]  # fmt: skip


def check(stage: Stage) -> None:
    """All that has to hold after each operation on VMs."""
    agree(stage)
    no_sleepers(stage)
    no_orphans(stage)
    no_violations(stage)
