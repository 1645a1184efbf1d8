"""Placement: what fits, what spreads, and the reasons in words."""

from hypothesis import given
from hypothesis import strategies as st

from blixard.placement.choice import NodeRoom, PlacementRequest, choose, refusal


def room(name, **changes):
    facts = {
        "uid": name,
        "name": name,
        "ready": True,
        "schedulable": True,
        "free_vcpus": 8.0,
        "free_memory_mib": 4096,
        "total_memory_mib": 8192,
        "free_slots": 10,
    }
    return NodeRoom(**{**facts, **changes})


SMALL = PlacementRequest(vcpus=1, memory_mib=256)


def test_spreads_over_nodes_before_filling_one():
    chosen = choose(SMALL, [room("a", same_group=1), room("b", free_memory_mib=1024)])
    assert chosen.node.name == "b"


def test_prefers_the_emptier_of_equals():
    chosen = choose(SMALL, [room("a", free_memory_mib=1024), room("b")])
    assert chosen.node.name == "b"


def test_each_reason_is_named():
    reasons = {
        "not ready": room("a", ready=False),
        "not schedulable": room("a", schedulable=False),
        "its limit of VMs is reached": room("a", free_slots=0),
        "100 MiB memory free, 256 needed": room("a", free_memory_mib=100),
        "0.5 vCPUs free, 1 needed": room("a", free_vcpus=0.5),
    }
    for reason, candidate in reasons.items():
        assert refusal(SMALL, candidate) == reason


def test_nowhere_counts_the_reasons():
    rooms = [room("a", ready=False), room("b", ready=False), room("c", free_slots=0)]
    assert choose(SMALL, rooms).why == (
        "fits nowhere: 1 node: its limit of VMs is reached; 2 nodes: not ready"
    )


def test_a_label_must_match_exactly():
    wanted = PlacementRequest(vcpus=1, memory_mib=1, node_selector={"storage": "fast"})
    assert choose(wanted, [room("a"), room("b", labels={"storage": "fast"})]).node.name == "b"


def test_members_of_a_group_never_meet():
    wanted = PlacementRequest(vcpus=1, memory_mib=1, anti_affinity_group="g")
    assert choose(wanted, [room("a", groups=("g",))]).node is None


@given(st.lists(st.integers(0, 8192), max_size=6), st.integers(1, 4096))
def test_never_chooses_a_node_without_room(free, memory):
    rooms = [room(f"n{i}", free_memory_mib=mib) for i, mib in enumerate(free)]
    chosen = choose(PlacementRequest(vcpus=1, memory_mib=memory), rooms)
    fits = [r for r in rooms if r.free_memory_mib >= memory]
    assert (chosen.node in fits) if fits else chosen.node is None
