//! The engine behind guards: what tikv/raft-rs 0.7.0 leaves to its host is settled here.
//!
//! The node, its clock and its reads are here; the files of `core/` add what else a host does with it.

use std::collections::VecDeque;

use raft::eraftpb::HardState;
use raft::{Config, RawNode, ReadOnlyOption, StateRole};

use crate::cache::Cache;
use crate::mutants::planted;
use crate::reads::ReadTable;

pub(crate) mod election;
pub(crate) mod membership;
mod proposals;
pub(crate) mod ready;
mod snapshot;
pub(crate) mod status;
mod step;

use election::election_timeout;
use status::Outlook;

/// The bounds and the identity of one node.
#[derive(Clone, Debug)]
pub struct Settings {
    pub id: u64,
    pub seed: u64,
    pub incarnation: u64,
    pub election_tick: usize,
    pub heartbeat_tick: usize,
    pub max_size_per_msg: u64,
    pub max_inflight: usize,
    pub max_uncommitted: u64,
    pub max_committed: u64,
}

type Mark = (u64, StateRole);

pub struct Core {
    pub raw: RawNode<Cache>,
    pub settings: Settings,
    pub removed: bool,
    pub never_leads: bool,
    pub refused_messages: u64,
    pub(crate) draws: u64,
    mark: Mark,
    told: Option<Outlook>,
    reads: ReadTable,
    heard: Vec<u64>,
    durable: HardState,
    unsaved: VecDeque<(u64, HardState)>,
}

fn raft_config(settings: &Settings, applied: u64) -> Config {
    Config {
        id: settings.id,
        election_tick: settings.election_tick,
        heartbeat_tick: settings.heartbeat_tick,
        applied,
        max_size_per_msg: settings.max_size_per_msg,
        max_inflight_msgs: settings.max_inflight,
        check_quorum: true,
        pre_vote: true,
        read_only_option: if planted("reads_by_lease") {
            ReadOnlyOption::LeaseBased
        } else {
            ReadOnlyOption::Safe
        },
        // Never true: the engine joins entries to a waiting empty append of another position, and
        // the follower then acknowledges entries that it does not have.
        batch_append: planted("appends_are_joined"),
        max_uncommitted_size: if planted("uncommitted_without_bound") {
            u64::MAX
        } else {
            settings.max_uncommitted
        },
        max_committed_size_per_ready: settings.max_committed,
        ..Config::default()
    }
}

impl Core {
    /// Starts from a recovered log; everything up to its snapshot counts as applied.
    pub fn new(settings: Settings, cache: Cache) -> Result<Self, String> {
        assert!(
            settings.max_uncommitted > 0 && settings.max_size_per_msg > 0,
            "bounds are set"
        );
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let durable = cache.hard_state.clone();
        let config = raft_config(&settings, cache.snapshot.index);
        let raw = RawNode::new(&config, cache, &logger).map_err(|e| e.to_string())?;
        let mark = (raw.raft.term, raw.raft.state);
        let mut core = Core {
            reads: ReadTable::new(settings.incarnation),
            heard: Vec::new(),
            raw,
            settings,
            removed: false,
            never_leads: false,
            refused_messages: 0,
            draws: 0,
            mark,
            told: None,
            durable,
            unsaved: VecDeque::new(),
        };
        core.settle(true);
        Ok(core)
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Runs after every call that may change the engine: pins the election timeout and forgets reads of old terms.
    fn settle(&mut self, campaigned: bool) {
        let mark = (self.raw.raft.term, self.raw.raft.state);
        if mark != self.mark || campaigned {
            self.draws += 1;
        }
        if mark != self.mark {
            self.reads.clear();
            self.heard.clear();
            self.mark = mark;
        }
        let mut timeout = election_timeout(&self.settings, self.raw.raft.term, self.draws);
        if self.never_leads {
            timeout = 2 * self.settings.election_tick - 1;
        }
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    /// One tick of the logical clock.
    pub fn tick(&mut self) {
        if self.removed {
            return;
        }
        let was_leader = self.is_leader();
        if self.never_leads {
            // So long without a leader that it grants votes, never so long that it asks for them.
            let raft = &mut self.raw.raft;
            raft.election_elapsed = raft.election_elapsed.min(self.settings.election_tick - 1);
        }
        let transferee = self.raw.raft.lead_transferee;
        if was_leader && self.raw.raft.election_elapsed + 1 >= self.settings.election_tick {
            // The quorum check of this tick forgets who was heard: a host that always looks right
            // after it would never see anybody active.
            let tracker = self.raw.raft.prs();
            self.heard = tracker
                .iter()
                .filter(|(_, p)| p.recent_active)
                .map(|(id, _)| *id)
                .collect();
        }
        let fired = self.raw.tick();
        if planted("transfer_never_ends") && self.is_leader() {
            self.raw.raft.lead_transferee = self.raw.raft.lead_transferee.or(transferee);
        }
        self.settle(fired && !was_leader);
    }

    /// Takes frames from the wire, then ticks of the logical clock.
    pub fn advance<F: AsRef<[u8]>>(&mut self, frames: &[F], ticks: u64) {
        for frame in frames {
            self.step_frame(frame.as_ref());
        }
        for _ in 0..ticks {
            self.tick();
        }
    }

    /// Asks for a read index; false: there is nobody to ask now.
    pub fn read_index(&mut self, token: u64) -> bool {
        let raft = &self.raw.raft;
        let able = if self.is_leader() {
            raft.commit_to_current_term()
        } else {
            raft.leader_id != 0
        };
        if self.removed || !able {
            return false;
        }
        let context = self.reads.issue(token, self.raw.raft.term);
        self.raw.read_index(context.to_vec());
        self.settle(false);
        true
    }

    pub fn report_unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
        self.settle(false);
    }
}
