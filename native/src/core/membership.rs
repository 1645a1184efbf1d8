//! Membership changes: one at a time, noticed when the engine swallows them, never left half done.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, EntryType,
};
use raft::RawNode;

use super::Core;
use crate::cache::Cache;
use crate::mutants::planted;

/// Why a membership change was not proposed.
#[derive(Debug, PartialEq, Clone, Copy)]
pub enum Refusal {
    NotLeader,
    NoEntryOfTerm,
    Pending,
    Dropped,
    Swallowed,
}

/// A membership change as applied: the members after it, its subject, and (kind, id) of what it asked for.
pub type AppliedChange = (ConfState, Bytes, Vec<(u8, u64)>);

impl Core {
    /// Proposes a membership change; `Ok` means that it stands in the log as a change.
    pub fn propose_change(
        &mut self,
        token: u64,
        changes: &[(u8, u64)],
        about: Bytes,
    ) -> Result<(), Refusal> {
        if !self.is_leader() || self.removed {
            return Err(Refusal::NotLeader);
        }
        let entry_of_term =
            self.raw.raft.commit_to_current_term() && self.raw.raft.apply_to_current_term();
        if !entry_of_term {
            return Err(Refusal::NoEntryOfTerm);
        }
        let pending = self.raw.raft.has_pending_conf() || raft_joint(&self.raw);
        if pending && !planted("swallowed_change_counts") {
            return Err(Refusal::Pending);
        }
        let mut change = ConfChangeV2::default();
        for (kind, id) in changes {
            let mut single = ConfChangeSingle::default();
            single.node_id = *id;
            single.set_change_type(change_type(*kind));
            change.mut_changes().push(single);
        }
        change.context = about;
        if planted("joint_for_ever") && changes.len() > 1 {
            change.set_transition(ConfChangeTransition::Explicit);
        }
        let outcome = self.append_change(self.context(token), &change);
        self.settle(false);
        outcome
    }

    pub(crate) fn append_change(
        &mut self,
        context: Bytes,
        change: &ConfChangeV2,
    ) -> Result<(), Refusal> {
        let before = self.raw.raft.raft_log.last_index();
        self.raw
            .propose_conf_change(context.to_vec(), change.clone())
            .map_err(|_| Refusal::Dropped)?;
        let taken = self
            .raw
            .raft
            .raft_log
            .unstable_entries()
            .last()
            .is_some_and(|e| {
                e.index > before && e.get_entry_type() == EntryType::EntryConfChangeV2
            });
        if taken || planted("swallowed_change_counts") {
            Ok(())
        } else {
            Err(Refusal::Swallowed)
        }
    }

    /// Applies a committed change; returns the members after it, its subject and what it asked for.
    pub fn apply_change(&mut self, data: &[u8]) -> Result<AppliedChange, String> {
        let change = ConfChangeV2::parse_from_bytes(data).map_err(|e| e.to_string())?;
        let was_member = is_member(
            &self.raw.raft.prs().conf().to_conf_state(),
            self.settings.id,
        );
        let state = match self.raw.apply_conf_change(&change) {
            Ok(state) => state,
            // The engine refused it before it changed anything, on every node alike.
            Err(_) => {
                return Ok((
                    self.raw.raft.prs().conf().to_conf_state(),
                    Bytes::new(),
                    Vec::new(),
                ))
            }
        };
        let stays = planted("removed_leader_stays");
        if !stays && was_member && !is_member(&state, self.settings.id) {
            self.removed = true;
        }
        let voter = state.voters.contains(&self.settings.id)
            || state.voters_outgoing.contains(&self.settings.id);
        if !stays && self.is_leader() && !voter {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        self.settle(false);
        Ok((state, change.context.clone(), asked_of(&change)))
    }

    /// Tells the engine what is applied, and leaves a joint membership that nobody else would leave.
    pub fn applied(&mut self, index: u64) {
        self.raw.advance_apply_to(index);
        self.leave_joint();
        self.settle(false);
    }

    fn leave_joint(&mut self) {
        if planted("joint_for_ever") {
            return;
        }
        let raft = &self.raw.raft;
        if self.is_leader()
            && raft_joint(&self.raw)
            && !raft.has_pending_conf()
            && raft.commit_to_current_term()
        {
            let _ = self.append_change(Bytes::new(), &ConfChangeV2::default());
        }
    }

    /// Members as the engine has applied them.
    pub fn conf_state(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
    }
}

fn is_member(state: &ConfState, id: u64) -> bool {
    [
        &state.voters,
        &state.learners,
        &state.voters_outgoing,
        &state.learners_next,
    ]
    .iter()
    .any(|l| l.contains(&id))
}

fn raft_joint(raw: &RawNode<Cache>) -> bool {
    !raw.raft
        .prs()
        .conf()
        .to_conf_state()
        .voters_outgoing
        .is_empty()
}

fn asked_of(change: &ConfChangeV2) -> Vec<(u8, u64)> {
    change
        .get_changes()
        .iter()
        .map(|c| (change_number(c.get_change_type()), c.node_id))
        .collect()
}

fn change_type(kind: u8) -> ConfChangeType {
    match kind {
        0 => ConfChangeType::AddNode,
        1 => ConfChangeType::RemoveNode,
        _ => ConfChangeType::AddLearnerNode,
    }
}

fn change_number(kind: ConfChangeType) -> u8 {
    match kind {
        ConfChangeType::AddNode => 0,
        ConfChangeType::RemoveNode => 1,
        ConfChangeType::AddLearnerNode => 2,
    }
}
