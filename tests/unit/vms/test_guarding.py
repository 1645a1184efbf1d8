"""``onPartition`` changed while instances run: what is committed when, on both sides."""

import pytest

from blixard.cluster.resources import Put
from tests.unit.vms.states import Cluster
from tests.unit.vms.test_worker import become_ready, play


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.vm(replicas=1, onPartition="keep")
    cluster.settle()
    cluster.all_ready()
    cluster.settle()
    return cluster


def guard_of(cluster):
    spec = cluster.instances()["web-1"]
    return spec["guard"], spec["guardSeq"], spec["fenced"]


def switch(cluster, mode):
    cluster.vm(replicas=1, onPartition=mode)
    cluster.settle()


def test_it_counts_as_fenced_once_the_guard_confirmed(cluster):
    assert guard_of(cluster) == ("keep", 0, False)
    switch(cluster, "fence")
    assert guard_of(cluster) == ("fence", 1, False)
    cluster.report("web-1", guard="fence", guardSeq=1)
    cluster.settle()
    assert guard_of(cluster) == ("fence", 1, True)


@pytest.mark.parametrize("told", [("keep", 1), ("fence", 0), ("fence", 2)])
def test_no_other_word_of_the_guard_counts(cluster, told):
    switch(cluster, "fence")
    cluster.report("web-1", guard=told[0], guardSeq=told[1])
    cluster.settle()
    assert guard_of(cluster) == ("fence", 1, False)


def test_a_word_about_the_run_before_does_not_count(cluster):
    switch(cluster, "fence")
    cluster.patch("Instance", "web-1", "default", run=0, guard="fence", guardSeq=1)
    cluster.settle()
    assert guard_of(cluster) == ("fence", 1, False)


def test_it_counts_as_kept_before_the_node_hears_of_it(cluster):
    switch(cluster, "fence")
    cluster.report("web-1", guard="fence", guardSeq=1)
    cluster.settle()
    switch(cluster, "keep")
    assert guard_of(cluster) == ("keep", 2, False)


def test_what_was_not_confirmed_is_not_started_elsewhere(cluster):
    switch(cluster, "fence")
    before = cluster.instances()["web-1"]
    cluster.lose(before["nodeName"])
    cluster.report("web-1", guard="fence", guardSeq=1)
    cluster.settle()
    assert cluster.instances()["web-1"]["node"] == before["node"]
    assert sorted(cluster.instances()) == ["web-1", "web-2"]


@pytest.mark.parametrize("lost_first", [True, False])
def test_order_decides_when_a_node_is_lost_on_the_way_to_keep(cluster, lost_first):
    switch(cluster, "fence")
    cluster.report("web-1", guard="fence", guardSeq=1)
    cluster.settle()
    before = cluster.instances()["web-1"]
    if lost_first:
        cluster.lose(before["nodeName"])
        switch(cluster, "keep")
    else:
        switch(cluster, "keep")
        cluster.lose(before["nodeName"])
        cluster.settle()
    after = cluster.instances()["web-1"]
    moved = (after["node"] != before["node"], after["run"] - before["run"])
    assert moved == ((True, 1) if lost_first else (False, 0))
    assert guard_of(cluster) == ("keep", 2, False)


def test_a_stopped_one_that_was_switched_starts_again(cluster):
    switch(cluster, "fence")
    cluster.report("web-1", guard="fence", guardSeq=1)
    cluster.vm(replicas=1, onPartition="fence", running=False)
    cluster.settle()
    cluster.vm(replicas=1, onPartition="fence")
    cluster.settle()
    assert cluster.instances()["web-1"]["run"] == 3
    assert guard_of(cluster) == ("fence", 1, True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"guard": "fence", "guardSeq": 1, "fenced": True}, "has not said"),
        ({"fenced": True}, "keeps is not fenced"),
        ({"guardSeq": -1}, "cannot go back"),
    ],
)
def test_apply_refuses_whoever_asks(cluster, changes, why):
    found = cluster.store.get("Instance", "default", "web-1")
    put = Put(kind="Instance", namespace="default", name="web-1", spec={**found.spec, **changes})
    outcome = cluster.apply(put)
    assert outcome.code == "INVARIANT"
    assert why in outcome.message


# -- the node --


def told(outside):
    return [(status.guard, status.guard_seq) for status, _ in outside.reports]


def test_node_arms_then_reports_without_a_restart():
    async def scenario(outside):
        outside.assign(fenced=False, guard="keep")
        await become_ready(outside)
        outside.assign(fenced=False, guard="fence", guard_seq=1)
        await outside.steps(2)
        [process] = await outside.hypervisor.instances()
        assert (process.guard, process.guard_seq, process.guard_epoch) == ("fence", 1, 1)

    outside = play(scenario)
    assert told(outside)[-2:] == [("keep", 0), ("fence", 1)]
    assert outside.phases[-2:] == ["Running", "Running"]
    assert [call for call, _ in outside.hypervisor.calls].count("start_paused") == 1


def test_node_disarms_and_a_later_start_is_as_the_last_word_says():
    async def scenario(outside):
        await become_ready(outside)
        outside.assign(fenced=False, guard="keep", guard_seq=1)
        await outside.steps(2)
        outside.hypervisor.advance(2000)
        outside.hypervisor.crash("i")
        await outside.steps(3)
        [process] = await outside.hypervisor.instances()
        assert (process.guard, process.guard_seq, process.state) == ("keep", 1, "running")

    outside = play(scenario)
    assert "Failed" in outside.phases  # the crash; the lease's end did nothing
    assert ("keep", 1) in told(outside)


def test_refusal_of_the_guard_is_not_reported_as_done():
    async def scenario(outside):
        await become_ready(outside)
        await outside.hypervisor.arm("i", 10**13, epoch=1, seq=5)
        outside.assign(fenced=False, guard="keep", guard_seq=2)
        await outside.steps(2)

    outside = play(scenario)
    assert ("keep", 2) not in told(outside)
    assert outside.phases[-1] == "Running"
