//! Who leads: elections, transfers, and giving up.

use raft::StateRole;

use super::{Core, Settings};

impl Core {
    /// Starts an election at once.
    pub fn campaign(&mut self) {
        if !self.removed && !self.never_leads {
            let _ = self.raw.campaign();
            self.settle(true);
        }
    }

    /// Starts handing leadership to a voter.
    pub fn transfer(&mut self, to: u64) -> bool {
        if !self.is_leader()
            || !self.raw.raft.prs().conf().voters().contains(to)
            || to == self.settings.id
        {
            return false;
        }
        self.raw.transfer_leader(to);
        self.settle(false);
        self.raw.raft.lead_transferee == Some(to)
    }

    /// Gives up leadership within the term.
    pub fn step_down(&mut self) {
        if self.is_leader() {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.settle(false);
        }
    }

    /// From now on the node does not lead: it follows and votes only.
    pub fn never_lead(&mut self) {
        self.never_leads = true;
        if self.raw.raft.state != StateRole::Follower {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        self.settle(false);
    }
}

/// A number of ticks in [election_tick, 2 x election_tick): a function of seed, node, term and draw.
pub(crate) fn election_timeout(settings: &Settings, term: u64, draws: u64) -> usize {
    let mut x = settings.seed ^ settings.id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for part in [term, draws] {
        x = x.wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
    }
    settings.election_tick + (x % settings.election_tick as u64) as usize
}
