"""Which changes are told, and how many are kept."""

import itertools

from blixard.base.ids import ulid
from blixard.node.events import EVENTS_MAX, event_ops, instance_event, node_event
from blixard.node.messages import Report
from tests.unit.vms.states import START_MS, Cluster


def report(run=1, **status):
    return Report("u", "default", "web-1", run, status)


def placed():
    cluster = Cluster()
    cluster.vm(replicas=1)
    cluster.settle()
    return cluster, cluster.store.get("Instance", "default", "web-1")


def test_becoming_ready_is_told_once():
    cluster, instance = placed()
    event = instance_event(instance, report(phase="Running", ready=True), "node1")
    assert (event.type, event.reason) == ("Normal", "Ready")
    cluster.report("web-1", phase="Running", ready=True)
    instance = cluster.store.get("Instance", "default", "web-1")
    assert instance_event(instance, report(phase="Running", ready=True), "node1") is None


def test_a_failure_is_a_warning_with_its_reason():
    _, instance = placed()
    event = instance_event(instance, report(phase="Failed", reason="no kernel"), "node1")
    assert event.type == "Warning"
    assert event.message == "web-1 is Failed on node1: no kernel"


def test_steps_on_the_way_are_not_told():
    _, instance = placed()
    assert instance_event(instance, report(phase="Building"), "node1") is None


def test_an_older_run_tells_nothing():
    _, instance = placed()
    assert instance_event(instance, report(run=0, phase="Failed"), "node1") is None


def test_the_oldest_are_forgotten():
    cluster = Cluster(nodes=1)
    numbers = itertools.count(1)
    node = cluster.store.get("Node", "", "node1")
    event = node_event(node, "Lost", "gone")
    for _ in range(EVENTS_MAX // 100 + 1):
        ops = event_ops(
            cluster.store,
            [event] * 100,
            now_ms=START_MS,
            new_id=lambda: ulid(START_MS, next(numbers) << 40),
        )
        cluster.commit(*ops)
    assert cluster.store.count("Event") <= EVENTS_MAX + 100
