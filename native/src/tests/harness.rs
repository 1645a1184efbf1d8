//! Nodes for tests, a net between them, and small values.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};

use crate::cache::SnapshotMark;
use crate::codec::{decode_frame, encode_frames};
use crate::core::membership::Refusal;
use crate::core::ready::Output;
use crate::core::{Core, Settings};
use crate::recovery::recover;

pub(super) const VOTER: u8 = 0;
pub(super) const REMOVE: u8 = 1;
pub(super) const LEARNER: u8 = 2;

pub(super) fn settings(id: u64) -> Settings {
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

pub(super) fn mark(voters: &[u64]) -> SnapshotMark {
    let mut conf = ConfState::default();
    conf.set_voters(voters.to_vec());
    SnapshotMark {
        index: 1,
        term: 1,
        conf,
    }
}

pub(super) fn node(id: u64, voters: &[u64]) -> Core {
    let cache = recover(mark(voters), &[]).expect("an empty log");
    Core::new(settings(id), cache).expect("a core")
}

/// Nodes with instant disks; messages wait in `wire` until `run` delivers them.
pub(super) struct Net {
    pub(super) nodes: Vec<Core>,
    pub(super) wire: Vec<(u64, Message)>,
    pub(super) committed: Vec<Vec<(u64, Bytes, bool)>>,
    pub(super) reads: Vec<Vec<(u64, u64)>>,
}

impl Net {
    pub(super) fn new(count: u64) -> Net {
        let voters: Vec<u64> = (1..=count).collect();
        Net {
            nodes: voters.iter().map(|id| node(*id, &voters)).collect(),
            wire: Vec::new(),
            committed: vec![Vec::new(); count as usize],
            reads: vec![Vec::new(); count as usize],
        }
    }

    pub(super) fn of(&mut self, id: u64) -> &mut Core {
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
    pub(super) fn collect(&mut self) {
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

    pub(super) fn deliver(&mut self, to: u64, message: &Message) {
        let frame = encode_frames(std::slice::from_ref(message), 1 << 20).remove(0);
        if to as usize <= self.nodes.len() {
            self.of(to).step_frame(&frame);
        }
    }

    /// Delivers what is on the wire now, not what it brings about.
    pub(super) fn deliver_wire(&mut self) {
        for (to, message) in std::mem::take(&mut self.wire) {
            self.deliver(to, &message);
        }
    }

    pub(super) fn run(&mut self) {
        self.collect();
        while !self.wire.is_empty() {
            self.deliver_wire();
            self.collect();
        }
    }

    pub(super) fn elect(&mut self, id: u64) {
        self.of(id).campaign();
        self.run();
        assert!(self.of(id).is_leader());
    }

    pub(super) fn change(&mut self, id: u64, change: (u8, u64)) -> Result<(), Refusal> {
        let outcome = self.of(id).propose_change(9, &[change], Bytes::new());
        self.run();
        outcome
    }
}

pub(super) fn message(kind: MessageType, from: u64, to: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from;
    message.to = to;
    message
}

pub(super) fn with_data(mut message: Message, data: &'static [u8]) -> Message {
    let mut entry = Entry::default();
    entry.data = Bytes::from_static(data);
    message.set_entries(vec![entry].into());
    message
}

pub(super) fn entry(index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = term;
    entry.data = Bytes::from(format!("{index}@{term}"));
    entry
}

pub(super) fn state(term: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    state.term = term;
    state.commit = commit;
    state
}
