//! The log as its records on disk tell it, joined with the newest snapshot.

use raft::eraftpb::{Entry, HardState};

use crate::cache::{Cache, SnapshotMark};
use crate::codec::decode_groups;

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
