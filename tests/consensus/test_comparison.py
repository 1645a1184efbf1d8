"""States are compared: the one that differs from a majority serves and leads no longer."""

import asyncio

import pytest
from msgspec.structs import replace
from raft_harness import FAST, Cluster, run, until

from blixard.base.errors import BlixardError
from blixard.consensus.comparison import RecentStates, judge

QUICK = replace(FAST, compare_s=0.05)


@pytest.mark.parametrize(
    ("hashes", "voters", "kind", "differing"),
    [
        ({1: b"a", 2: b"a", 3: b"a"}, [1, 2, 3], "agree", ()),
        ({1: b"a", 2: b"b", 3: b"b"}, [1, 2, 3], "minority", (2, 3)),
        ({1: b"a", 2: b"b", 3: b"a"}, [1, 2, 3], "agree", (2,)),
        ({1: b"a", 2: b"b"}, [1, 2, 3], "undecided", (2,)),
        ({1: b"a", 2: b"b", 3: b"c"}, [1, 2, 3], "undecided", (2, 3)),
        ({1: b"a", 2: b"b"}, [1, 2], "undecided", (2,)),
        ({1: b"a", 2: b"b"}, [2], "undecided", (2,)),  # one voter alone is no majority
        ({4: b"a", 1: b"b", 2: b"b"}, [1, 2, 3], "minority", (1, 2)),  # a learner judges itself
        ({1: b"a", 2: b"a", 4: b"b", 5: b"b"}, [1, 2, 3], "agree", (4, 5)),
        ({1: b"a", 2: b"b", 3: b"b"}, [1, 2, 3, 4, 5], "undecided", (2, 3)),
    ],
)
def test_majority_judges_the_state(hashes, voters, kind, differing) -> None:
    own = min(hashes) if 4 not in hashes or 5 in hashes else 4
    verdict = judge(own, hashes, voters)
    assert (verdict.kind, verdict.differing) == (kind, differing)


def test_recent_states_forget_the_oldest() -> None:
    states = RecentStates()
    assert states.at(0) == b""
    states.restart(7, b"s")
    for index in range(8, 5_000):
        states.add(index, b"%d" % index)
    assert states.at(4_999) == b"4999"
    assert states.at(4_000) == b"4000"
    assert states.at(7) == states.at(5_000) == b""


async def diverge(cluster: Cluster, number: int) -> None:
    """Apply something on one node alone, and give the others something to compare."""
    cluster.machines[number].apply(0, 0, b"only here")
    leader = await cluster.leader()
    await leader.propose(b"x", timeout_s=2)


def test_diverged_follower_is_quarantined_for_good() -> None:
    async def scenario() -> None:
        async with Cluster(QUICK) as cluster:
            await cluster.start(3)
            await diverge(cluster, 3)
            await until(lambda: cluster.nodes[3].in_quarantine)
            assert not cluster.nodes[1].in_quarantine
            assert not cluster.nodes[2].in_quarantine
            await asyncio.sleep(0.1)  # the verdict is stored
            cluster.kill(3)
            node = await cluster.run(3)  # replay may heal the state: nobody can know
            assert node.in_quarantine
            assert "majority" in node.status().quarantine
            with pytest.raises(BlixardError) as caught:
                await node.read_barrier(timeout_s=1)
            assert caught.value.code == "QUARANTINED"
            await until(lambda: any(h.quarantined for h in cluster.nodes[2].status().health))

    run(scenario)


def test_quarantined_node_votes_and_never_leads() -> None:
    async def scenario() -> None:
        async with Cluster(QUICK) as cluster:
            await cluster.start(3)
            await diverge(cluster, 3)
            await until(lambda: cluster.nodes[3].in_quarantine)
            for number in (1, 2):
                cluster.kill(number)
            await asyncio.sleep(60 * FAST.tick_s)
            assert cluster.nodes[3].role == "follower"
            await cluster.run(2)
            leader = await cluster.leader(among=[2])
            assert await leader.propose(b"y", timeout_s=2)

    run(scenario)


def test_diverged_leader_gives_leadership_up() -> None:
    async def scenario() -> None:
        async with Cluster(QUICK) as cluster:
            await cluster.start(3)
            await diverge(cluster, 1)
            await until(lambda: cluster.nodes[1].in_quarantine)
            leader = await cluster.leader(among=[2, 3])
            assert await leader.propose(b"y", timeout_s=2)
            assert cluster.nodes[1].role != "leader"

    run(scenario)


def test_two_who_differ_are_shown_and_serve_on() -> None:
    async def scenario() -> None:
        async with Cluster(QUICK) as cluster:
            await cluster.start(3)
            cluster.kill(3)
            await diverge(cluster, 2)

            def seen(number: int) -> bool:
                return any(h.state == "differs" for h in cluster.nodes[number].status().health)

            await until(lambda: seen(1) and seen(2))
            assert not cluster.nodes[1].in_quarantine
            assert not cluster.nodes[2].in_quarantine
            await cluster.run(3)  # the third one decides
            await until(lambda: cluster.nodes[2].in_quarantine)
            assert not cluster.nodes[1].in_quarantine

    run(scenario)


def test_leader_without_room_hands_leadership_on() -> None:
    config = replace(QUICK, min_free_bytes=4096, reserve_bytes=512)

    async def scenario() -> None:
        async with Cluster(config) as cluster:
            await cluster.start(3)
            disk = cluster.disks[1]
            disk.capacity = disk.used() + 1000
            leader = await cluster.leader(among=[2, 3])
            assert await leader.propose(b"a", timeout_s=2)
            assert cluster.nodes[1].status().disk_full

    run(scenario)


def test_somebody_leads_when_no_disk_has_room() -> None:
    config = replace(QUICK, min_free_bytes=4096, reserve_bytes=512)

    async def scenario() -> None:
        async with Cluster(config) as cluster:
            await cluster.start(3)
            for disk in cluster.disks.values():
                disk.capacity = disk.used() + 2000
            await until(lambda: all(n.status().disk_full for n in cluster.nodes.values()))
            leader = await cluster.leader()
            assert await leader.read_barrier(timeout_s=2)

    run(scenario)
