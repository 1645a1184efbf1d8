"""A group that lost its majority goes on as a group of one, with all that the longest log holds."""

import asyncio

import pytest
from raft_harness import FAST, Cluster, ListMachine, run

from blixard.base.errors import BlixardError
from blixard.consensus.config import RaftConfig
from blixard.consensus.offline import read_log, replay, start_over


async def recovered(cluster: Cluster, number: int):
    """Read, replay and start over; returns what was found and the machine."""
    env = cluster.env(number)
    found = await read_log(env, "raft", FAST)
    machine = ListMachine()
    replay(found, machine)
    payload = machine.encode(machine.freeze())
    kept = await start_over(env, "raft", found, cluster_id="new", payload=payload)
    return found, machine, kept


@pytest.mark.parametrize("snapshot_entries", [1_000_000, 10])
def test_one_of_three_goes_on_with_every_write(snapshot_entries) -> None:
    config = RaftConfig(
        tick_s=0.01, min_free_bytes=0, reserve_bytes=0, snapshot_entries=snapshot_entries,
        trailing_entries=5,
    )  # fmt: skip

    async def scenario() -> None:
        async with Cluster(config) as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            for i in range(40):
                await leader.propose(b"%d" % i, timeout_s=5)
            await cluster.settled()
            for number in (1, 2, 3):
                cluster.kill(number)
            found, _, kept = await recovered(cluster, 2)
            assert [m.raft_id for m in found.members] == [1, 2, 3]
            node = await cluster.run(2)
            leader = await cluster.leader(among=[2])
            assert leader is node
            assert cluster.machines[2].items == [b"%d" % i for i in range(40)]
            await node.propose(b"after", timeout_s=5)
            assert cluster.machines[2].items[-1] == b"after"
            assert cluster.disks[2].exists(f"{kept}/identity")
            old = await cluster.run(1)  # an old member comes back by accident
            await asyncio.sleep(0.5)
            assert old.role in ("follower", "pre-candidate")
            assert list(node.members) == [2]
            assert node.is_leader

    run(scenario)


def test_entry_that_no_majority_has_is_kept() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            await leader.propose(b"a", timeout_s=5)
            await cluster.settled()
            for number in (2, 3):
                cluster.kill(number)
            lost = asyncio.create_task(leader.propose(b"alone", timeout_s=0.3))
            await asyncio.gather(lost, return_exceptions=True)
            cluster.kill(1)
            found, machine, _ = await recovered(cluster, 1)
            assert found.uncommitted >= 1
            assert machine.items == [b"a", b"alone"]
            behind = await read_log(cluster.env(2), "raft", FAST)
            assert behind.position < found.position

    run(scenario)


def test_quarantined_state_is_not_gone_on_with() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.bootstrap()
            cluster.kill(1, power=False)
            cluster.disks[1].open("raft/quarantine", create=True)
            with pytest.raises(BlixardError) as caught:
                await read_log(cluster.env(1), "raft", FAST)
            assert caught.value.code == "QUARANTINED"

    run(scenario)
