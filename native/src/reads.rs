//! Contexts of linearizable reads, made anew for every request and never used twice.
//!
//! The engine uses the caller's context as the heartbeat's: a reused one lets an old heartbeat answer confirm a new read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft::eraftpb::Message;

use crate::mutants::planted;

const MAX_OPEN: usize = 4096;
const MAX_SEEN: usize = 4096;
const CONTEXT_BYTES: usize = 24;

#[derive(Debug)]
enum Origin {
    Here(u64),
    Peer(u64, Bytes),
}

/// The open reads of one node, by sequence number.
#[derive(Debug)]
pub struct ReadTable {
    incarnation: u64,
    sequence: u64,
    open: BTreeMap<u64, Origin>,
    seen: BTreeSet<(u64, Bytes)>,
    seen_order: VecDeque<(u64, Bytes)>,
}

impl ReadTable {
    pub fn new(incarnation: u64) -> Self {
        ReadTable {
            incarnation,
            sequence: 0,
            open: BTreeMap::new(),
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Forgets open reads: their term is over. What was seen stays: a duplicate may come late.
    pub fn clear(&mut self) {
        self.open.clear();
    }

    /// Returns a fresh context for a read of this node.
    pub fn issue(&mut self, token: u64, term: u64) -> Bytes {
        self.add(Origin::Here(token), term)
    }

    /// Returns a fresh context for a peer's request; None if the request was seen before.
    pub fn admit(&mut self, message: &Message, term: u64) -> Option<Bytes> {
        let key = (message.from, message.entries[0].data.clone());
        if !self.seen.insert(key.clone()) {
            return None;
        }
        self.seen_order.push_back(key.clone());
        if self.seen_order.len() > MAX_SEEN {
            if let Some(oldest) = self.seen_order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
        Some(self.add(Origin::Peer(key.0, key.1), term))
    }

    fn add(&mut self, origin: Origin, term: u64) -> Bytes {
        if !planted("one_context_for_all_reads") || self.sequence == 0 {
            self.sequence += 1;
        }
        self.open.insert(self.sequence, origin);
        if self.open.len() > MAX_OPEN {
            self.open.pop_first();
        }
        let mut context = Vec::with_capacity(CONTEXT_BYTES);
        for number in [self.incarnation, term, self.sequence] {
            context.extend_from_slice(&number.to_be_bytes());
        }
        context.into()
    }

    fn close(&mut self, context: &[u8]) -> Option<Origin> {
        if context.len() != CONTEXT_BYTES || context[..8] != self.incarnation.to_be_bytes() {
            return None;
        }
        let sequence = u64::from_be_bytes(context[16..].try_into().expect("8 bytes"));
        self.open.remove(&sequence)
    }

    /// The token of a read of this node that is answered now.
    pub fn finish(&mut self, context: &[u8]) -> Option<u64> {
        match self.close(context) {
            Some(Origin::Here(token)) => Some(token),
            _ => None,
        }
    }

    /// The peer's own context for an answer that leaves now; None if the read is no longer open.
    pub fn answer(&mut self, message: &Message) -> Option<Bytes> {
        match self.close(&message.entries.first()?.data) {
            Some(Origin::Peer(from, context)) if from == message.to => Some(context),
            _ => None,
        }
    }
}
