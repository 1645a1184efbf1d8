from unittest.mock import patch

import msgspec

from blixard.cluster.resources import Metadata, Resource
from blixard.cluster.store import Maps, Store
from blixard.functions.shares import duties_of, share


def node(number, *, memory_mib=1024, **status):
    return Resource(
        kind="Node",
        metadata=Metadata(name=f"n{number}", uid=f"n{number}"),
        spec={"capacity": {"functionMemoryMib": memory_mib}},
        status={"state": "Ready", **status},
    )


def function(uid="f1", **spec):
    return Resource(
        kind="Function",
        metadata=Metadata(name=uid, uid=uid, namespace="default", generation=1),
        spec={"source": "x", **spec},
    )


def store(*resources):
    draft = Store(Maps()).draft(1)
    for resource in resources:
        draft.put(resource)
    return draft.finish()


def shares_of(found):
    return {uid: duties.functions[0].instances_max for uid, duties in found.items()}


def test_shares_add_up_to_the_limit():
    for total in (1, 2, 7, 100):
        for nodes in (1, 3, 8):
            assert sum(share(total, nodes, place) for place in range(nodes)) == total


def test_limit_is_dealt_out_to_all_nodes():
    found = duties_of(store(node(1), node(2), node(3), function(maxInstances=10)))
    assert sum(shares_of(found).values()) == 10
    assert sorted(shares_of(found).values()) == [3, 3, 4]


def test_small_limit_leaves_nodes_without():
    found = duties_of(store(node(1), node(2), node(3), function(maxInstances=1)))
    assert list(shares_of(found).values()) == [1]


def test_concurrency_limits_instances_too():
    found = duties_of(store(node(1), function(maxInstances=10, maxConcurrent=4)))
    assert shares_of(found) == {"n1": 4}


def test_warm_instances_are_dealt_out():
    found = duties_of(store(node(1), node(2), function(minWarm=3)))
    assert sum(duties.functions[0].min_warm for duties in found.values()) == 3


def test_only_nodes_with_memory_for_it_serve():
    lost = node(3, state="Lost")
    found = duties_of(store(node(1, memory_mib=0), node(2, memory_mib=64), lost, function()))
    assert found == {}
    assert list(duties_of(store(node(1), lost, function()))) == ["n1"]


def test_source_does_not_travel_with_the_duty():
    found = duties_of(store(node(1), function(source="secret text")))
    assert b"secret text" not in msgspec.msgpack.encode(found["n1"])


def test_cluster_without_functions_costs_nothing():
    with patch.object(Store, "list", side_effect=AssertionError):
        assert duties_of(store(node(1))) == {}
