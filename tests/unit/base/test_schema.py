"""All problems of a document at once."""

from blixard.base.schema import collect_problems, json_schema
from blixard.cluster.kinds import ClusterConfigSpec, NodeSpec


def test_every_problem_is_named_at_once():
    document = {"raftId": 0, "capacity": {"vcpus": "two", "memoryMiB": 5}, "labels": {"a/b": 1}}
    found = {problem.pointer for problem in collect_problems(NodeSpec, document)}
    assert found == {"", "/raftId", "/capacity/vcpus", "/capacity/memoryMiB", "/labels/a~1b"}


def test_misspelt_field_gets_a_suggestion():
    (problem,) = collect_problems(NodeSpec, {"address": "a:1", "raftId": 1, "schedulabel": True})
    assert problem.message == "unknown field; did you mean schedulable?"
    assert "schedulable" in problem.accepted


def test_accepted_values_are_listed():
    (problem,) = collect_problems(ClusterConfigSpec, {"clusterId": "c", "votersMax": 4})
    assert problem.pointer == "/votersMax"
    assert problem.accepted == ("1", "3", "5", "7")


def test_schema_refers_to_shared_components():
    schemas, components = json_schema([NodeSpec])
    assert schemas == [{"$ref": "#/components/schemas/NodeSpec"}]
    assert components["NodeSpec"]["additionalProperties"] is False
    assert "Capacity" in components
