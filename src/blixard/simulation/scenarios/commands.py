"""The command line in the simulated world: in quiet, and while leaders die and ways are cut."""

from __future__ import annotations

from blixard.simulation.scenarios.shell import Shell, serve
from blixard.simulation.scenarios.stage import Scenario, Stage

_VALUES = 12


def every_day(stage: Stage) -> None:
    """A VM from its creation to its end, values, refusals and the cluster, by command lines."""
    shell = Shell(stage)
    assert stage.operator is not None
    stage.operator.stopped = True
    shell.good("vm", "create", "db", "--packages", "nginx", "--replicas", "2")
    stage.expect("db" in shell.good("vm", "list"), "vm list shows db")
    shell.good("vm", "scale", "db", "--replicas", "3")
    shell.good("vm", "restart", "db")
    shell.good("wait", "vm/db", "--for", "ready")
    shell.good("vm", "stop", "db")
    shell.good("vm", "start", "db")
    shell.good("kv", "put", "app/colour", "blue")
    stage.expect(shell.good("kv", "get", "app/colour") == "blue\n", "kv get prints what was put")
    again = shell("vm", "create", "db", "--packages", "nginx")
    stage.expect(again.code == 5, f"a second db is a conflict, not {again.code}: {again.err}")
    absent = shell("vm", "status", "none")
    stage.expect(absent.code == 3, f"an absent VM is not found, not {absent.code}: {absent.err}")
    stage.happened("refused commands")
    stage.expect("node-2" in shell.good("cluster", "status"), "cluster status names the nodes")
    shell.good("vm", "delete", "db", "--yes")
    stage.expect("db" not in shell.good("vm", "list"), "vm list forgets db")
    stage.happened("commands")


def in_trouble(stage: Stage) -> None:
    """The leader dies, or is cut off, between and during commands: none of them lies."""
    shell = Shell(stage)
    for number in range(_VALUES):
        leader = stage.leader()
        kind = ("kill", "partition", "crash")[number % 3]
        delay_s = stage.draw.random() * 0.01
        root = stage.world.loop.root
        root.call_at_ns(
            stage.now_ns + int(delay_s * 1e9),
            lambda kind=kind, leader=leader: stage.fault(kind, leader, lasts_s=2.0),
        )
        key = f"app/{number}"
        put = shell("kv", "put", key, "x", "--timeout", "8s")
        if put.code:
            stage.happened("commands that failed")
            stage.expect("error[" in put.err, f"a failed command says why: {put.err!r}")
        else:
            stage.happened("commands")
        stage.run_for(4)
        got = shell("kv", "get", key, "--timeout", "8s")
        kept = got.code == 0 and got.out == "x\n"
        unknown = bool(put.code) and got.code == 3
        stage.expect(kept or unknown, f"{key}: put {put}, then {got}")


SCENARIOS = (
    Scenario(
        name="commands/every-day",
        rows=("SIM-52", "SIM-57"),
        incident="commands worked on one machine, and nobody had tried them on a cluster",
        act=every_day,
        prepare=serve,
        happens=("commands", "refused commands"),
        node=True,
        clients=1,
    ),
    Scenario(
        name="commands/in-trouble",
        rows=("SIM-52", "complaint/17"),
        incident="raftify: a call that never returned; TigerBeetle: a client that tried for ever",
        act=in_trouble,
        prepare=serve,
        happens=("commands", "kill", "partition", "crash"),
        node=True,
        clients=1,
    ),
)
