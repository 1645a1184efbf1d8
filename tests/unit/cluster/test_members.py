"""Who votes: growth through learners, odd numbers, replacement and removal."""

from blixard.cluster.members import MemberFact, NodeFact, next_step, voters_wanted


def nodes(*ids, **facts):
    return [NodeFact(uid=f"n{i}", raft_id=i, ready=True, **facts) for i in ids]


def voters(*ids):
    return [MemberFact(raft_id=i, learner=False) for i in ids]


def learner(raft_id, *, caught_up=True):
    return MemberFact(raft_id=raft_id, learner=True, caught_up=caught_up)


def step(node_facts, member_facts, own=1, most=5):
    found = next_step(node_facts, member_facts, own_raft_id=own, voters_max=most)
    return (found.kind, found.raft_id) if found else None


def test_the_number_of_voters_is_odd():
    assert [voters_wanted(n, 5) for n in range(1, 9)] == [1, 1, 3, 3, 5, 5, 5, 5]


def test_two_nodes_keep_one_voter():
    assert step(nodes(1, 2), voters(1)) is None


def test_three_nodes_gather_learners_before_promoting():
    assert step(nodes(1, 2, 3), voters(1)) == ("add_learner", 2)
    assert step(nodes(1, 2, 3), [*voters(1), learner(2)]) == ("add_learner", 3)
    assert step(nodes(1, 2, 3), [*voters(1), learner(2), learner(3)]) == ("promote", 2)
    assert step(nodes(1, 2, 3), [*voters(1, 2), learner(3)]) == ("promote", 3)
    assert step(nodes(1, 2, 3), voters(1, 2, 3)) is None


def test_a_learner_that_lags_is_not_promoted():
    members = [*voters(1), learner(2, caught_up=False), learner(3)]
    assert step(nodes(1, 2, 3), members) is None


def test_voters_stop_at_the_maximum():
    assert step(nodes(1, 2, 3, 4, 5, 6, 7), voters(1, 2, 3, 4, 5)) is None


def test_a_member_without_a_node_leaves_first():
    assert step(nodes(1, 2), voters(1, 2, 3)) == ("remove", 3)


def test_a_leader_on_its_way_out_hands_over():
    facts = [NodeFact(uid="n1", raft_id=1, ready=True, removing=True), *nodes(2, 3)]
    assert step(facts, voters(1, 2, 3)) == ("transfer", 2)


LOST = NodeFact(uid="n3", raft_id=3, ready=False, lost_for_s=1000)


def test_a_voter_lost_for_long_makes_room_for_a_spare_and_stays_a_learner():
    assert step([*nodes(1, 2, 4), LOST], voters(1, 2, 3)) == ("demote", 3)
    assert step([*nodes(1, 2), LOST], voters(1, 2, 3)) is None
    members = [*voters(1, 2), learner(3, caught_up=False)]
    assert step([*nodes(1, 2, 4), LOST], members) == ("add_learner", 4)
    assert step([*nodes(1, 2, 4), LOST], [*members, learner(4)]) == ("promote", 4)
    assert step([*nodes(1, 2, 4), LOST], [*voters(1, 2, 4), members[2]]) is None


def test_a_learner_that_came_back_takes_the_vote_of_one_that_is_lost():
    back = [*voters(1, 2, 3), learner(4)]
    assert step([*nodes(1, 2, 4), LOST], back) == ("demote", 3)
    assert step([*nodes(1, 2, 4), LOST], [*voters(1, 2), *map(learner, (3, 4))]) == ("promote", 4)


def test_a_spare_that_refuses_is_asked_again_after_the_others():
    facts = [*nodes(1), *nodes(2, refusals=1), *nodes(3, 4)]
    assert step(facts, voters(1)) == ("add_learner", 3)
    assert step(facts, [*voters(1), learner(3)]) == ("add_learner", 4)
    assert step([*nodes(1), *nodes(2, 3, 4, refusals=1)], voters(1)) == ("add_learner", 2)


def test_a_learner_that_lags_for_long_keeps_no_other_one_waiting():
    lags = MemberFact(raft_id=3, learner=True, caught_up=False, lags_for_s=61)
    assert step(nodes(1, 2, 3, 4), [*voters(1, 2), learner(3, caught_up=False)]) is None
    assert step(nodes(1, 2, 3, 4), [*voters(1, 2), lags]) == ("add_learner", 4)
    assert step(nodes(1, 2, 3, 4), [*voters(1, 2), lags, learner(4)]) == ("promote", 4)
    assert step(nodes(1, 2, 3), [*voters(1, 2), lags]) is None


def test_a_vote_is_taken_only_for_one_that_can_have_it():
    members = [*voters(1, 2, 3), learner(4, caught_up=False)]
    assert step([*nodes(1, 2, 4), LOST], members) is None
    assert step([*nodes(1, 2, 4, 5), LOST], members) == ("demote", 3)
