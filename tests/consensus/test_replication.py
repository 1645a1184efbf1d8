import asyncio

import pytest
from raft_harness import Cluster, run

from blixard.base.errors import BlixardError


def test_single_node_leads_and_applies() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            node = await cluster.bootstrap()
            leader = await cluster.leader()
            assert await leader.propose(b"a", timeout_s=2) == (3, 1)
            assert await node.read_barrier(timeout_s=2) == 3

    run(scenario)


def test_three_nodes_apply_the_same() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            results = await asyncio.gather(
                *[leader.propose(b"%d" % i, timeout_s=5) for i in range(200)]
            )
            assert [count for _, count in results] == list(range(1, 201))
            await cluster.settled()

    run(scenario)


def test_follower_refuses_and_names_the_leader() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            follower = cluster.nodes[cluster.followers()[0]]
            with pytest.raises(BlixardError) as caught:
                await follower.propose(b"x", timeout_s=1)
            assert caught.value.code == "NOT_LEADER"
            assert caught.value.details["leader"] == "node1"

    run(scenario)
