//! Linearizable reads.

use bytes::Bytes;
use raft::eraftpb::MessageType;

use super::harness::{message, with_data, Net, LEARNER};
use crate::core::membership::Refusal;

#[test]
fn read_contexts_are_rewritten_and_never_alike() {
    let mut net = Net::new(3);
    net.elect(1);
    let mut contexts = Vec::new();
    for _ in 0..3 {
        assert!(net.of(2).read_index(4));
        net.collect();
        let asked = net.wire.remove(0);
        contexts.push(asked.1.entries[0].data.clone());
        net.deliver(1, &asked.1);
        net.collect();
        let beats = net
            .wire
            .drain(..)
            .filter(|(_, m)| m.get_msg_type() == MessageType::MsgHeartbeat);
        contexts.extend(beats.filter(|(to, _)| *to == 2).map(|(_, m)| m.context));
    }
    let mut unique = contexts.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(contexts.len(), 6);
    assert_eq!(unique.len(), 6);
}

#[test]
fn repeated_read_request_is_dropped() {
    let mut net = Net::new(3);
    net.elect(1);
    let ask = with_data(message(MessageType::MsgReadIndex, 2, 1), b"same");
    net.deliver(1, &ask);
    net.deliver(1, &ask);
    assert_eq!(net.of(1).raw.raft.pending_read_count(), 1);
}

/// A deposed leader gets an old request once more, and old answers to its heartbeats after that.
#[test]
fn old_heartbeat_answers_confirm_no_new_read() {
    let mut net = Net::new(3);
    net.elect(1);
    let ask = with_data(message(MessageType::MsgReadIndex, 2, 1), b"ctx");
    net.deliver(1, &ask);
    net.collect();
    let mut answers = Vec::new();
    net.deliver_wire();
    net.collect();
    answers.append(&mut net.wire);
    for (_, answer) in &answers {
        net.deliver(1, answer);
    }
    net.collect();
    net.wire.clear();
    // Leadership moves on without node 1 hearing of it.
    assert!(net.of(1).read_index(77));
    net.deliver(1, &ask);
    for (_, answer) in &answers {
        net.deliver(1, answer);
    }
    net.collect();
    assert!(
        net.reads[0].is_empty(),
        "read 77 was confirmed by answers older than itself"
    );
}

#[test]
fn open_reads_are_void_after_the_term() {
    let mut net = Net::new(3);
    net.elect(1);
    assert!(net.of(1).read_index(5));
    net.collect();
    let beats = std::mem::take(&mut net.wire);
    net.of(1).step_down();
    assert_eq!(net.of(1).open_reads(), 0);
    for (to, beat) in beats {
        net.deliver(to, &beat);
    }
    net.run();
    assert!(net.reads[0].is_empty());
}

#[test]
fn reads_before_an_entry_of_the_term_are_refused() {
    let mut net = Net::new(3);
    net.of(1).campaign();
    for _ in 0..2 {
        net.collect();
        net.deliver_wire();
        net.collect();
        net.deliver_wire();
    }
    assert!(net.of(1).is_leader());
    assert!(!net.of(1).read_index(5));
    assert_eq!(
        net.of(1).propose_change(1, &[(LEARNER, 9)], Bytes::new()),
        Err(Refusal::NoEntryOfTerm)
    );
}

#[test]
fn confirmed_reads_come_back_with_their_token() {
    let mut net = Net::new(3);
    net.elect(1);
    assert!(net.of(1).read_index(5));
    assert!(net.of(3).read_index(6));
    net.run();
    assert_eq!(net.reads[0], [(5, 2)]);
    assert_eq!(net.reads[2], [(6, 2)]);
}
