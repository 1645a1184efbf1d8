//! Snapshots, offered and taken.

use protobuf::Message as _;
use raft::eraftpb::MessageType;

use super::harness::{mark, message, Net, LEARNER};
use crate::cache::SnapshotMark;
use crate::core::Core;

#[test]
fn snapshot_without_data_is_refused_from_the_wire() {
    let mut net = Net::new(3);
    net.elect(1);
    let mut offer = message(MessageType::MsgSnapshot, 1, 2);
    offer.term = net.of(1).raw.raft.term;
    let meta = offer.mut_snapshot().mut_metadata();
    meta.index = 50;
    meta.term = 2;
    meta.set_conf_state(mark(&[1, 2, 3]).conf);
    net.deliver(2, &offer);
    assert!(net.of(2).raw.snap().is_none());
    let bytes = offer.write_to_bytes().expect("bytes");
    net.of(2).step_snapshot(&bytes).expect("a snapshot");
    assert!(net.of(2).raw.snap().is_some());
}

#[test]
fn snapshot_is_offered_only_to_members_that_it_names() {
    let mut net = Net::new(1);
    net.elect(1);
    net.change(1, (LEARNER, 2)).expect("a change");
    let mut answer = message(MessageType::MsgAppendResponse, 2, 1);
    answer.term = net.of(1).raw.raft.term;
    answer.reject = true;
    answer.index = net.of(1).raw.raft.prs().get(2).expect("a peer").next_idx - 1;
    net.deliver(1, &answer);
    let offers = |core: &mut Core| core.ready().map_or(0, |out| out.offers.len());
    assert_eq!(offers(net.of(1)), 0);
    assert!(net.of(1).wants_snapshot());
    let conf = net.of(1).conf_state();
    let index = net.of(1).raw.raft.raft_log.applied;
    let term = net.of(1).raw.raft.term;
    net.of(1).compact(SnapshotMark { index, term, conf }, 0);
    assert!(!net.of(1).wants_snapshot());
    let mut beat = message(MessageType::MsgHeartbeatResponse, 2, 1);
    beat.term = term;
    net.deliver(1, &beat);
    assert_eq!(offers(net.of(1)), 1);
}
