//! What must be durable before what.

use bytes::Bytes;

use super::harness::{mark, settings, Net};
use crate::core::Core;
use crate::recovery::recover;

#[test]
fn sole_voter_sends_nothing_of_a_term_that_is_not_durable() {
    let mut conf = mark(&[1]);
    conf.conf.set_learners(vec![2]);
    let cache = recover(conf, &[]).expect("an empty log");
    let mut core = Core::new(settings(1), cache).expect("a core");
    core.campaign();
    core.propose(vec![(1, Bytes::from_static(b"x"))]);
    let first = core.ready().expect("a ready");
    assert!(core.is_leader());
    assert!(first.send_now.is_empty());
    assert!(!first.send_after.is_empty());
    core.persisted(first.number);
    core.propose(vec![(2, Bytes::from_static(b"y"))]);
    for _ in 0..3 {
        core.tick();
    }
    let later = core.ready().expect("a ready");
    assert!(!later.send_now.is_empty());
}

#[test]
fn followers_answers_wait_until_durable() {
    let mut net = Net::new(3);
    net.elect(1);
    net.of(1).propose(vec![(1, Bytes::from_static(b"x"))]);
    net.collect();
    net.deliver_wire();
    let out = net.of(2).ready().expect("a ready");
    assert!(out.send_now.is_empty());
    assert!(!out.send_after.is_empty());
    assert!(!out.group.is_empty());
    assert!(out.committed.is_empty());
}

#[test]
fn leaders_own_entry_counts_only_when_durable() {
    let mut net = Net::new(1);
    net.elect(1);
    net.of(1).propose(vec![(1, Bytes::from_static(b"x"))]);
    let out = net.of(1).ready().expect("a ready");
    assert!(out.committed.is_empty());
    assert!(net.of(1).ready().is_none());
    net.of(1).persisted(out.number);
    let after = net.of(1).ready().expect("a ready");
    assert_eq!(after.committed.len(), 1);
}
