//! The engine behind guards: what tikv/raft-rs 0.7.0 leaves to its host is settled here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, HardState, Message, MessageType,
};
use raft::{
    Config, GetEntriesContext, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole,
    Storage as _,
};

use crate::cache::{entry_size, Cache, SnapshotMark};
use crate::codec::{decode_frame, decode_groups, encode_frames, encode_group};
use crate::mutants::planted;
use crate::reads::ReadTable;

const FRAME_BYTES: usize = 1 << 20;
pub const CONTEXT_BYTES: usize = 16;

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

/// Why a membership change was not proposed.
#[derive(Debug, PartialEq, Clone, Copy)]
pub enum Refusal {
    NotLeader,
    NoEntryOfTerm,
    Pending,
    Dropped,
    Swallowed,
}

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

type Mark = (u64, StateRole);

/// A membership change as applied: the members after it, its subject, and (kind, id) of what it asked for.
pub type AppliedChange = (ConfState, Bytes, Vec<(u8, u64)>);

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

/// Rebuilds the log after `mark` from the records on disk.
///
/// The error names the record at fault.
pub fn recover(mark: SnapshotMark, records: &[&[u8]]) -> Result<Cache, (usize, String)> {
    let mut state = HardState::default();
    let mut base: Option<(u64, u64)> = None;
    let mut entries: Vec<Entry> = Vec::new();
    for (place, record) in records.iter().enumerate() {
        for group in decode_groups(record).map_err(|e| (place, e))? {
            if let Some(found) = group.hard_state {
                state = found;
            }
            if let Some(found) = group.snapshot {
                base = Some(found);
                entries.clear();
            }
            let Some(first) = group.entries.first() else {
                continue;
            };
            let start = *base.get_or_insert((first.index - 1, 0));
            let end = start.0 + entries.len() as u64;
            if first.index <= start.0 {
                entries.clear();
                base = Some((first.index - 1, 0));
            } else if first.index > end + 1 {
                return Err((place, format!("entries jump from {end} to {}", first.index)));
            } else {
                entries.truncate((first.index - start.0 - 1) as usize);
            }
            entries.extend(group.entries);
        }
    }
    join(mark, state, base, entries).map_err(|e| (records.len(), e))
}

fn join(
    mark: SnapshotMark,
    mut state: HardState,
    base: Option<(u64, u64)>,
    entries: Vec<Entry>,
) -> Result<Cache, String> {
    let start = base.map_or(mark.index, |b| b.0);
    if start > mark.index {
        return Err(format!(
            "the log starts after {start}, the newest snapshot is of {}",
            mark.index
        ));
    }
    let term_of = |index: u64| match index.checked_sub(start + 1) {
        None => base.map(|b| b.1),
        Some(offset) => entries.get(offset as usize).map(|e| e.term),
    };
    let same = term_of(mark.index)
        .is_some_and(|term| term == mark.term || (mark.index == start && term == 0));
    if state.term < mark.term {
        state = HardState::default();
        state.term = mark.term;
    }
    let mut cache = Cache::new(mark.clone());
    cache.discordant = !same && base.is_some();
    if same {
        cache.append(&entries[(mark.index - start) as usize..]);
    }
    state.commit = state.commit.max(mark.index);
    if state.commit > cache.end_index() {
        return Err(format!(
            "{} is committed, the log ends at {}",
            state.commit,
            cache.end_index()
        ));
    }
    cache.hard_state = state;
    Ok(cache)
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

    /// Starts an election at once.
    pub fn campaign(&mut self) {
        if !self.removed && !self.never_leads {
            let _ = self.raw.campaign();
            self.settle(true);
        }
    }

    /// Takes frames from the wire; returns how many messages were refused.
    pub fn step_frame(&mut self, frame: &[u8]) -> u64 {
        let before = self.refused_messages;
        let (messages, whole) = decode_frame(frame);
        if !whole {
            self.refused_messages += 1;
        }
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.refused_messages += 1;
            } else {
                self.step(message);
            }
        }
        self.refused_messages - before
    }

    /// Takes a snapshot message whose data the caller already holds.
    pub fn step_snapshot(&mut self, message: &[u8]) -> Result<(), String> {
        let message = Message::parse_from_bytes(message).map_err(|e| e.to_string())?;
        if message.get_msg_type() != MessageType::MsgSnapshot {
            return Err("not a snapshot message".into());
        }
        self.step(message);
        Ok(())
    }

    fn step(&mut self, mut message: Message) {
        if self.removed || !self.accepts(&message) {
            self.refused_messages += 1;
            return;
        }
        if message.get_msg_type() == MessageType::MsgReadIndex {
            let Some(context) = self.reads.admit(&message, self.raw.raft.term) else {
                self.refused_messages += 1;
                return;
            };
            message.mut_entries()[0].data = context;
        }
        if self.raw.step(message).is_err() {
            self.refused_messages += 1;
        }
        self.settle(false);
    }

    /// Which messages of the wire reach the engine.
    fn accepts(&self, message: &Message) -> bool {
        if message.to != self.settings.id || message.from == 0 || message.from == self.settings.id {
            return false;
        }
        let raft = &self.raw.raft;
        match message.get_msg_type() {
            // Nobody forwards proposals or transfers: a controller's command binds the leader that decided it.
            MessageType::MsgPropose | MessageType::MsgTransferLeader => false,
            MessageType::MsgReadIndex => {
                self.is_leader()
                    && raft.prs().get(message.from).is_some()
                    && message.entries.len() == 1
            }
            MessageType::MsgReadIndexResp => message.entries.len() == 1,
            MessageType::MsgTimeoutNow => {
                !self.never_leads && message.term == raft.term && message.from == raft.leader_id
            }
            // A rejection older than what the peer has acknowledged since would move `next` below `matched`.
            MessageType::MsgAppendResponse if message.reject && self.is_leader() => raft
                .prs()
                .get(message.from)
                .is_none_or(|p| message.term > raft.term || message.index > p.matched),
            _ => true,
        }
    }

    /// Proposes entries as one batch; false: none was taken.
    pub fn propose(&mut self, proposals: Vec<(u64, Bytes)>) -> bool {
        if !self.is_leader() || self.removed || proposals.is_empty() {
            return false;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.id;
        let entries: Vec<Entry> = proposals
            .into_iter()
            .map(|(token, data)| {
                let mut entry = Entry::default();
                entry.data = data;
                entry.context = self.context(token);
                entry
            })
            .collect();
        message.set_entries(entries.into());
        let taken = self.raw.raft.step(message).is_ok();
        self.settle(false);
        taken
    }

    pub(crate) fn context(&self, token: u64) -> Bytes {
        let mut context = Vec::with_capacity(CONTEXT_BYTES);
        context.extend_from_slice(&self.settings.incarnation.to_be_bytes());
        context.extend_from_slice(&token.to_be_bytes());
        context.into()
    }

    fn token(&self, context: &[u8]) -> u64 {
        let own = context.len() == CONTEXT_BYTES
            && context[..8] == self.settings.incarnation.to_be_bytes();
        if own {
            u64::from_be_bytes(context[8..].try_into().expect("8 bytes"))
        } else {
            0
        }
    }

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
        if !entry_of_term && !planted("change_before_own_entry") {
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

    /// All entries of the log, committed or not; for work on a data directory without the node.
    pub fn log_entries(&self) -> Vec<Committed> {
        let store = self.raw.store();
        let (first, end) = (store.base_index() + 1, store.end_index() + 1);
        let context = GetEntriesContext::empty(false);
        let entries = store.entries(first, end, None, context);
        let entries = entries.expect("the log holds what lies between its ends");
        entries.into_iter().map(|e| self.to_apply(e)).collect()
    }

    pub fn report_unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
        self.settle(false);
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
            let meta = ready.snapshot().get_metadata();
            let mark = SnapshotMark {
                index: meta.index,
                term: meta.term,
                conf: meta.get_conf_state().clone(),
            };
            out.snapshot = Some((mark.index, mark.term));
            self.raw.mut_store().reset(mark);
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

    fn to_apply(&self, entry: Entry) -> Committed {
        Committed {
            index: entry.index,
            term: entry.term,
            conf_change: entry.get_entry_type() != EntryType::EntryNormal,
            token: self.token(&entry.context),
            data: entry.data,
        }
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

    /// Members as the engine has applied them.
    pub fn conf_state(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
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
}

/// How much one proposal counts against `max_uncommitted`.
pub fn proposal_size(data: &[u8]) -> u64 {
    let mut entry = Entry::default();
    entry.data = Bytes::copy_from_slice(data);
    entry_size(&entry) + CONTEXT_BYTES as u64
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

fn progress_name(state: ProgressState) -> &'static str {
    match state {
        ProgressState::Probe => "probe",
        ProgressState::Replicate => "replicate",
        ProgressState::Snapshot => "snapshot",
    }
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

/// A number of ticks in [election_tick, 2 x election_tick): a function of seed, node, term and draw.
pub fn election_timeout(settings: &Settings, term: u64, draws: u64) -> usize {
    let mut x = settings.seed ^ settings.id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for part in [term, draws] {
        x = x.wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
    }
    settings.election_tick + (x % settings.election_tick as u64) as usize
}
