//! What the engine wants done: groups to make durable, messages to send, entries to apply.

use std::collections::BTreeMap;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::Core;
use crate::codec::{encode_frames, encode_group};

const FRAME_BYTES: usize = 1 << 20;

/// An entry to apply. `token` is not 0 if this incarnation proposed it.
#[derive(Debug, PartialEq)]
pub struct Committed {
    pub index: u64,
    pub term: u64,
    pub conf_change: bool,
    pub token: u64,
    pub data: Bytes,
}

/// A snapshot that a follower needs: the caller brings the data, then the message.
#[derive(Debug)]
pub struct Offer {
    pub to: u64,
    pub index: u64,
    pub term: u64,
    pub message: Vec<u8>,
}

/// What one call asks of the caller; see `Core::ready`.
#[derive(Debug, Default)]
pub struct Output {
    pub number: u64,
    pub group: Vec<u8>,
    pub last_index: u64,
    pub snapshot: Option<(u64, u64)>,
    pub send_now: Vec<(u64, Vec<u8>)>,
    pub send_after: Vec<(u64, Vec<u8>)>,
    pub offers: Vec<Offer>,
    pub committed: Vec<Committed>,
    pub reads: Vec<(u64, u64)>,
}

impl Core {
    /// Takes what is to be done now. The group must become durable before `persisted(number)`;
    /// `send_now` may leave before that, `send_after` only after it.
    pub fn ready(&mut self) -> Option<Output> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let mut out = Output {
            number: ready.number(),
            ..Output::default()
        };
        if !ready.snapshot().is_empty() {
            out.snapshot = Some(self.restore(ready.snapshot().get_metadata()));
        }
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        self.fill_group(&mut out, &entries, ready.must_sync());
        for read in ready.take_read_states() {
            if let Some(token) = self.reads.finish(&read.request_ctx) {
                out.reads.push((token, read.index));
            }
        }
        let now = self.outgoing(ready.take_messages(), &mut out.offers);
        let after = self.outgoing(ready.take_persisted_messages(), &mut out.offers);
        // A sole voter leads without having asked for votes: its term may not be durable yet.
        if self.durable.term < self.raw.raft.term {
            out.send_after = now;
            out.send_after.extend(after);
        } else {
            out.send_now = now;
            out.send_after = after;
        }
        out.committed = ready
            .take_committed_entries()
            .into_iter()
            .map(|e| self.to_apply(e))
            .collect();
        self.raw.advance_append_async(ready);
        self.settle(false);
        Some(out)
    }

    fn fill_group(&mut self, out: &mut Output, entries: &[Entry], must_sync: bool) {
        if !must_sync {
            return;
        }
        let state = self.raw.raft.hard_state();
        out.group = encode_group(Some(&state), out.snapshot, entries);
        out.last_index = entries
            .last()
            .map_or(out.snapshot.map_or(0, |s| s.0), |e| e.index);
        self.unsaved.push_back((out.number, state));
    }

    fn outgoing(&mut self, messages: Vec<Message>, offers: &mut Vec<Offer>) -> Vec<(u64, Vec<u8>)> {
        let mut by_peer: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
        for mut message in messages {
            match message.get_msg_type() {
                MessageType::MsgPropose | MessageType::MsgTransferLeader => continue,
                MessageType::MsgSnapshot => {
                    let meta = message.get_snapshot().get_metadata();
                    let (index, term) = (meta.index, meta.term);
                    let bytes = message.write_to_bytes().expect("writing to memory");
                    offers.push(Offer {
                        to: message.to,
                        index,
                        term,
                        message: bytes,
                    });
                    continue;
                }
                MessageType::MsgReadIndexResp => {
                    let Some(context) = self.reads.answer(&message) else {
                        continue;
                    };
                    message.mut_entries()[0].data = context;
                }
                _ => {}
            }
            by_peer.entry(message.to).or_default().push(message);
        }
        let mut frames = Vec::with_capacity(by_peer.len());
        for (to, messages) in by_peer {
            frames.extend(
                encode_frames(&messages, FRAME_BYTES)
                    .into_iter()
                    .map(|f| (to, f)),
            );
        }
        frames
    }

    pub(super) fn to_apply(&self, entry: Entry) -> Committed {
        Committed {
            index: entry.index,
            term: entry.term,
            conf_change: entry.get_entry_type() != EntryType::EntryNormal,
            token: self.token(&entry.context),
            data: entry.data,
        }
    }

    /// Everything up to this ready is durable.
    pub fn persisted(&mut self, number: u64) {
        while self.unsaved.front().is_some_and(|(n, _)| *n <= number) {
            self.durable = self.unsaved.pop_front().expect("front").1;
        }
        self.raw.on_persist_ready(number);
        self.settle(false);
    }

    /// The hard state as a group of its own: the head of a new segment. Only what was handed out for writing.
    pub fn state_group(&self) -> Vec<u8> {
        encode_group(Some(&self.durable), None, &[])
    }

    /// The group that a recovered log needs before anything else, if it disagrees with its snapshot:
    /// without it the next recovery would judge later entries by the old ones before them.
    pub fn mending_group(&self) -> Vec<u8> {
        let store = self.raw.store();
        if !store.discordant {
            return Vec::new();
        }
        let mark = &store.snapshot;
        encode_group(Some(&self.durable), Some((mark.index, mark.term)), &[])
    }
}
