//! Membership changes.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use super::harness::{Net, LEARNER, REMOVE, VOTER};
use crate::core::membership::Refusal;

#[test]
fn removed_leader_steps_down_and_stops() {
    let mut net = Net::new(3);
    net.elect(1);
    net.change(1, (REMOVE, 1)).expect("a change");
    assert!(!net.of(1).is_leader());
    assert!(net.of(1).removed);
    let elapsed = net.of(1).raw.raft.election_elapsed;
    for _ in 0..100 {
        net.of(1).tick();
    }
    net.collect();
    assert_eq!(net.of(1).raw.raft.election_elapsed, elapsed);
    assert!(net.wire.is_empty());
    assert!(!net.of(1).propose(vec![(1, Bytes::from_static(b"x"))]));
}

#[test]
fn swallowed_change_is_noticed() {
    let mut net = Net::new(3);
    net.elect(1);
    let mut change = ConfChangeV2::default();
    change.context = Bytes::from_static(b"about");
    let context = net.of(1).context(3);
    // Nothing to leave: the engine turns this change into an empty entry and says Ok.
    assert_eq!(
        net.of(1).append_change(context, &change),
        Err(Refusal::Swallowed)
    );
}

#[test]
fn second_change_waits_for_the_first() {
    let mut net = Net::new(3);
    net.elect(1);
    assert_eq!(
        net.of(1).propose_change(1, &[(LEARNER, 8)], Bytes::new()),
        Ok(())
    );
    assert_eq!(
        net.of(1).propose_change(2, &[(LEARNER, 9)], Bytes::new()),
        Err(Refusal::Pending)
    );
    net.run();
    assert_eq!(net.change(1, (LEARNER, 9)), Ok(()));
}

#[test]
fn change_tells_what_it_was_about() {
    let mut net = Net::new(1);
    net.elect(1);
    net.of(1)
        .propose_change(4, &[(LEARNER, 2)], Bytes::from_static(b"who"))
        .expect("a change");
    let mut found = Vec::new();
    while let Some(out) = net.of(1).ready() {
        net.of(1).persisted(out.number);
        for entry in out.committed {
            if entry.conf_change {
                assert_eq!(entry.token, 4);
                found.push(net.of(1).apply_change(&entry.data).expect("a change"));
            }
            net.of(1).applied(entry.index);
        }
    }
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0.learners, [2]);
    assert_eq!(&found[0].1[..], b"who");
    assert_eq!(found[0].2, [(LEARNER, 2)]);
}

#[test]
fn impossible_change_is_skipped_alike_everywhere() {
    let mut net = Net::new(1);
    net.elect(1);
    let mut change = ConfChangeV2::default();
    let mut single = ConfChangeSingle::default();
    single.node_id = 1;
    single.set_change_type(ConfChangeType::RemoveNode);
    change.mut_changes().push(single);
    let (conf, _, asked) = net
        .of(1)
        .apply_change(&change.write_to_bytes().expect("bytes"))
        .expect("no panic");
    assert_eq!(conf.voters, [1]);
    assert!(asked.is_empty());
}

#[test]
fn joint_membership_is_left_by_whoever_leads() {
    let mut net = Net::new(3);
    net.elect(1);
    let mut change = ConfChangeV2::default();
    // Explicit: the engine itself would stay in the joint membership for ever.
    change.set_transition(ConfChangeTransition::Explicit);
    let mut single = ConfChangeSingle::default();
    single.node_id = 4;
    single.set_change_type(ConfChangeType::AddLearnerNode);
    change.mut_changes().push(single);
    let context = net.of(1).context(3);
    net.of(1).append_change(context, &change).expect("a change");
    net.run();
    for id in 1..=3 {
        assert!(
            net.of(id).conf_state().voters_outgoing.is_empty(),
            "node {id} is still joint"
        );
        assert_eq!(net.of(id).conf_state().learners, [4]);
    }
}

#[test]
fn change_entries_are_told_from_commands() {
    let mut net = Net::new(3);
    net.elect(1);
    net.change(1, (VOTER, 4)).expect("a change");
    assert!(net.committed[0].last().expect("an entry").2);
}
