//! The log in memory: what the consensus engine reads back. Durability is the caller's.

use std::sync::atomic::{AtomicBool, Ordering};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

/// Index, term and members of a state that the caller holds on disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotMark {
    pub index: u64,
    pub term: u64,
    pub conf: ConfState,
}

impl SnapshotMark {
    fn includes(&self, id: u64) -> bool {
        let conf = &self.conf;
        [&conf.voters, &conf.learners, &conf.voters_outgoing]
            .iter()
            .any(|list| list.contains(&id))
    }
}

/// Entries after `base_index`, and the newest snapshot that may be offered to a follower.
#[derive(Debug, Default)]
pub struct Cache {
    pub hard_state: HardState,
    pub snapshot: SnapshotMark,
    /// A peer needs a snapshot that is newer than the one at hand.
    pub wanted: AtomicBool,
    /// The log on disk disagrees with the snapshot: it must be told to start anew after it.
    pub discordant: bool,
    base_index: u64,
    base_term: u64,
    entries: Vec<Entry>,
}

impl Cache {
    /// An empty log that starts after `snapshot`.
    pub fn new(snapshot: SnapshotMark) -> Self {
        Cache {
            base_index: snapshot.index,
            base_term: snapshot.term,
            snapshot,
            ..Cache::default()
        }
    }

    pub fn base_index(&self) -> u64 {
        self.base_index
    }

    pub fn end_index(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// The term of an index that the cache knows.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base_index {
            return Some(self.base_term);
        }
        let offset = index.checked_sub(self.base_index + 1)?;
        self.entries.get(offset as usize).map(|e| e.term)
    }

    /// Appends, dropping whatever the new entries overwrite.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.base_index && first.index <= self.end_index() + 1,
            "entries from {} do not join the log ({}, {}]",
            first.index,
            self.base_index,
            self.end_index()
        );
        self.entries
            .truncate((first.index - self.base_index - 1) as usize);
        self.entries.extend_from_slice(entries);
    }

    /// Forgets entries up to `index`.
    pub fn compact(&mut self, index: u64) {
        if index <= self.base_index {
            return;
        }
        let term = self.term_at(index).expect("compaction inside the log");
        self.entries.drain(..(index - self.base_index) as usize);
        self.entries.shrink_to(self.entries.len() + 1024);
        self.base_index = index;
        self.base_term = term;
    }

    /// Starts again after a snapshot that came from the leader.
    pub fn reset(&mut self, mark: SnapshotMark) {
        self.base_index = mark.index;
        self.base_term = mark.term;
        self.entries = Vec::new();
        self.snapshot = mark;
    }
}

impl Storage for Cache {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.snapshot.conf.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.end_index() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let first = (low - self.base_index - 1) as usize;
        let last = (high - self.base_index - 1) as usize;
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::with_capacity((last - first).min(1024));
        for entry in &self.entries[first..last] {
            size += entry_size(entry);
            if size > limit && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index < self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.term_at(index)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.end_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let mark = &self.snapshot;
        // The engine of a peer ignores a snapshot whose members do not include it.
        let usable =
            mark.index >= request_index && mark.index >= self.base_index && mark.includes(to);
        if mark.index == 0 || !usable {
            self.wanted.store(true, Ordering::Relaxed);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        meta.index = mark.index;
        meta.term = mark.term;
        meta.set_conf_state(mark.conf.clone());
        Ok(snapshot)
    }
}

/// The size that limits count: payload and the engine's overhead for an entry.
fn entry_size(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 24) as u64
}
