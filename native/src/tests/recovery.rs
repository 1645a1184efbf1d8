//! The log on disk and in memory.

use raft::eraftpb::MessageType;

use super::harness::{entry, mark, message, node, settings, state};
use crate::cache::{Cache, SnapshotMark};
use crate::codec::{decode_groups, encode_frames, encode_group};
use crate::core::Core;
use crate::recovery::recover;

#[test]
fn groups_come_back_as_written() {
    let one = encode_group(Some(&state(3, 2)), None, &[entry(2, 3), entry(3, 3)]);
    let two = encode_group(None, Some((9, 4)), &[]);
    let groups = decode_groups(&[one.clone(), two].concat()).expect("groups");
    assert_eq!(groups[0].entries.len(), 2);
    assert_eq!(groups[0].hard_state.as_ref().expect("state").term, 3);
    assert_eq!(groups[1].snapshot, Some((9, 4)));
    for cut in 1..one.len() {
        assert!(decode_groups(&one[..cut]).is_err());
    }
}

#[test]
fn recovery_lets_later_entries_overwrite() {
    let first = encode_group(
        Some(&state(2, 1)),
        None,
        &[entry(2, 2), entry(3, 2), entry(4, 2)],
    );
    let second = encode_group(Some(&state(3, 2)), None, &[entry(3, 3)]);
    let cache = recover(mark(&[1]), &[&first, &second]).expect("a log");
    assert_eq!(
        (cache.end_index(), cache.term_at(3), cache.hard_state.term),
        (3, Some(3), 3)
    );
}

#[test]
fn recovery_names_the_record_that_jumps() {
    let first = encode_group(Some(&state(2, 1)), None, &[entry(2, 2)]);
    let second = encode_group(None, None, &[entry(5, 2)]);
    assert_eq!(
        recover(mark(&[1]), &[&first, &second])
            .expect_err("a gap")
            .0,
        1
    );
}

#[test]
fn recovery_refuses_a_commit_beyond_the_end() {
    let first = encode_group(Some(&state(2, 9)), None, &[entry(2, 2)]);
    assert!(recover(mark(&[1]), &[&first]).is_err());
}

#[test]
fn recovery_refuses_a_log_that_starts_too_late() {
    let first = encode_group(Some(&state(2, 7)), None, &[entry(7, 2)]);
    assert!(recover(mark(&[1]), &[&first]).is_err());
}

#[test]
fn recovery_joins_log_and_newer_snapshot() {
    let log = encode_group(
        Some(&state(2, 1)),
        None,
        &[entry(2, 2), entry(3, 2), entry(4, 2)],
    );
    let newer = |index, term| SnapshotMark {
        index,
        term,
        ..mark(&[1])
    };
    let inside = recover(newer(3, 2), &[&log]).expect("a log");
    assert_eq!(
        (
            inside.base_index(),
            inside.end_index(),
            inside.hard_state.commit
        ),
        (3, 4, 3)
    );
    let beyond = recover(newer(9, 5), &[&log]).expect("a log");
    assert_eq!(
        (
            beyond.end_index(),
            beyond.hard_state.term,
            beyond.hard_state.vote
        ),
        (9, 5, 0)
    );
    let other = recover(newer(3, 4), &[&log]).expect("a log");
    assert_eq!(other.end_index(), 3);
}

/// A crash may come after a snapshot got its name and before the log was told of it.
#[test]
fn log_that_disagrees_with_its_snapshot_is_mended() {
    let old = encode_group(
        Some(&state(2, 1)),
        None,
        &[entry(2, 2), entry(3, 2), entry(4, 2), entry(5, 2)],
    );
    let newer = SnapshotMark {
        index: 4,
        term: 3,
        ..mark(&[1])
    };
    let core =
        Core::new(settings(1), recover(newer.clone(), &[&old]).expect("a log")).expect("a core");
    let mending = core.mending_group();
    let more = encode_group(Some(&state(3, 4)), None, &[entry(5, 3), entry(6, 3)]);
    let cache = recover(newer.clone(), &[&old, &mending, &more]).expect("a log");
    assert_eq!((cache.base_index(), cache.end_index()), (4, 6));
    let agreed = Core::new(settings(1), cache).expect("a core");
    assert!(agreed.mending_group().is_empty());
}

#[test]
fn recovery_starts_anew_after_an_installed_snapshot() {
    let old = encode_group(Some(&state(2, 3)), None, &[entry(2, 2), entry(3, 2)]);
    let reset = encode_group(Some(&state(4, 8)), Some((8, 4)), &[]);
    let more = encode_group(None, None, &[entry(9, 4)]);
    let newer = SnapshotMark {
        index: 8,
        term: 4,
        ..mark(&[1])
    };
    let cache = recover(newer, &[&old, &reset, &more]).expect("a log");
    assert_eq!((cache.base_index(), cache.end_index()), (8, 9));
    assert!(recover(mark(&[1]), &[&old, &reset, &more]).is_err());
}

#[test]
fn restart_remembers_term_vote_and_log() {
    let mut core = node(1, &[1, 2, 3]);
    core.campaign();
    let mut records = Vec::new();
    while let Some(out) = core.ready() {
        records.push(out.group);
        core.persisted(out.number);
    }
    let mut grant = message(MessageType::MsgRequestPreVoteResponse, 2, 1);
    grant.term = core.raw.raft.term + 1;
    core.step_frame(&encode_frames(&[grant], 1 << 20)[0]);
    while let Some(out) = core.ready() {
        records.push(out.group);
        core.persisted(out.number);
    }
    let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    let again = Core::new(
        settings(1),
        recover(mark(&[1, 2, 3]), &slices).expect("a log"),
    )
    .expect("a core");
    assert_eq!(
        (again.raw.raft.term, again.raw.raft.vote),
        (core.raw.raft.term, 1)
    );
}

#[test]
fn cache_keeps_to_its_bounds() {
    let mut cache = Cache::new(mark(&[1]));
    cache.append(&[entry(2, 1), entry(3, 1), entry(4, 2)]);
    cache.compact(3);
    assert_eq!(
        (cache.base_index(), cache.term_at(3), cache.term_at(2)),
        (3, Some(1), None)
    );
    cache.append(&[entry(4, 3)]);
    assert_eq!((cache.end_index(), cache.term_at(4)), (4, Some(3)));
}
