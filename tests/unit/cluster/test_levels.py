"""Kinds and rules by the feature level of the cluster, which rises as far as all nodes can."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.logs import TABLE, Log

from blixard.cluster.kind import Kind, KindTable
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import PatchStatus, Put

OLD = Kind(name="Tent", plural="tents", namespaced=False, until=2)
NEW = msgspec.structs.replace(OLD, until=0, since=2, rule=lambda *_: "tents are full")
LATER = Kind(name="House", plural="houses", namespaced=False, since=2)


def at_level(level: int) -> Put:
    spec = {"clusterId": "c", "featureLevel": level}
    return Put(kind="ClusterConfig", namespace="", name="cluster", spec=spec, uid="config")


def thing(kind: str, name: str) -> Put:
    return Put(kind=kind, namespace="", name=name, spec={}, uid=f"{kind}-{name}")


def node(number: int) -> Put:
    spec = {"address": "a:1", "raftId": 10 + number}
    return Put(kind="Node", namespace="", name=f"far{number}", spec=spec, uid=f"far-{number}")


def knows(number: int, level: int) -> PatchStatus:
    return PatchStatus(
        kind="Node",
        namespace="",
        name=f"far{number}",
        uid=f"far-{number}",
        status={"featureLevel": level},
    )


@pytest.fixture
def log() -> Log:
    made = Log()
    made.machine = ClusterMachine((*TABLE, OLD, NEW, LATER))
    return made


def test_rules_and_kinds_change_with_the_stored_level(log: Log) -> None:
    log.do(at_level(1))
    assert log.do(thing("Tent", "a")).code == ""
    assert log.do(thing("House", "a")).code == "UNKNOWN_KIND"
    assert log.do(at_level(2)).code == ""
    assert log.do(thing("Tent", "b")).message == "tents are full"
    assert log.do(thing("House", "a")).code == ""


def test_version_that_knows_more_answers_like_one_that_does_not(log: Log) -> None:
    """Otherwise the chained hashes of a mixed cluster would part."""
    older = Log()
    older.machine = ClusterMachine((*TABLE, msgspec.structs.replace(OLD, until=0)))
    for op in (at_level(1), thing("Tent", "a"), thing("House", "a"), thing("Tent", "b")):
        assert log.do(op) == older.do(op)
    assert log.machine.state_hash() == older.machine.state_hash()


def test_level_waits_for_the_last_node_and_never_falls(log: Log) -> None:
    log.do(at_level(1), node(1), node(2))
    assert log.do(knows(1, 2)).code == ""
    refused = log.do(at_level(2))
    assert (refused.code, refused.message) == (
        "INVARIANT",
        "feature level 2 is beyond the program on far2",
    )
    log.do(knows(2, 3))
    assert log.do(at_level(2)).code == ""
    assert log.do(at_level(3)).code == "INVARIANT"
    assert log.do(at_level(1)).message == "the feature level cannot go back from 2"


def test_table_shows_the_newest_of_a_name() -> None:
    table = KindTable((OLD, NEW))
    assert table.find("tents") is NEW
    assert (table.at("Tent", 1), table.at("Tent", 2)) == (OLD, NEW)
