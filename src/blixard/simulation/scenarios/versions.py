"""Nodes of unlike versions in one cluster, on the way up and on the way back."""

from __future__ import annotations

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.kind import Kind
from blixard.cluster.resources import Put
from blixard.node.kinds import Program, all_kinds
from blixard.simulation.scenarios.stage import Scenario, Stage

_LATER = Kind(name="Tent", plural="tents", namespaced=False, since=2)


def _newer() -> Program:
    """Return the next version: it knows a kind more, and another rule for one of ours."""
    known = tuple(
        msgspec.structs.replace(k, until=2) if k.name == "KeyValue" else k for k in all_kinds()
    )
    value = next(kind for kind in all_kinds() if kind.name == "KeyValue")
    stricter = msgspec.structs.replace(value, since=2, rule=_no_tabu)
    return Program(version="99.0.0", level=2, kinds=(*known, stricter, _LATER))


def _no_tabu(_state: object, _old: object, new: object) -> str:
    name = getattr(getattr(new, "metadata", None), "name", "")
    return "that name is taboo" if name == "taboo" else ""


def _put(stage: Stage, kind: str, name: str) -> str:
    """Let an operator write an object; return the code of the refusal."""
    uid = stage.admin.new_id()
    spec = {"value": uid} if kind == "KeyValue" else {}
    try:
        stage.commit(Put(kind=kind, namespace="", name=name, spec=spec, uid=uid))
    except BlixardError as error:
        return error.code
    return ""


def _raise(stage: Stage, level: int) -> str:
    """Do what ``cluster raise-level`` does; return the code of the refusal."""
    voter = stage.node(stage.leader()).node.voter
    assert voter is not None
    config = voter.machine.store.get("ClusterConfig", "", "cluster")
    assert config is not None
    spec = {**config.spec, "featureLevel": level}
    try:
        stage.commit(Put(kind="ClusterConfig", namespace="", name="cluster", spec=spec))
    except BlixardError as error:
        return error.code
    return ""


def _mixed(stage: Stage) -> None:
    for host in stage.draw.sample(stage.world.hosts, stage.draw.randint(1, 2)):
        stage.programs[host.number] = _newer()


def _behaves_as_the_old_one(stage: Stage) -> None:
    """While the level is the old one, all answer as the old version does, whoever leads."""
    stage.expect(_put(stage, "Tent", "t") == "UNKNOWN_KIND", "the new kind is not known yet")
    stage.expect(_put(stage, "KeyValue", "taboo") == "", "the new rule does not count yet")
    stage.expect(_raise(stage, 2) == "INVARIANT", "the level waits for the last node")


def upgrade(stage: Stage) -> None:
    """Nodes are upgraded one by one under load; the new level waits for the last one."""
    _behaves_as_the_old_one(stage)
    hosts = list(stage.world.hosts)
    stage.draw.shuffle(hosts)
    waiting = [host for host in hosts if host.number not in stage.programs]
    for host in waiting:
        _behaves_as_the_old_one(stage)
        (host.kill_daemon if stage.draw.random() < 0.5 else host.crash)()
        stage.run_for(stage.draw.uniform(0.1, 3))
        stage.programs[host.number] = _newer()
        stage.back(host)
        stage.happened("upgraded")
        stage.leader()
        stage.run_for(3)
    stage.until(30, lambda: _raise(stage, 2) == "", "the level is raised")
    stage.happened("level raised")
    stage.expect(_put(stage, "Tent", "t") == "", "the new kind is there")
    stage.expect(_put(stage, "KeyValue", "taboo") == "INVARIANT", "the new rule counts")
    stage.until(60, stage.guests_ready, "the VMs run")


def way_back(stage: Stage) -> None:
    """A node goes back to the old version; once the level is raised, the old one stops instead."""
    for host in stage.world.hosts:
        stage.programs[host.number] = _newer()
        host.kill_daemon()
        stage.back(host)
        stage.leader()
        stage.run_for(2)
    host = stage.draw.choice(stage.world.hosts)
    host.kill_daemon()
    del stage.programs[host.number]
    stage.back(host)
    stage.run_for(10)
    stage.expect(_raise(stage, 2) == "INVARIANT", "the level waits for who went back")
    host.kill_daemon()
    stage.programs[host.number] = _newer()
    stage.back(host)
    stage.until(30, lambda: _raise(stage, 2) == "", "the level is raised")
    stage.world.excused[host.number] = "the cluster is at feature level 2"
    host.kill_daemon()
    del stage.programs[host.number]
    stops = stage.world.stops
    stage.back(host)
    stage.until(20, lambda: stage.world.stops > stops, "the old version stops")
    stage.happened("old version refused")
    stage.programs[host.number] = _newer()
    stage.writes(5, within_s=20)


SCENARIOS = (
    Scenario(
        name="versions/upgrade", rows=("fault/17",),
        incident="etcd #13514: a half-upgraded cluster applies by two sets of rules",
        act=upgrade, prepare=_mixed, node=True, happens=("upgraded", "level raised"),
    ),
    Scenario(
        name="versions/way-back", rows=("fault/17",),
        incident="etcd 3.5: a downgrade that could not be undone",
        act=way_back, node=True, happens=("old version refused",),
    ),
)  # fmt: skip
