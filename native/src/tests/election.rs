//! Who leads, for how long, and who never does.

use raft::eraftpb::MessageType;
use raft::StateRole;

use super::harness::{message, settings, Net};
use crate::core::election::election_timeout;

#[test]
fn election_timeout_is_pinned_after_every_call() {
    let mut net = Net::new(3);
    let mut last = 0;
    for _ in 0..200 {
        net.nodes[0].tick();
        let core = &net.nodes[0];
        let pinned = election_timeout(&core.settings, core.raw.raft.term, core.draws);
        assert_eq!(core.raw.raft.randomized_election_timeout(), pinned);
        last = core.draws;
    }
    assert!(last > 5, "every campaign draws anew");
    let mut net = Net::new(3);
    net.elect(2);
    for core in &net.nodes {
        let pinned = election_timeout(&core.settings, core.raw.raft.term, core.draws);
        assert_eq!(core.raw.raft.randomized_election_timeout(), pinned);
    }
}

#[test]
fn two_candidates_of_one_term_do_not_draw_alike_for_ever() {
    let (one, two) = (settings(1), settings(2));
    let alike = (0..100)
        .filter(|d| election_timeout(&one, 5, *d) == election_timeout(&two, 5, *d))
        .count();
    assert!(alike < 30);
}

#[test]
fn leader_that_nobody_answers_steps_down() {
    let mut net = Net::new(3);
    net.elect(1);
    for _ in 0..25 {
        net.of(1).tick();
        net.collect();
        net.wire.clear();
    }
    assert!(!net.of(1).is_leader());
}

#[test]
fn lonely_node_does_not_raise_the_term() {
    let mut net = Net::new(3);
    net.elect(1);
    let term = net.of(3).raw.raft.term;
    for _ in 0..100 {
        net.of(3).tick();
        net.collect();
        net.wire.clear();
    }
    assert_eq!(net.of(3).raw.raft.term, term);
}

#[test]
fn node_that_never_leads_still_votes() {
    let mut net = Net::new(3);
    net.elect(1);
    net.of(3).never_lead();
    for _ in 0..100 {
        net.of(3).tick();
        assert_eq!(net.of(3).raw.raft.state, StateRole::Follower);
    }
    let mut order = message(MessageType::MsgTimeoutNow, 1, 3);
    order.term = net.of(3).raw.raft.term;
    net.deliver(3, &order);
    assert_eq!(net.of(3).raw.raft.state, StateRole::Follower);
    for _ in 0..20 {
        net.of(2).tick();
    }
    net.collect();
    net.wire.retain(|(to, m)| *to != 1 && m.from != 1);
    net.run();
    assert!(net.of(2).is_leader());
}
