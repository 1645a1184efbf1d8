//! What the wire may bring, and what the engine must not hear of it.

use bytes::Bytes;
use raft::eraftpb::MessageType;
use raft::StateRole;

use super::harness::{message, node, with_data, Net};

/// The engine's option to join messages would put entries into a waiting empty append whose
/// position is another, and the follower would believe to have what was lost on the way.
#[test]
fn entries_follow_the_position_of_their_message() {
    let mut net = Net::new(3);
    net.elect(1);
    // Node 3 misses an entry that node 2 gets.
    assert!(net.of(1).propose(vec![(5, Bytes::from_static(b"missed"))]));
    net.collect();
    net.wire.retain(|(to, _)| *to != 3);
    net.deliver_wire();
    net.collect();
    let accepted = std::mem::take(&mut net.wire);
    // It refuses the next one. The leader hears both answers in one pass: the commit that the first
    // brings leaves an empty append waiting, the refusal asks for entries from further back.
    assert!(net.of(1).propose(vec![(6, Bytes::from_static(b"next"))]));
    net.collect();
    for (to, sent) in std::mem::take(&mut net.wire) {
        if to == 3 {
            net.deliver(to, &sent);
        }
    }
    net.collect();
    let refused = std::mem::take(&mut net.wire);
    assert!(refused.iter().any(|(_, answer)| answer.reject));
    for (to, answer) in accepted.iter().chain(&refused) {
        net.deliver(*to, answer);
    }
    net.collect();
    let sent: Vec<_> = net.wire.iter().filter(|(to, _)| *to == 3).collect();
    for (_, append) in &sent {
        for (entry, index) in append.entries.iter().zip(append.index + 1..) {
            assert_eq!(entry.index, index);
        }
    }
    assert!(sent.iter().any(|(_, m)| m.entries.is_empty()));
    assert!(sent.iter().any(|(_, m)| m.entries.len() == 2));
    net.run();
    assert_eq!(net.committed[2].len(), net.committed[0].len());
}

#[test]
fn proposals_from_the_wire_are_refused() {
    let mut net = Net::new(3);
    net.elect(1);
    let before = net.of(1).raw.raft.raft_log.last_index();
    net.deliver(1, &with_data(message(MessageType::MsgPropose, 2, 1), b"x"));
    assert_eq!(net.of(1).raw.raft.raft_log.last_index(), before);
    net.deliver(2, &with_data(message(MessageType::MsgPropose, 3, 2), b"x"));
    net.collect();
    assert!(net.wire.is_empty());
}

#[test]
fn transfers_from_the_wire_are_refused() {
    let mut net = Net::new(3);
    net.elect(1);
    net.deliver(1, &message(MessageType::MsgTransferLeader, 2, 1));
    assert_eq!(net.of(1).raw.raft.lead_transferee, None);
}

#[test]
fn election_order_of_another_than_the_leader_is_refused() {
    let mut net = Net::new(3);
    net.elect(1);
    let mut order = message(MessageType::MsgTimeoutNow, 3, 2);
    order.term = net.of(2).raw.raft.term;
    net.deliver(2, &order);
    assert_eq!(net.of(2).raw.raft.state, StateRole::Follower);
}

#[test]
fn stale_rejection_does_not_move_next_below_matched() {
    let mut net = Net::new(3);
    net.elect(1);
    for _ in 0..5 {
        net.of(1).propose(vec![(1, Bytes::from_static(b"x"))]);
        net.run();
    }
    net.of(1).report_unreachable(2);
    let (matched, next) = {
        let peer = net.of(1).raw.raft.prs().get(2).expect("a peer").clone();
        (peer.matched, peer.next_idx)
    };
    let mut stale = message(MessageType::MsgAppendResponse, 2, 1);
    stale.term = net.of(1).raw.raft.term;
    stale.reject = true;
    stale.index = next - 1;
    stale.reject_hint = 1;
    stale.log_term = 1;
    net.deliver(1, &stale);
    assert!(net.of(1).raw.raft.prs().get(2).expect("a peer").next_idx > matched);
}

#[test]
fn messages_for_another_node_are_refused() {
    let mut net = Net::new(3);
    net.elect(1);
    let mut beat = message(MessageType::MsgHeartbeat, 1, 2);
    beat.term = 99;
    net.deliver(3, &beat);
    assert_eq!(net.of(3).refused_messages, 1);
    assert!(net.of(3).raw.raft.term < 99);
}

#[test]
fn torn_frame_is_counted_and_harmless() {
    let mut core = node(1, &[1, 2, 3]);
    assert_eq!(core.step_frame(&[1, 2, 3]), 1);
    assert_eq!(core.step_frame(&[0xff, 0xff, 0xff, 0xff, 1]), 1);
}
