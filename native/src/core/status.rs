//! What a host and its operator may know of the node; nothing here changes the engine.

use raft::{GetEntriesContext, ProgressState, StateRole, Storage as _};

use super::ready::Committed;
use super::Core;

/// One peer as the leader sees it; `active`: heard since the quorum check before the last one.
#[derive(Debug)]
pub struct Peer {
    pub id: u64,
    pub matched: u64,
    pub next: u64,
    pub state: &'static str,
    pub active: bool,
    pub learner: bool,
}

/// What a host follows of the engine's state.
#[derive(Debug, PartialEq, Clone, Copy)]
pub struct Outlook {
    pub role: &'static str,
    pub term: u64,
    pub leader: u64,
    pub commit: u64,
    pub last_index: u64,
    pub wants_snapshot: bool,
}

impl Core {
    pub fn role(&self) -> &'static str {
        match self.raw.raft.state {
            _ if self.removed => "removed",
            StateRole::Leader => "leader",
            StateRole::Candidate => "candidate",
            StateRole::PreCandidate => "pre-candidate",
            StateRole::Follower
                if self
                    .raw
                    .raft
                    .prs()
                    .conf()
                    .learners()
                    .contains(&self.settings.id) =>
            {
                "learner"
            }
            StateRole::Follower => "follower",
        }
    }

    /// What the host does not know yet: `None` if nothing changed since the last call. A snapshot
    /// that is wanted is told each time.
    pub fn news(&mut self) -> Option<Outlook> {
        let raft = &self.raw.raft;
        let outlook = Outlook {
            role: self.role(),
            term: raft.term,
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            last_index: raft.raft_log.last_index(),
            wants_snapshot: self.wants_snapshot(),
        };
        if self.told == Some(outlook) && !outlook.wants_snapshot {
            return None;
        }
        self.told = Some(outlook);
        Some(outlook)
    }

    /// The peers in order of id; empty on a node that does not lead.
    pub fn peers(&self) -> Vec<Peer> {
        if !self.is_leader() {
            return Vec::new();
        }
        let tracker = self.raw.raft.prs();
        let mut peers: Vec<Peer> = tracker
            .iter()
            .map(|(id, p)| Peer {
                id: *id,
                matched: p.matched,
                next: p.next_idx,
                state: progress_name(p.state),
                active: p.recent_active || self.heard.contains(id) || *id == self.settings.id,
                learner: tracker.conf().learners().contains(id),
            })
            .collect();
        peers.sort_by_key(|p| p.id);
        peers
    }

    /// How many reads wait for a quorum's answer.
    pub fn open_reads(&self) -> usize {
        self.reads.len()
    }

    /// Bytes of entries that are proposed and not yet committed.
    pub fn uncommitted_bytes(&self) -> usize {
        self.raw.raft.uncommitted_size()
    }

    /// All entries of the log, committed or not; for work on a data directory without the node.
    pub fn log_entries(&self) -> Vec<Committed> {
        let store = self.raw.store();
        let (first, end) = (store.base_index() + 1, store.end_index() + 1);
        let context = GetEntriesContext::empty(false);
        let entries = store.entries(first, end, None, context);
        let entries = entries.expect("the log holds what lies between its ends");
        entries.into_iter().map(|e| self.to_apply(e)).collect()
    }
}

fn progress_name(state: ProgressState) -> &'static str {
    match state {
        ProgressState::Probe => "probe",
        ProgressState::Replicate => "replicate",
        ProgressState::Snapshot => "snapshot",
    }
}
