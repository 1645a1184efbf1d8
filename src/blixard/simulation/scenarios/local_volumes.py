"""Volumes that are files of one host: whoever has one runs there or nowhere."""

from __future__ import annotations

from blixard.simulation.scenarios.guests import check, guests, settle, state, where
from blixard.simulation.scenarios.shell import Shell, serve
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.scenarios.volumes import ceph, make_pool, make_vm
from blixard.simulation.world import Host

_POOL = "disk-pool"
_KEPT_S = 20  # long enough for anything else to be started elsewhere
_SLOW_BOOT_S = 1.0
_FENCED = {"onPartition": "fence"}  # it would move, were it not for its data


def _begin(stage: Stage) -> Shell:
    """Make a pool of files; nobody else wants VMs."""
    assert stage.operator is not None
    stage.operator.stopped = True
    shell = Shell(stage)
    make_pool(shell, _POOL, backend="local")
    return shell


def _files(stage: Stage) -> list[str]:
    """Return all volumes that lie on hosts."""
    return [uid for host in stage.world.hosts for uid in sorted(host.local_volumes.volumes)]


def _writes(stage: Stage, count: int) -> None:
    goal = ceph(stage).stored.writes + count
    stage.until(20, lambda: ceph(stage).stored.writes >= goal, "volumes take writes")


def _comes_back(stage: Stage, vm: str, host: Host) -> None:
    """Its host returns: the VM runs there again, and finds what it wrote."""
    stage.expect(not guests(stage, vm), f"{vm} runs, and its data are on a host that is off")
    stage.back(host)
    settle(stage, 60)
    stage.expect(host in where(stage, vm), f"{vm} runs at {where(stage, vm)}, not {host.uid}")
    _writes(stage, 4)
    stage.happened("back at its data")


def stays_with_its_data(stage: Stage) -> None:
    """Hosts lose power and are cut off: a VM with a local volume waits for its own, others move.

    Scaled down, deleted and made again, it finds the volume that it left behind.
    """
    shell = _begin(stage)
    make_vm(shell, "db", pool=_POOL, more=_FENCED)
    shell.good("vm", "create", "web", "--packages", "nginx", "--on-partition", "fence", "--detach")
    settle(stage)
    for step in ("crash", "partition", "scale", "delete"):
        _writes(stage, 4)
        (host,) = where(stage, "db")
        if step == "partition":
            before = guests(stage, "db")
            heal = stage.fault("partition", host)
            stage.run_for(_KEPT_S)
            heal()
            settle(stage, 60)
            stage.expect(guests(stage, "db") == before, "db ended, which nobody else could run")
            continue
        if step == "scale":
            shell.good("vm", "scale", "db", "--replicas", "0", "--yes")
        elif step == "delete":
            shell.good("vm", "delete", "db", "--yes")
        stage.crash(host)
        stage.run_for(_KEPT_S)  # until it counts as lost
        stage.leader(20)
        if step == "scale":
            shell.good("vm", "scale", "db", "--replicas", "1", "--detach")
        elif step == "delete":
            make_vm(shell, "db", pool=_POOL, more=_FENCED)
        stage.run_for(_KEPT_S)
        stage.expect(len(guests(stage, "web")) == 1, "web, without data, runs elsewhere")
        _comes_back(stage, "db", host)
    check(stage)


def never_ready(stage: Stage) -> None:
    """A guest wrote, and its host lost power before it was ready: its VM, made again, waits for it.

    It begins nowhere else with an empty disk, and the volume goes when it is deleted.
    """
    shell = _begin(stage)
    for host in stage.world.hosts:
        host.guests.boot_s = host.boot_s = _SLOW_BOOT_S
    make_vm(shell, "db", pool=_POOL, more=_FENCED)
    stage.until(20, lambda: bool(guests(stage, "db")), "db begins to boot")
    host = guests(stage, "db")[0][0]
    heal = stage.fault("partition", host)
    _writes(stage, 2)
    stage.crash(host)
    heal()
    stage.run_for(4)
    stage.leader(20)
    (volume,) = state(stage).list("Volume")
    stage.expect(volume.status["phase"] == "Pending", "db was never ready")
    shell.good("vm", "delete", "db", "--yes", "--detach")
    stage.back(host)
    stage.until(40, lambda: not state(stage).count("Instance"), "db is gone")
    stage.expect(bool(_files(stage)), "its volume stays", "kept volume")
    stage.crash(host)
    stage.run_for(_KEPT_S)  # until it counts as lost
    stage.leader(20)
    make_vm(shell, "db", pool=_POOL, more=_FENCED)
    stage.run_for(_KEPT_S)
    _comes_back(stage, "db", host)
    shell.good("vm", "delete", "db", "--yes")
    path = "/v1/namespaces/default/volumes/db-1-data"
    shell.client.request("DELETE", path, timeout_s=5)
    stage.until(20, lambda: not _files(stage), "the volume goes when it is deleted", "storage")
    check(stage)


SCENARIOS = (
    Scenario(
        name="storage/stays-with-its-data", rows=("SIM-38",), act=stays_with_its_data,
        prepare=serve, node=True, clients=1, happens=("back at its data",),
        incident="a database started on another host, with an empty disk, after its host rebooted",
    ),
    Scenario(
        name="storage/never-ready", rows=("SIM-38",), act=never_ready, prepare=serve, node=True,
        clients=1, happens=("back at its data",),
        incident="a VM made again beside its data, which lay where it had never become ready",
    ),
)  # fmt: skip
