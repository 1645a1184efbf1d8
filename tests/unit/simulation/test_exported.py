"""An exported cluster is read whole, or refused with one clear error."""

import json
import pathlib

import pytest

from blixard.base.errors import BlixardError
from blixard.simulation.exported import NODES_MAX, read_exported

EXAMPLE = (pathlib.Path(__file__).parents[3] / "examples" / "cluster.json").read_text()


def node(number, **more):
    spec = {"address": f"192.0.2.{number}:7000", "raftId": number, "capacity": {"vcpus": 2}}
    metadata = {"name": f"node-{number}", "uid": f"uid-{number}"}
    return {"kind": "Node", "metadata": metadata, "spec": spec,
            "status": {"state": "Ready"}, **more}  # fmt: skip


VM = {"kind": "VM", "metadata": {"name": "web", "namespace": "default", "uid": "vm"}}
INSTANCE = {
    "kind": "Instance",
    "metadata": {"name": "web-1", "namespace": "default", "uid": "i", "owner": "vm"},
    "spec": {"vm": "web", "ordinal": 1, "node": "uid-1"},
}


def listed(*items):
    return json.dumps({"kind": "List", "items": items})


def test_the_example_is_read():
    exported = read_exported(EXAMPLE)
    assert [n.name for n in exported.nodes] == ["node-a", "node-b", "node-c", "node-d"]
    assert [n.voter for n in exported.nodes] == [True, True, True, False]
    assert (exported.leader, exported.voters_known) == ("node-b", True)
    assert (len(exported.vms), len(exported.instances)) == (4, 6)


def test_voters_come_first_whatever_their_raft_id():
    status = json.dumps({"clusterId": "c", "voters": ["node-2", "node-4", "node-5"]})
    exported = read_exported(listed(*(node(n) for n in range(1, 6))) + status)
    assert [n.name for n in exported.nodes[:3]] == ["node-2", "node-4", "node-5"]


def test_without_a_status_the_voters_are_those_that_a_leader_would_choose():
    lost = node(1, status={"state": "Lost"})
    exported = read_exported(listed(lost, *(node(n) for n in range(2, 6))))
    assert [n.name for n in exported.nodes if n.voter] == ["node-2", "node-3", "node-4"]
    assert not exported.voters_known


def test_a_node_on_its_way_out_takes_nothing():
    going = node(1, status={"state": "Ready", "removing": True})
    assert not read_exported(listed(going)).nodes[0].spec.schedulable


def test_single_objects_and_other_kinds_are_no_hindrance():
    text = "\n".join(
        json.dumps(v) for v in (node(1), {"kind": "Secret", "metadata": {"name": "x"}})
    )
    assert len(read_exported(text).nodes) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no node"),
        ("NAME STATE\nnode-a Ready\n", "no JSON"),
        ('{"items": 1}', "neither an object nor a list"),
        ("[1]", "neither an object nor a list"),
        (listed({"kind": "Node"}), "no object of a cluster"),
        (listed(node(1, spec={"address": "a:1"})), "Node node-1: .*raftId"),
        (listed(node(1), node(1)), "Node node-1 is there 2 times"),
        (listed(*(node(n) for n in range(1, NODES_MAX + 2))), "101 nodes; at most 100"),
        (listed(node(1), INSTANCE), "the VM of the instance web-1 is not in it"),
        (listed(node(2), VM, INSTANCE), "the node uid-1 of the instance web-1 is not in it"),
        (listed(node(1)) + '{"clusterId": "c", "voters": ["node-9"]}', "node-9 votes and is no"),
    ],
)
def test_a_bad_file_is_one_clear_error(text, said):
    with pytest.raises(BlixardError, match=said) as caught:
        read_exported(text)
    assert caught.value.code == "INVALID"
    assert "blixard get nodes,vms,instances" in caught.value.hint


def test_an_unknown_node_is_named_with_those_that_are_there():
    with pytest.raises(BlixardError, match="no node 'node-x'") as caught:
        read_exported(EXAMPLE).node("node-x")
    assert "node-a, node-b" in caught.value.hint
