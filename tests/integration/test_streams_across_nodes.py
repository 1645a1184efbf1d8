"""Exec and logs of instances on another node than the one that is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from control_plane import NodeUnderTest, control_plane

from blixard.ports.guests import GuestRecipe, GuestService

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.guest, pytest.mark.timeout(900)]

IDLE = GuestRecipe(services=(GuestService(name="idle", command=("sleep", "infinity")),))
INSTANCES = ("idle-1", "idle-2")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    with control_plane(tmp_path_factory.mktemp("streams"), 2) as plane:
        plane.build(IDLE)
        node = plane.nodes[0]
        made = node.cli(
            "vm", "create", "idle", "--service", "idle=sleep infinity", "--replicas", "2",
            "--timeout", "8m", timeout_s=500,
        )  # fmt: skip
        assert made.code == 0, made.err
        yield node
        node.cli("vm", "delete", "idle", "--yes")


def test_instances_are_on_both_nodes(asked: NodeUnderTest) -> None:
    found = {i["spec"]["nodeName"] for i in asked.json("get", "instances")["items"]}
    assert found == {"node1", "node2"}


@pytest.mark.parametrize("name", INSTANCES)
def test_output_and_exit_code_arrive(asked: NodeUnderTest, name: str) -> None:
    ran = asked.cli("vm", "exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert ran == (3, "out\n", "err\n")


@pytest.mark.parametrize("name", INSTANCES)
def test_end_of_input_ends_the_command(asked: NodeUnderTest, name: str) -> None:
    ran = asked.cli("vm", "exec", "--stdin", name, "--", "cat", stdin="hello\n")
    assert ran == (0, "hello\n", "")


@pytest.mark.parametrize("name", INSTANCES)
def test_node_without_the_state_passes_the_end_on(asked: NodeUnderTest, name: str) -> None:
    """With its own root's word, a worker reaches the instance that it runs and no other."""
    worker = asked.plane.nodes[1]
    assert not worker.json("cluster", "status")["nodes"][1]["status"].get("voter")
    places = {
        i["metadata"]["name"]: i["spec"]["nodeName"]
        for i in asked.json("get", "instances")["items"]
    }
    ran = worker.cli("vm", "exec", "--stdin", name, "--", "cat", stdin="hello\n", timeout_s=30)
    if places[name] == worker.name:
        assert ran == (0, "hello\n", "")
    else:
        assert ran.code == 4
        assert "error[FORBIDDEN]" in ran.err


@pytest.mark.parametrize("name", INSTANCES)
def test_logs_arrive(asked: NodeUnderTest, name: str) -> None:
    ran = asked.cli("vm", "logs", name, "--tail", "5")
    assert ran.code == 0
    assert ran.out
