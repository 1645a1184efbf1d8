import asyncio

import pytest
from msgspec.structs import replace
from raft_harness import FAST, Cluster, run, until

from blixard.base.errors import BlixardError


def test_acknowledged_writes_survive_a_power_cut_of_all() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            await asyncio.gather(*[leader.propose(b"%d" % i, timeout_s=5) for i in range(100)])
            for number in (1, 2, 3):
                cluster.kill(number)
            for number in (1, 2, 3):
                await cluster.run(number)
            leader = await cluster.leader()
            await leader.read_barrier(timeout_s=5)
            items = cluster.machines[cluster.number(leader)].items
            assert items == [b"%d" % i for i in range(100)]
            await cluster.settled()

    run(scenario)


def test_power_cuts_under_load_lose_nothing() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            acknowledged: list[bytes] = []

            async def client(name: int) -> None:
                for i in range(1000):
                    data = b"%d.%d" % (name, i)
                    leader = await cluster.leader()
                    try:
                        await leader.propose(data, timeout_s=1)
                    except BlixardError:
                        await asyncio.sleep(0.01)
                        continue
                    acknowledged.append(data)

            clients = [asyncio.create_task(client(n)) for n in range(8)]
            for torn in (None, 7, 40, 1000):
                await asyncio.sleep(0.15)
                victims = sorted(cluster.nodes)
                for number in victims:
                    cluster.kill(number, torn=torn)
                for number in victims:
                    await cluster.run(number)
                await cluster.leader()
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            leader = await cluster.leader()
            await leader.read_barrier(timeout_s=5)
            kept = set(cluster.machines[cluster.number(leader)].items)
            assert len(acknowledged) > 100
            assert [a for a in acknowledged if a not in kept] == []

    run(scenario)


def test_leader_death_elects_another_and_writes_go_on() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            old = await cluster.leader()
            await old.propose(b"a", timeout_s=2)
            cluster.kill(cluster.number(old))
            new = await cluster.leader()
            assert await new.propose(b"b", timeout_s=2)
            await cluster.run(1)
            await cluster.settled()
            assert cluster.machines[1].items == [b"a", b"b"]

    run(scenario)


def test_leader_without_quorum_steps_down_and_says_unknown() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.network.isolate("node1")
            with pytest.raises(BlixardError) as caught:
                await leader.propose(b"x", timeout_s=3)
            assert caught.value.code == "OUTCOME_UNKNOWN"
            await until(lambda: leader.role != "leader")
            new = await cluster.leader(among=[2, 3])
            assert await new.propose(b"y", timeout_s=2)
            cluster.network.heal()
            await cluster.settled()
            assert cluster.machines[1].items == [b"y"]

    run(scenario)


def test_reads_without_quorum_fail_by_their_deadline() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.network.isolate("node1")
            with pytest.raises(BlixardError) as caught:
                await leader.read_barrier(timeout_s=0.2)
            assert caught.value.code == "NO_QUORUM"

    run(scenario)


def test_follower_reads_see_what_was_acknowledged() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            for i in range(50):
                index, _ = await leader.propose(b"%d" % i, timeout_s=2)
                seen = await cluster.nodes[3].read_barrier(timeout_s=2)
                assert seen >= index
                assert cluster.machines[3].items[-1] == b"%d" % i

    run(scenario)


def test_reads_go_on_over_a_bad_network() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            cluster.network.loss, cluster.network.repeat = 0.1, 0.2
            cluster.network.delay_s = 0.004
            for i in range(20):
                leader = await cluster.leader()
                try:
                    index, _ = await leader.propose(b"%d" % i, timeout_s=3)
                except BlixardError:
                    continue
                seen = await cluster.nodes[1 + i % 3].read_barrier(timeout_s=3)
                assert seen >= index
            cluster.network.loss = 0.0
            await cluster.settled()

    run(scenario)


def test_corrupt_log_refuses_to_start_and_names_the_place() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.bootstrap()
            leader = await cluster.leader()
            for i in range(20):
                await leader.propose(b"%d" % i, timeout_s=2)
            cluster.kill(1)
            disk = cluster.disks[1]
            disk.names["raft/log/000000000001.log"].data[200] ^= 1
            with pytest.raises(BlixardError) as caught:
                await cluster.run(1)
            assert caught.value.code == "LOG_CORRUPT"
            assert caught.value.details["file"] == "raft/log/000000000001.log"
            assert 0 < caught.value.details["offset"] <= 200

    run(scenario)


def test_start_without_a_first_state_says_so() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            with pytest.raises(BlixardError) as caught:
                await cluster.run(1)
            assert caught.value.code == "NOT_FOUND"

    run(scenario)


def test_second_bootstrap_is_refused() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.bootstrap()
            with pytest.raises(BlixardError) as caught:
                await cluster.bootstrap()
            assert caught.value.code == "WRONG_CLUSTER"

    run(scenario)


def test_failed_sync_stops_the_process() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.disks[1].sync_error = True
            doomed = asyncio.create_task(leader.propose(b"x", timeout_s=0.3))
            await until(lambda: cluster.envs[1].fatal_reason)
            doomed.cancel()
            assert "sync" in cluster.envs[1].fatal_reason

    run(scenario)


def test_stalled_disk_gives_leadership_up() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.disks[1].stalled = True
            doomed = asyncio.create_task(leader.propose(b"x", timeout_s=5))
            await until(lambda: leader.role != "leader")
            new = await cluster.leader(among=[2, 3])
            assert await new.propose(b"y", timeout_s=2)
            assert leader.role != "leader"
            cluster.disks[1].stalled = False
            await asyncio.gather(doomed, return_exceptions=True)
            await cluster.settled()

    run(scenario)


def test_heartbeats_do_not_wait_for_a_sync() -> None:
    async def scenario() -> None:
        async with Cluster(replace(FAST, election_ticks=40)) as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            term = leader.term
            cluster.disks[1].stalled = True
            slow = asyncio.create_task(leader.propose(b"x", timeout_s=5))
            await asyncio.sleep(0.3)
            assert leader.role == "leader"
            assert cluster.nodes[2].term == term
            cluster.disks[1].stalled = False
            await slow

    run(scenario)


def test_full_disk_refuses_writes_and_recovers() -> None:
    config = replace(FAST, min_free_bytes=4096, reserve_bytes=512)

    async def scenario() -> None:
        async with Cluster(config) as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            await leader.propose(b"a", timeout_s=2)
            disk = cluster.disks[1]
            disk.capacity = disk.used() + 1000
            await until(lambda: leader.status().disk_full)
            with pytest.raises(BlixardError) as caught:
                await leader.propose(b"b", timeout_s=1)
            assert caught.value.code == "DISK_FULL"
            assert await leader.read_barrier(timeout_s=2)
            disk.capacity = 1 << 40
            await until(lambda: not leader.status().disk_full)
            leader = await cluster.leader()
            await leader.propose(b"c", timeout_s=2)
            assert not cluster.envs[1].fatal_reason
            await cluster.settled()

    run(scenario)


def test_disk_full_in_the_middle_of_a_write_keeps_the_log_whole() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            disk = cluster.disks[1]
            disk.capacity = disk.used() + 100
            for i in range(3):
                with pytest.raises(BlixardError):
                    await leader.propose(b"%d" % i * 200, timeout_s=0.3)
            assert not cluster.envs[1].fatal_reason
            disk.capacity = 1 << 40
            new = await cluster.leader()
            await new.propose(b"after", timeout_s=3)
            await cluster.settled()
            cluster.kill(1)
            await cluster.run(1)
            await cluster.settled()

    run(scenario)


def test_other_write_error_stops_the_process() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.disks[1].write_error = 5
            doomed = asyncio.create_task(leader.propose(b"x", timeout_s=0.3))
            await until(lambda: cluster.envs[1].fatal_reason)
            doomed.cancel()
            assert "could not be written" in cluster.envs[1].fatal_reason

    run(scenario)


def test_sleep_suspends_leadership_until_a_quorum_answers() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.envs[1].boot_offset_ns = 60 * 10**9
            cluster.network.isolate("node1")
            await until(lambda: leader.suspended)
            assert not leader.is_leader
            cluster.network.heal()
            await until(lambda: not leader.suspended)
            await cluster.leader()

    run(scenario)
