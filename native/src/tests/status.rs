//! What a host is told.

use bytes::Bytes;

use super::harness::Net;
use crate::core::status::Peer;

#[test]
fn peers_stay_active_across_a_quorum_check() {
    let mut net = Net::new(3);
    net.elect(1);
    let mut seen = Vec::new();
    for window in 0..4 {
        while net.of(1).raw.raft.election_elapsed + 1 < net.of(1).settings.election_tick {
            net.of(1).tick();
            net.collect();
            net.wire.retain(|(to, _)| *to != 3 || window == 0);
            net.run();
        }
        net.of(1).tick();
        let active = |p: &Peer| p.active.then_some(p.id);
        seen.push(
            net.of(1)
                .peers()
                .iter()
                .filter_map(active)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen[0], [1, 2, 3]);
    assert_eq!(seen[3], [1, 2]);
    assert!(seen.iter().all(|active| active.contains(&2)));
}

#[test]
fn log_entries_are_all_of_the_log() {
    let mut net = Net::new(3);
    net.elect(1);
    assert!(net.of(1).propose(vec![(1, Bytes::from_static(b"x"))]));
    let _ = net.of(1).ready(); // moves the proposal into the log
    let entries = net.of(1).log_entries();
    let last = entries.last().expect("the proposal");
    assert_eq!(last.data, Bytes::from_static(b"x"));
    assert!(last.index > net.of(1).raw.raft.raft_log.committed);
}
