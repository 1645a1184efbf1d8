"""Operations on VMs, drawn from the seed: in quiet, under each kind of trouble, and for a month."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.cli.session import without_status
from blixard.simulation.scenarios.guests import (
    check,
    guests,
    instances,
    is_ready,
    settle,
    state,
    unplaceable,
    where,
)
from blixard.simulation.scenarios.shell import Ran, Shell, serve
from blixard.simulation.scenarios.stage import Scenario, Stage

_NAMES = tuple(f"vm-{number}" for number in range(6))
_MEMORY = ("64MiB", "256MiB", "1GiB", "3GiB", "16GiB")  # the last one fits on no node
_ROUNDS = 6
_DAY_S = 14.0
_DAYS = 30
_MAY_FAIL = (0, 3, 5, 6, 7, 8)  # exit codes: absent, conflict, no place, too late, no quorum


def _draw_operation(draw: random.Random) -> list[str]:
    """Return one command line on one of a few VMs, which may exist or not."""
    name = draw.choice(_NAMES)
    kind = draw.choice(
        ("create",) * 4 + ("scale",) * 3 + ("start", "stop", "restart", "delete", "resize")
    )
    if kind == "resize":
        return ["vm", kind, name, draw.choice(_MEMORY), str(draw.randint(1, 4))]
    more: list[str] = []
    if kind == "create":
        more = [
            "--packages", draw.choice(("nginx", "curl")), "--memory", draw.choice(_MEMORY),
            "--replicas", str(draw.randint(1, 4)), "--vcpus", str(draw.randint(1, 4)),
            "--on-partition", draw.choice(("keep", "fence")),
        ]  # fmt: skip
    if kind == "scale":
        more = ["--replicas", str(draw.randint(0, 4))]
    return ["vm", kind, name, *more, "--yes", "--detach", "--timeout", "5s"]


def _resize(shell: Shell, name: str, memory: str, vcpus: str) -> Ran:
    """Do what ``apply -f`` does with a changed size; the simulated world has no files."""
    path = f"/v1/namespaces/default/vms/{name}"
    try:
        vm = shell.client.request("GET", path, timeout_s=5)
        changed = {**vm, "spec": {**vm["spec"], "memory": memory, "vcpus": int(vcpus)}}
        shell.client.request("PUT", path, body=without_status(changed), timeout_s=5)
    except BlixardError as error:
        return Ran(error.info.exit_code, "", f"error[{error.code}]: {error.message}")
    return Ran(0, "", "")


def operate(stage: Stage, shell: Shell, draw: random.Random) -> None:
    """Do one drawn operation; it succeeds, or it says why not."""
    line = _draw_operation(draw)
    ran = _resize(shell, *line[2:]) if line[1] == "resize" else shell(*line)
    stage.happened(f"vm {line[1]}" if not ran.code else "operations refused")
    fine = ran.code in _MAY_FAIL and (not ran.code or "error[" in ran.err)
    stage.expect(fine, f"{' '.join(line)}: {ran.code} {ran.err}")


def _quiet_operator(stage: Stage) -> Shell:
    assert stage.operator is not None
    stage.operator.stopped = True
    return Shell(stage)


def sequences(stage: Stage) -> None:
    """1 to 100 operations on VMs; after each of them the nodes agree and nothing is left over."""
    shell = _quiet_operator(stage)
    for _ in range(stage.draw.randint(1, 100)):
        operate(stage, shell, stage.draw)
        stage.run_for(stage.draw.choice((0, 0.2, 1, 3)))
        check(stage)
        stage.happened("checks after an operation")
    _tidy_up(stage, shell)


def _tidy_up(stage: Stage, shell: Shell) -> None:
    """Delete what there is no room for, as an operator does who looks at it."""
    shell("vm", "delete", "filler", "--yes", "--detach")
    stage.run_for(5)
    for name in unplaceable(stage):
        shell.good("vm", "delete", name, "--yes", "--detach")


def distributed(stage: Stage) -> None:
    """Five VMs on three nodes: all run, and every node has some of them."""
    shell = _quiet_operator(stage)
    for number in range(5):
        shell.good(
            "vm", "create", f"vm-{number}", "--packages", "nginx", "--vcpus", "2",
            "--memory", "1024", "--detach",
        )  # fmt: skip
    stage.until(30, lambda: len(guests(stage)) == 5, "five VMs run")
    settle(stage)
    homes = {host.uid for number in range(5) for host in where(stage, f"vm-{number}")}
    stage.expect(len(homes) == 3, f"the VMs run on {sorted(homes)} only")
    stage.happened("distributed")
    check(stage)


def lifecycle(stage: Stage) -> None:
    """Create, start, Running, stop, Stopped, delete."""
    shell = _quiet_operator(stage)
    shell.good(
        "vm", "create", "one", "--packages", "nginx", "--memory", "256", "--vcpus", "1", "--stopped"
    )
    stage.expect(not guests(stage, "one"), "created and not started")
    for verb, phase, running in (("start", "Running", 1), ("stop", "Stopped", 0)):
        shell.good("vm", verb, "one")
        phases = [i.status["phase"] for i in instances(stage, "one")]
        stage.expect(phases == [phase], f"after {verb}: {phases}")
        stage.expect(len(guests(stage, "one")) == running, f"after {verb}: the process")
        stage.happened(phase)
    shell.good("vm", "delete", "one", "--yes")
    stage.expect(not instances(stage, "one"), "nothing is left")
    check(stage)


def exchanged(stage: Stage) -> None:
    """VMs that fill all nodes end; others begin where they were, and never before they ended."""
    shell = _quiet_operator(stage)
    for way in stage.draw.sample(("delete", "scale", "resize"), 3):
        shell.good("vm", "create", "old", "--packages", "nginx", "--memory", "4GiB",
                   "--replicas", "6", "--detach")  # fmt: skip
        settle(stage)
        if way == "resize":
            stage.expect(not _resize(shell, "old", "64MiB", "1").code, "the size can be changed")
        else:
            more = ("--replicas", "0") if way == "scale" else ()
            shell.good("vm", way, "old", *more, "--yes", "--detach")
        shell.good("vm", "create", "new", "--packages", "nginx", "--memory", "4000MiB",
                   "--replicas", "6", "--detach")  # fmt: skip
        settle(stage)
        check(stage)
        for name in ("old", "new") if way != "delete" else ("new",):
            shell.good("vm", "delete", name, "--yes")
        stage.happened("exchanged")


# chaos: operations go on while one kind of trouble comes and goes


def _under(stage: Stage, trouble: Callable[[Stage], None]) -> None:
    """Operate through rounds of trouble; after each of them all is as it should be."""
    shell = _quiet_operator(stage)
    for number in range(3):
        shell("vm", "create", f"vm-{number}", "--packages", "nginx", "--replicas", "2", "--detach")
    settle(stage)
    for _ in range(_ROUNDS):
        trouble(stage)
        for _ in range(3):
            operate(stage, shell, stage.draw)
            stage.run_for(stage.draw.random())
        stage.run_for(3)
    stage.heal()
    _tidy_up(stage, shell)
    check(stage)


def host_failures(stage: Stage) -> None:
    """Machines with VMs lose power, freeze and come back, in the middle of operations."""

    def trouble(stage: Stage) -> None:
        busy = sorted({host.number for host, _ in guests(stage)}) or [1]
        host = stage.host(stage.draw.choice(busy))
        stage.fault(stage.draw.choice(("crash", "freeze")), host, lasts_s=2)

    _under(stage, trouble)


def hypervisor_crashes(stage: Stage) -> None:
    """Hypervisor processes die, boot slowly, hang and ignore kills in the middle of operations."""

    def trouble(stage: Stage) -> None:
        for host in stage.world.hosts:
            kind = stage.draw.choice(("guest_crash", "slow_boot", "guest_hang", "kill_lost"))
            stage.fault(kind, host, lasts_s=2)

    _under(stage, trouble)


def bad_networks(stage: Stage) -> None:
    """Loss, delay, resets and partitions in the middle of operations."""

    def trouble(stage: Stage) -> None:
        stage.fault("noise", lasts_s=4, strength=0.3 + 0.7 * stage.draw.random())
        one, other = stage.draw.sample(stage.world.hosts, 2)
        kind = stage.draw.choice(("partition", "one_way", "lag", "reset", "flap"))
        pair = kind in ("reset", "flap")
        stage.fault(kind, *((one, other) if pair else (one,)), lasts_s=2.5)

    _under(stage, trouble)


def pressure(stage: Stage) -> None:
    """No memory for more guests, full and slow disks, machines without CPU time, in the middle."""

    def trouble(stage: Stage) -> None:
        full = instances(stage, "filler")
        if not full:
            Shell(stage)("vm", "create", "filler", "--packages", "nginx", "--memory", "2500MiB",
                         "--replicas", "12", "--detach")  # fmt: skip
        elif any(i.status["phase"] == "Pending" for i in full):
            stage.happened("no room for guests")
        host = stage.draw.choice(stage.world.hosts)
        stage.fault(stage.draw.choice(("full", "little_room", "stall")), host, lasts_s=2)
        stage.fault("pause", stage.draw.choice(stage.world.hosts), lasts_s=1)
        stage.slow_disks(0.01)

    _under(stage, trouble)
    stage.slow_disks(0.0005)


def clocks_apart(stage: Stage) -> None:
    """Wall clocks step, jump by years and stand still in the middle of operations."""

    def trouble(stage: Stage) -> None:
        for host in stage.world.hosts:
            kind = stage.draw.choice(("wall_step", "wall_jump", "wall_freeze"))
            stage.fault(kind, host, lasts_s=3, strength=stage.draw.random())

    _under(stage, trouble)


def month(stage: Stage) -> None:
    """Thirty days: deploys and load every day, reboots every week, a broken disk, a dead machine.

    One day takes 14 s: all timers of the nodes are stretched with the time.
    """
    shell = _quiet_operator(stage)
    for name, replicas in (("web", "2"), ("db", "1")):
        shell.good("vm", "create", name, "--packages", "nginx", "--replicas", replicas, "--detach")
    settle(stage)
    sizes = []
    for day in range(_DAYS):
        evening_ns = stage.now_ns + int(_DAY_S * 1e9)
        _one_day(stage, shell, day)
        stage.run_for(max(0.1, (evening_ns - stage.now_ns) / 1e9))
        settle(stage)
        check(stage)
        sizes.append(max(host.image.used for host in stage.world.hosts))
        stage.happened("days")
    stage.expect(max(sizes) < 8 * max(sizes[:5]), f"disks grow: {sizes}", "bounded disk")
    stage.expect(state(stage).count("Event") <= 1_100, "events are bounded", "bounded state")


def _one_day(stage: Stage, shell: Shell, day: int) -> None:
    draw, weekday = stage.draw, day % 7
    shell("vm", "scale", "web", "--replicas", str(draw.randint(2, 4)), "--detach", "--yes")
    if weekday < 5:
        shell("vm", "restart", draw.choice(("web", "db")), "--detach")
        stage.fault("guest_crash", draw.choice(stage.world.hosts))
    if weekday == 5:
        _rolling_reboot(stage)
    if day == 9:
        stage.fault("lost_disk", stage.follower(), lasts_s=2)
    if day == 20:
        stage.fault("crash", draw.choice(stage.world.hosts), lasts_s=_DAY_S / 2)
    if draw.random() < 0.3:
        stage.fault("noise", lasts_s=3, strength=draw.random())
    for host in stage.world.hosts:
        stage.fault("wall_step", host, strength=0.5 + 0.01 * draw.random())


def _rolling_reboot(stage: Stage) -> None:
    for host in stage.world.hosts:
        stage.crash(host)
        stage.run_for(1)
        stage.back(host)
        back = functools.partial(_takes_part, stage, host.uid)
        stage.until(20, back, "the host takes part again")
        settle(stage)
        stage.happened("reboots")


def _takes_part(stage: Stage, uid: str) -> bool:
    node = state(stage).by_uid(uid)
    return node is not None and node.status.get("state") == "Ready" and is_ready(stage, "db", 1)


def _chaos(name: str, act: Callable[[Stage], None], row: str, *kinds: str) -> Scenario:
    return Scenario(
        name=f"operations/{name}", rows=(row,), act=act, happens=("vm create", *kinds),
        incident="orchestrators that were tested on a good day only", prepare=serve, node=True,
        clients=1,
    )  # fmt: skip


SCENARIOS = (
    Scenario(
        name="operations/sequences", rows=("SIM-33",), act=sequences, prepare=serve, node=True,
        clients=1, happens=("checks after an operation",),
        incident="an orchestrator that lost track of its VMs after a rare order of operations",
    ),
    Scenario(
        name="operations/exchanged", rows=("SIM-33", "SIM-38"), act=exchanged, prepare=serve,
        node=True, clients=1, happens=("exchanged",),
        incident="a new VM was started into the memory of one that still shut down",
    ),
    Scenario(
        name="operations/distributed", rows=("SIM-56",), act=distributed, prepare=serve, node=True,
        clients=1, happens=("distributed",), incident="all VMs were placed on the first node",
    ),
    Scenario(
        name="operations/lifecycle", rows=("SIM-57",), act=lifecycle, prepare=serve, node=True,
        clients=1, happens=("Running", "Stopped"),
        incident="a stopped VM whose process ran on",
    ),
    _chaos("host-failures", host_failures, "SIM-41", "crash", "freeze"),
    _chaos("hypervisor-crashes", hypervisor_crashes, "SIM-43", "guest_crash", "kill_lost"),
    _chaos("bad-networks", bad_networks, "SIM-45", "noise"),
    _chaos("pressure", pressure, "SIM-46", "no room for guests", "pause"),
    _chaos("clocks-apart", clocks_apart, "SIM-47", "wall_step", "wall_jump", "wall_freeze"),
    Scenario(
        name="operations/month", rows=("SIM-30",), act=month, prepare=serve, node=True, clients=1,
        happens=("days", "reboots", "crash", "lost_disk", "guest_crash"),
        incident="systems that are well for a day and full, slow or unbalanced after a month",
    ),
)  # fmt: skip
