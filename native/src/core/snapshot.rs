//! Snapshots: taken from the leader, offered to followers, and the log that they let go.

use std::sync::atomic::Ordering;

use raft::eraftpb::SnapshotMetadata;
use raft::SnapshotStatus;

use super::Core;
use crate::cache::SnapshotMark;

impl Core {
    /// Starts the log again after the leader's snapshot; returns its index and term.
    pub(super) fn restore(&mut self, meta: &SnapshotMetadata) -> (u64, u64) {
        let mark = SnapshotMark {
            index: meta.index,
            term: meta.term,
            conf: meta.get_conf_state().clone(),
        };
        self.raw.mut_store().reset(mark);
        (meta.index, meta.term)
    }

    /// A snapshot of the applied state is durable; offers it and forgets entries up to `compact_to`.
    pub fn compact(&mut self, mark: SnapshotMark, compact_to: u64) {
        let store = self.raw.mut_store();
        if mark.index > store.snapshot.index {
            store.snapshot = mark;
            store.wanted.store(false, Ordering::Relaxed);
        }
        let limit = compact_to.min(store.snapshot.index).min(store.end_index());
        store.compact(limit);
        self.settle(false);
    }

    /// Whether a peer waits for a snapshot newer than the one offered.
    pub fn wants_snapshot(&self) -> bool {
        self.is_leader() && self.raw.store().wanted.load(Ordering::Relaxed)
    }

    pub fn report_snapshot(&mut self, id: u64, finished: bool) {
        let status = if finished {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.raw.report_snapshot(id, status);
        self.settle(false);
    }
}
