import pytest
from msgspec.structs import replace
from raft_harness import FAST, Cluster, run, until

from blixard.base.errors import BlixardError

SMALL = replace(FAST, snapshot_entries=20, trailing_entries=5, segment_bytes=2048)


async def write(cluster: Cluster, count: int, name: bytes = b"w") -> None:
    for i in range(count):
        leader = await cluster.leader()
        await leader.propose(b"%s%d" % (name, i), timeout_s=5)


def test_snapshots_keep_log_and_directory_bounded() -> None:
    async def scenario() -> None:
        async with Cluster(SMALL) as cluster:
            await cluster.bootstrap()
            await write(cluster, 300)
            await until(lambda: not cluster.nodes[1]._compactor.busy)
            status = cluster.nodes[1].status()
            assert status.snapshot_index > 250
            assert status.log_segments <= 4
            assert len(cluster.disks[1].listdir("raft/snap")) == 2

    run(scenario)


def test_restart_continues_from_snapshot_and_log() -> None:
    async def scenario() -> None:
        async with Cluster(SMALL) as cluster:
            await cluster.bootstrap()
            await write(cluster, 95)
            before = list(cluster.machines[1].items)
            for torn in (None, 11):
                cluster.kill(1, torn=torn)
                node = await cluster.run(1)
                await node.read_barrier(timeout_s=3)
                assert cluster.machines[1].items == before

    run(scenario)


def test_node_left_behind_gets_a_snapshot() -> None:
    async def scenario() -> None:
        async with Cluster(SMALL) as cluster:
            await cluster.start(3)
            cluster.kill(3)
            await write(cluster, 120)
            await cluster.run(3)
            await cluster.settled()
            assert cluster.nodes[3].status().snapshot_index > 20
            await write(cluster, 10, b"x")
            await cluster.settled()
            cluster.kill(3)
            await cluster.run(3)
            await cluster.settled()

    run(scenario)


def test_snapshot_travels_in_many_chunks_over_a_bad_network() -> None:
    config = replace(SMALL, snapshot_chunk_bytes=64)

    async def scenario() -> None:
        async with Cluster(config) as cluster:
            await cluster.start(3)
            cluster.kill(3)
            await write(cluster, 120)
            cluster.network.loss, cluster.network.repeat = 0.05, 0.1
            await cluster.run(3)
            await cluster.settled()

    run(scenario)


def test_crash_between_snapshot_and_log_is_mended_at_start() -> None:
    async def scenario() -> None:
        async with Cluster(replace(SMALL, segment_bytes=1 << 20, trailing_entries=60)) as cluster:
            await cluster.start(3)
            await write(cluster, 15)
            await cluster.settled()
            cluster.kill(3)
            await write(cluster, 120)
            node = await cluster.run(3)
            installed: list[bytes] = []
            node._receiver._install = installed.append
            await until(lambda: installed)
            cluster.kill(3)
            for _ in range(2):
                await cluster.run(3)
                await write(cluster, 8, b"x")
                await cluster.settled()
                cluster.kill(3)
            await cluster.run(3)
            await cluster.settled()

    run(scenario)


def test_damaged_newest_snapshot_falls_back_to_the_older() -> None:
    async def scenario() -> None:
        async with Cluster(SMALL) as cluster:
            await cluster.bootstrap()
            await write(cluster, 95)
            await until(lambda: not cluster.nodes[1]._compactor.busy)
            before = list(cluster.machines[1].items)
            cluster.kill(1)
            disk = cluster.disks[1]
            newest = disk.listdir("raft/snap")[-1]
            disk.names[f"raft/snap/{newest}"].data[60] ^= 4
            node = await cluster.run(1)
            await node.read_barrier(timeout_s=3)
            assert cluster.machines[1].items == before
            assert any(event == "snapshot_damaged" for _, event, _ in cluster.envs[1].logs)

    run(scenario)


def test_no_snapshot_left_refuses_to_start() -> None:
    async def scenario() -> None:
        async with Cluster(SMALL) as cluster:
            await cluster.bootstrap()
            await write(cluster, 95)
            await until(lambda: not cluster.nodes[1]._compactor.busy)
            cluster.kill(1)
            disk = cluster.disks[1]
            for name in disk.listdir("raft/snap"):
                disk.names[f"raft/snap/{name}"].data[60] ^= 4
            with pytest.raises(BlixardError) as caught:
                await cluster.run(1)
            assert caught.value.code == "LOG_CORRUPT"
            assert "raft/snap/" in str(caught.value)

    run(scenario)


def test_full_disk_at_a_snapshot_is_tried_again() -> None:
    async def scenario() -> None:
        async with Cluster(SMALL) as cluster:
            await cluster.bootstrap()
            node = cluster.nodes[1]
            disk = cluster.disks[1]
            real = node._machine.encode
            node._machine.encode = lambda handle: bytes(1 << 20)
            disk.capacity = disk.used() + 100_000
            with pytest.raises(BlixardError) as caught:
                await write(cluster, 60)
            assert caught.value.code == "DISK_FULL"
            node._machine.encode = real
            disk.capacity = 1 << 40
            assert not cluster.envs[1].fatal_reason
            node._compactor._not_before = 0.0
            await until(lambda: not node.status().disk_full)
            await write(cluster, 30)
            await until(lambda: node.status().snapshot_index > 1)

    run(scenario)
