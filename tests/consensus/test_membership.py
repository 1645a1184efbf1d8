import asyncio

import pytest
from raft_harness import Cluster, member, run, until

from blixard.base.errors import BlixardError


def test_five_voters_by_joining_one_after_another() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(5)
            leader = await cluster.leader()
            await leader.propose(b"a", timeout_s=3)
            await cluster.settled()
            assert sorted(cluster.nodes[5].members) == [1, 2, 3, 4, 5]
            assert not any(m.learner for m in cluster.nodes[5].members.values())

    run(scenario)


def test_learner_follows_without_a_vote() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            learner = await cluster.join(4, voter=False)
            leader = await cluster.leader()
            await leader.propose(b"a", timeout_s=3)
            await cluster.settled()
            assert learner.role == "learner"
            assert learner.members[4].learner

    run(scenario)


def test_lagging_learner_is_not_promoted() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            await leader.add_learner(member(4), timeout_s=3)
            with pytest.raises(BlixardError) as caught:
                await leader.promote(4, timeout_s=0.3)
            assert caught.value.code == "NO_QUORUM"
            assert leader.members[4].learner

    run(scenario)


def test_used_ids_are_refused_for_ever() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            await cluster.join(4, voter=False)
            leader = await cluster.leader()
            for used in (member(4), member(2)):
                with pytest.raises(BlixardError) as caught:
                    await leader.add_learner(used, timeout_s=2)
                assert caught.value.code == "ALREADY_EXISTS"
            await leader.remove(4, timeout_s=3)
            with pytest.raises(BlixardError) as caught:
                await leader.add_learner(member(4), timeout_s=2)
            assert caught.value.code == "NODE_REMOVED"

    run(scenario)


def test_removed_follower_is_gone_and_does_not_disturb() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            term = leader.term
            await leader.remove(3, timeout_s=3)
            await asyncio.sleep(0.5)
            assert leader.is_leader
            assert leader.term == term
            assert sorted(leader.members) == [1, 2]
            await leader.propose(b"a", timeout_s=2)

    run(scenario)


def test_demoted_voter_goes_on_as_a_learner_and_may_vote_again() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            follower = cluster.nodes[3]
            await leader.demote(3, timeout_s=3)
            await leader.demote(3, timeout_s=3)
            assert leader.members[3].learner
            await leader.propose(b"a", timeout_s=3)
            await cluster.settled()
            assert follower.role == "learner"
            await leader.promote(3, timeout_s=5)
            await until(lambda: not follower.members[3].learner)
            with pytest.raises(BlixardError) as caught:
                await leader.demote(1, timeout_s=1)
            assert caught.value.code == "INVALID"

    run(scenario)


def test_leader_hands_over_before_its_own_removal() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            with pytest.raises(BlixardError) as caught:
                await leader.remove(1, timeout_s=3)
            assert caught.value.code == "NOT_LEADER"
            new = await cluster.leader(among=[2, 3])
            await new.remove(1, timeout_s=3)
            assert sorted(new.members) == [2, 3]
            await until(lambda: not leader.is_leader)
            await new.propose(b"a", timeout_s=2)

    run(scenario)


def test_last_voter_cannot_be_removed() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.bootstrap()
            leader = await cluster.leader()
            with pytest.raises(BlixardError) as caught:
                await leader.remove(1, timeout_s=1)
            assert caught.value.code == "INVARIANT"

    run(scenario)


def test_removal_that_leaves_no_live_majority_is_refused() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.kill(3)
            # The engine forgets who answered at each check of its quorum, for a moment of all.
            await until(lambda: [p.active for p in leader.status().peers] == [True, True, False])
            with pytest.raises(BlixardError) as caught:
                await leader.remove(2, timeout_s=2)
            assert caught.value.code == "INVARIANT"
            await leader.remove(3, timeout_s=3)

    run(scenario)


def test_transfer_moves_leadership_quickly() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            await leader.transfer_leader(2, timeout_s=3)
            await until(lambda: cluster.nodes[2].is_leader)
            assert await cluster.nodes[2].propose(b"a", timeout_s=2)
            await cluster.settled()

    run(scenario)


def test_transfer_to_a_dead_node_times_out_and_leader_stays() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            leader = await cluster.leader()
            cluster.kill(3)
            with pytest.raises(BlixardError):
                await leader.transfer_leader(3, timeout_s=0.3)
            assert await leader.propose(b"a", timeout_s=3)

    run(scenario)


def test_transfer_to_a_learner_is_refused() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(2)
            await cluster.join(3, voter=False)
            leader = await cluster.leader()
            with pytest.raises(BlixardError) as caught:
                await leader.transfer_leader(3, timeout_s=1)
            assert caught.value.code == "INVALID"

    run(scenario)


def test_membership_survives_a_restart_of_all() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(3)
            await cluster.join(4, voter=False)
            for number in (1, 2, 3, 4):
                cluster.kill(number)
            for number in (1, 2, 3, 4):
                await cluster.run(number)
            await cluster.leader()
            await cluster.settled()
            for node in cluster.nodes.values():
                assert [m.learner for m in node.members.values()] == [False, False, False, True]

    run(scenario)


def test_stranger_of_another_cluster_is_refused() -> None:
    async def scenario() -> None:
        async with Cluster() as cluster:
            await cluster.start(2)
            leader = await cluster.leader()
            end = cluster.network.ends["node1"]
            from blixard.consensus.wire import Hello, encode_hello

            greeting = encode_hello(Hello("other", 2, "host2:1"))
            before = leader.status().refused_messages
            end.messages["raft"]("node9", greeting + b"junk")
            end.messages["raft"]("node8", b"\x01\xff\xffjunk")
            await asyncio.sleep(0.05)
            assert leader.is_leader
            assert leader.status().refused_messages == before
            refused = [e for _, e, _ in cluster.envs[1].logs if e.endswith("refused")]
            assert refused == ["raft_peer_refused", "raft_peer_refused"]

    run(scenario)
