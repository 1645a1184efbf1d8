//! Commands: who takes them, how many, and whose they are.

use bytes::Bytes;

use super::harness::Net;

#[test]
fn three_nodes_commit_and_tokens_come_back() {
    let mut net = Net::new(3);
    net.elect(1);
    assert!(net.of(1).propose(vec![
        (5, Bytes::from_static(b"a")),
        (6, Bytes::from_static(b"b"))
    ]));
    net.run();
    let data: Vec<_> = net.committed[2].iter().map(|c| c.1.clone()).collect();
    assert_eq!(data, ["".as_bytes(), b"a", b"b"]);
}

#[test]
fn followers_forward_no_proposal() {
    let mut net = Net::new(3);
    net.elect(1);
    assert!(!net.of(2).propose(vec![(1, Bytes::from_static(b"x"))]));
    net.collect();
    assert!(net.wire.is_empty());
}

#[test]
fn uncommitted_bytes_are_bounded() {
    let mut net = Net::new(3);
    net.elect(1);
    let big = Bytes::from(vec![0; 1500]);
    let taken = (0..10)
        .filter(|i| net.nodes[0].propose(vec![(*i, big.clone())]))
        .count();
    assert!(taken < 4, "{taken} batches were taken");
}
