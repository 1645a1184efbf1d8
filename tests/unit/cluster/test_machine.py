"""Transactions, preconditions, fencing, request ids and snapshots of the state machine."""

import pytest
from tests.unit.cluster.logs import TABLE, Log, T, box, command, instance

from blixard.base.ids import ulid
from blixard.cluster import machine as machine_module
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Delete, PatchStatus, Put


@pytest.fixture
def log():
    return Log()


def report(**rest):
    known = {"node_uid": "node-1", "node_epoch": 1, "run": 1, "status": {"phase": "Running"}}
    return PatchStatus(kind="Instance", namespace="default", name="a", uid="inst-a", **known | rest)


def test_one_failed_operation_undoes_all(log):
    before = log.machine.store
    outcome = log.do(box("a", "u1"), box("b", "u1"))
    assert (outcome.code, outcome.pointer) == ("INVARIANT", "/ops/1")
    assert log.machine.store is before


def test_partial_batch_keeps_what_stands(log):
    outcome = log.do(box("a", "u1"), box("b", "u1"), box("c", "u2"), partial=True)
    assert [result.code for result in outcome.results] == ["", "INVARIANT", ""]
    assert [r.metadata.name for r in log.machine.store.list("Box")] == ["a", "c"]


def test_stale_expectation_is_a_conflict(log):
    made = log.do(box("a", "u1")).revision
    assert log.do(box("a", "", spec={"n": 1}, expect=made)).code == ""
    assert log.do(box("a", "", spec={"n": 2}, expect=made)).code == "CONFLICT"
    assert log.do(box("a", "u2", expect=0)).code == "ALREADY_EXISTS"


def test_generation_counts_changes_of_the_spec(log):
    log.do(box("a", "u1"))
    log.do(box("a", "", labels={"x": "y"}))
    log.do(box("a", "", labels={"x": "y"}, spec={"n": 1}))
    metadata = log.machine.store.by_uid("u1").metadata
    assert (metadata.generation, metadata.revision) == (2, 5)


def test_decision_of_another_term_is_stale(log):
    assert log.do(box("a", "u1"), term=2).code == "STALE_TERM"
    assert log.do(box("a", "u1"), term=1).code == ""


@pytest.mark.parametrize("wrong", [{"run": 2}, {"node_epoch": 2}, {"node_uid": "node-2"}])
def test_report_of_another_owner_is_fenced(log, wrong):
    log.do(instance(run=1))
    assert log.do(report(**wrong)).code == "FENCED"
    assert log.do(report()).code == ""


def test_report_of_an_old_epoch_is_fenced(log):
    log.do(instance(run=1))
    log.do(PatchStatus(kind="Node", namespace="", name="n1", uid="node-1", status={"epoch": 2}))
    assert log.do(report()).code == "FENCED"


def test_run_number_never_goes_back(log):
    log.do(instance(run=3))
    assert log.do(instance(run=2)).code == "INVARIANT"


def test_full_node_takes_no_more(log):
    assert log.do(instance(run=1, vcpus=5)).code == "INVARIANT"
    assert log.do(instance(run=1, vcpus=4)).code == ""
    assert log.machine.store.reserved("node-1") == (4, 64)


def test_deletion_takes_all_that_is_owned(log):
    log.do(box("b0", "u0"))
    for start in range(1, 3001, 500):
        ops = (box(f"b{i}", f"u{i}", owner=f"u{i - 1}") for i in range(start, start + 500))
        assert log.do(*ops).code == ""
    assert log.do(Delete(kind="Box", namespace="default", name="b0")).code == ""
    assert log.machine.store.count("Box") == 0


def test_owner_must_exist(log):
    assert log.do(box("a", "u1", owner="nobody")).code == "INVARIANT"


def test_removed_node_identity_is_never_reused(log):
    log.do(Delete(kind="Node", namespace="", name="n1"))
    assert "raft id 1" in log.do(log.node("n2", "node-2", 1)).message
    assert "node-1" in log.do(log.node("n2", "node-1", 2)).message
    assert log.do(log.node("n2", "node-2", 2)).code == ""


def test_namespace_in_use_stays(log):
    log.do(Put(kind="Namespace", namespace="", name="team", uid="team", spec={}))
    log.do(box("a", "u1", namespace="team"))
    gone = Delete(kind="Namespace", namespace="", name="team")
    assert log.do(gone).code == "INVARIANT"
    log.do(Delete(kind="Box", namespace="team", name="a"))
    assert log.do(gone).code == ""


def test_wrong_types_are_refused_not_fatal(log):
    bad = Put(
        kind="Instance", namespace="default", name="a", uid="i", spec={"run": "x", "node": []}
    )
    assert log.do(bad).code == "INVARIANT"


def test_retry_gets_the_first_outcome(log):
    data = command(99, box("a", "u1", expect=0))
    first = log.feed(data)
    assert log.feed(data) == first
    assert log.machine.store.count("Box") == 1


def test_forgotten_request_id_is_never_applied(log, monkeypatch):
    monkeypatch.setattr(machine_module, "REQUEST_IDS_MAX", 3)
    data = command(99, box("a", "u1"))
    log.feed(data)
    for later in range(1, 5):
        log.feed(command(later, box(f"x{later}", f"x{later}"), time_ms=T + later))
    log.feed(command(7, Delete(kind="Box", namespace="default", name="a"), time_ms=T + 9))
    assert log.feed(data).code == "REQUEST_ID_EXPIRED"
    assert log.machine.store.by_uid("u1") is None


def test_request_id_of_another_time_is_invalid(log):
    data = command(5, box("a", "u1"), time_ms=T)
    far = data.replace(ulid(T, 5).encode(), ulid(T + 300_001, 5).encode())
    assert log.feed(far).code == "REQUEST_ID_INVALID"


def test_snapshot_restores_everything(log):
    log.do(box("a", "u1"), instance(run=1))
    log.do(Delete(kind="Box", namespace="default", name="a"))
    data = log.machine.encode(log.machine.freeze())
    other = ClusterMachine(TABLE)
    other.restore(data)
    assert other.encode(other.freeze()) == data
    assert other.store.reserved("node-1") == (1, 64)
    assert other.state_hash() == log.machine.state_hash()
