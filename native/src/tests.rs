//! One test for each guard; each fails without it.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    HardState, Message, MessageType,
};
use raft::StateRole;

use crate::cache::{Cache, SnapshotMark};
use crate::codec::{decode_frame, decode_groups, encode_frames, encode_group};
use crate::core::{election_timeout, recover, Core, Output, Peer, Refusal, Settings};

const VOTER: u8 = 0;
const REMOVE: u8 = 1;
const LEARNER: u8 = 2;

fn settings(id: u64) -> Settings {
    Settings {
        id,
        seed: 7,
        incarnation: 1000 + id,
        election_tick: 10,
        heartbeat_tick: 2,
        max_size_per_msg: 4096,
        max_inflight: 64,
        max_uncommitted: 4096,
        max_committed: 1 << 20,
    }
}

fn mark(voters: &[u64]) -> SnapshotMark {
    let mut conf = ConfState::default();
    conf.set_voters(voters.to_vec());
    SnapshotMark {
        index: 1,
        term: 1,
        conf,
    }
}

fn node(id: u64, voters: &[u64]) -> Core {
    let cache = recover(mark(voters), &[]).expect("an empty log");
    Core::new(settings(id), cache).expect("a core")
}

/// Nodes with instant disks; messages wait in `wire` until `run` delivers them.
struct Net {
    nodes: Vec<Core>,
    wire: Vec<(u64, Message)>,
    committed: Vec<Vec<(u64, Bytes, bool)>>,
    reads: Vec<Vec<(u64, u64)>>,
}

impl Net {
    fn new(count: u64) -> Net {
        let voters: Vec<u64> = (1..=count).collect();
        Net {
            nodes: voters.iter().map(|id| node(*id, &voters)).collect(),
            wire: Vec::new(),
            committed: vec![Vec::new(); count as usize],
            reads: vec![Vec::new(); count as usize],
        }
    }

    fn of(&mut self, id: u64) -> &mut Core {
        &mut self.nodes[id as usize - 1]
    }

    fn send(&mut self, frames: Vec<(u64, Vec<u8>)>) {
        for (to, frame) in frames {
            let (messages, whole) = decode_frame(&frame);
            assert!(whole);
            self.wire.extend(messages.into_iter().map(|m| (to, m)));
        }
    }

    /// Handles what each node has ready; everything is durable at once.
    fn collect(&mut self) {
        for place in 0..self.nodes.len() {
            while let Some(out) = self.nodes[place].ready() {
                self.nodes[place].persisted(out.number);
                self.reads[place].extend(&out.reads);
                for entry in &out.committed {
                    if entry.conf_change {
                        self.nodes[place]
                            .apply_change(&entry.data)
                            .expect("a change");
                    }
                    self.committed[place].push((
                        entry.index,
                        entry.data.clone(),
                        entry.conf_change,
                    ));
                }
                if let Some(last) = out.committed.last() {
                    self.nodes[place].applied(last.index);
                }
                let Output {
                    send_now,
                    send_after,
                    ..
                } = out;
                self.send(send_now);
                self.send(send_after);
            }
        }
    }

    fn deliver(&mut self, to: u64, message: &Message) {
        let frame = encode_frames(std::slice::from_ref(message), 1 << 20).remove(0);
        if to as usize <= self.nodes.len() {
            self.of(to).step_frame(&frame);
        }
    }

    fn run(&mut self) {
        self.collect();
        while !self.wire.is_empty() {
            for (to, message) in std::mem::take(&mut self.wire) {
                self.deliver(to, &message);
            }
            self.collect();
        }
    }

    fn elect(&mut self, id: u64) {
        self.of(id).campaign();
        self.run();
        assert!(self.of(id).is_leader());
    }

    fn change(&mut self, id: u64, change: (u8, u64)) -> Result<(), Refusal> {
        let outcome = self.of(id).propose_change(9, &[change], Bytes::new());
        self.run();
        outcome
    }
}

fn message(kind: MessageType, from: u64, to: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from;
    message.to = to;
    message
}

fn with_data(mut message: Message, data: &'static [u8]) -> Message {
    let mut entry = Entry::default();
    entry.data = Bytes::from_static(data);
    message.set_entries(vec![entry].into());
    message
}

fn entry(index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = term;
    entry.data = Bytes::from(format!("{index}@{term}"));
    entry
}

fn state(term: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    state.term = term;
    state.commit = commit;
    state
}

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
    for (to, sent) in std::mem::take(&mut net.wire) {
        net.deliver(to, &sent);
    }
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
fn followers_forward_no_proposal() {
    let mut net = Net::new(3);
    net.elect(1);
    assert!(!net.of(2).propose(vec![(1, Bytes::from_static(b"x"))]));
    net.collect();
    assert!(net.wire.is_empty());
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
    for (to, beat) in std::mem::take(&mut net.wire) {
        net.deliver(to, &beat);
    }
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
        for (to, m) in std::mem::take(&mut net.wire) {
            net.deliver(to, &m);
        }
        net.collect();
        for (to, m) in std::mem::take(&mut net.wire) {
            net.deliver(to, &m);
        }
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
fn uncommitted_bytes_are_bounded() {
    let mut net = Net::new(3);
    net.elect(1);
    let big = Bytes::from(vec![0; 1500]);
    let taken = (0..10)
        .filter(|i| net.nodes[0].propose(vec![(*i, big.clone())]))
        .count();
    assert!(taken < 4, "{taken} batches were taken");
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
    for (to, m) in std::mem::take(&mut net.wire) {
        net.deliver(to, &m);
    }
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

#[test]
fn groups_come_back_as_written() {
    let one = encode_group(Some(&state(3, 2)), None, &[entry(2, 3), entry(3, 3)]);
    let two = encode_group(None, Some((9, 4)), &[]);
    let groups = decode_groups(&[one.clone(), two].concat()).expect("groups");
    assert_eq!(groups[0].entries.len(), 2);
    assert_eq!(groups[0].hard_state.as_ref().expect("state").term, 3);
    assert_eq!(groups[1].snapshot, Some((9, 4)));
    for cut in 1..one.len() {
        assert!(decode_groups(&one[..cut]).is_err());
    }
}

#[test]
fn recovery_lets_later_entries_overwrite() {
    let first = encode_group(
        Some(&state(2, 1)),
        None,
        &[entry(2, 2), entry(3, 2), entry(4, 2)],
    );
    let second = encode_group(Some(&state(3, 2)), None, &[entry(3, 3)]);
    let cache = recover(mark(&[1]), &[&first, &second]).expect("a log");
    assert_eq!(
        (cache.end_index(), cache.term_at(3), cache.hard_state.term),
        (3, Some(3), 3)
    );
}

#[test]
fn recovery_names_the_record_that_jumps() {
    let first = encode_group(Some(&state(2, 1)), None, &[entry(2, 2)]);
    let second = encode_group(None, None, &[entry(5, 2)]);
    assert_eq!(
        recover(mark(&[1]), &[&first, &second])
            .expect_err("a gap")
            .0,
        1
    );
}

#[test]
fn recovery_refuses_a_commit_beyond_the_end() {
    let first = encode_group(Some(&state(2, 9)), None, &[entry(2, 2)]);
    assert!(recover(mark(&[1]), &[&first]).is_err());
}

#[test]
fn recovery_refuses_a_log_that_starts_too_late() {
    let first = encode_group(Some(&state(2, 7)), None, &[entry(7, 2)]);
    assert!(recover(mark(&[1]), &[&first]).is_err());
}

#[test]
fn recovery_joins_log_and_newer_snapshot() {
    let log = encode_group(
        Some(&state(2, 1)),
        None,
        &[entry(2, 2), entry(3, 2), entry(4, 2)],
    );
    let newer = |index, term| SnapshotMark {
        index,
        term,
        ..mark(&[1])
    };
    let inside = recover(newer(3, 2), &[&log]).expect("a log");
    assert_eq!(
        (
            inside.base_index(),
            inside.end_index(),
            inside.hard_state.commit
        ),
        (3, 4, 3)
    );
    let beyond = recover(newer(9, 5), &[&log]).expect("a log");
    assert_eq!(
        (
            beyond.end_index(),
            beyond.hard_state.term,
            beyond.hard_state.vote
        ),
        (9, 5, 0)
    );
    let other = recover(newer(3, 4), &[&log]).expect("a log");
    assert_eq!(other.end_index(), 3);
}

/// A crash may come after a snapshot got its name and before the log was told of it.
#[test]
fn log_that_disagrees_with_its_snapshot_is_mended() {
    let old = encode_group(
        Some(&state(2, 1)),
        None,
        &[entry(2, 2), entry(3, 2), entry(4, 2), entry(5, 2)],
    );
    let newer = SnapshotMark {
        index: 4,
        term: 3,
        ..mark(&[1])
    };
    let core =
        Core::new(settings(1), recover(newer.clone(), &[&old]).expect("a log")).expect("a core");
    let mending = core.mending_group();
    let more = encode_group(Some(&state(3, 4)), None, &[entry(5, 3), entry(6, 3)]);
    let cache = recover(newer.clone(), &[&old, &mending, &more]).expect("a log");
    assert_eq!((cache.base_index(), cache.end_index()), (4, 6));
    let agreed = Core::new(settings(1), cache).expect("a core");
    assert!(agreed.mending_group().is_empty());
}

#[test]
fn recovery_starts_anew_after_an_installed_snapshot() {
    let old = encode_group(Some(&state(2, 3)), None, &[entry(2, 2), entry(3, 2)]);
    let reset = encode_group(Some(&state(4, 8)), Some((8, 4)), &[]);
    let more = encode_group(None, None, &[entry(9, 4)]);
    let newer = SnapshotMark {
        index: 8,
        term: 4,
        ..mark(&[1])
    };
    let cache = recover(newer, &[&old, &reset, &more]).expect("a log");
    assert_eq!((cache.base_index(), cache.end_index()), (8, 9));
    assert!(recover(mark(&[1]), &[&old, &reset, &more]).is_err());
}

#[test]
fn restart_remembers_term_vote_and_log() {
    let mut core = node(1, &[1, 2, 3]);
    core.campaign();
    let mut records = Vec::new();
    while let Some(out) = core.ready() {
        records.push(out.group);
        core.persisted(out.number);
    }
    let mut grant = message(MessageType::MsgRequestPreVoteResponse, 2, 1);
    grant.term = core.raw.raft.term + 1;
    core.step_frame(&encode_frames(&[grant], 1 << 20)[0]);
    while let Some(out) = core.ready() {
        records.push(out.group);
        core.persisted(out.number);
    }
    let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    let again = Core::new(
        settings(1),
        recover(mark(&[1, 2, 3]), &slices).expect("a log"),
    )
    .expect("a core");
    assert_eq!(
        (again.raw.raft.term, again.raw.raft.vote),
        (core.raw.raft.term, 1)
    );
}

#[test]
fn cache_keeps_to_its_bounds() {
    let mut cache = Cache::new(mark(&[1]));
    cache.append(&[entry(2, 1), entry(3, 1), entry(4, 2)]);
    cache.compact(3);
    assert_eq!(
        (cache.base_index(), cache.term_at(3), cache.term_at(2)),
        (3, Some(1), None)
    );
    cache.append(&[entry(4, 3)]);
    assert_eq!((cache.end_index(), cache.term_at(4)), (4, Some(3)));
}

#[test]
fn change_entries_are_told_from_commands() {
    let mut net = Net::new(3);
    net.elect(1);
    net.change(1, (VOTER, 4)).expect("a change");
    assert!(net.committed[0].last().expect("an entry").2);
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
