//! Groups (what one durable write holds) and frames (what one transport message holds).
//!
//! A group is: flags, then for each flag a fixed part, then entries. All numbers little-endian.

use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState, Message};

const HAS_STATE: u8 = 1;
const HAS_SNAPSHOT: u8 = 2;

/// One atomic change of the durable state.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Group {
    pub hard_state: Option<HardState>,
    pub snapshot: Option<(u64, u64)>,
    pub entries: Vec<Entry>,
}

/// Serialises one group.
pub fn encode_group(
    state: Option<&HardState>,
    snapshot: Option<(u64, u64)>,
    entries: &[Entry],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + entries.iter().map(|e| e.data.len() + 48).sum::<usize>());
    let flags = if state.is_some() { HAS_STATE } else { 0 }
        | if snapshot.is_some() { HAS_SNAPSHOT } else { 0 };
    out.push(flags);
    if let Some(state) = state {
        for number in [state.term, state.vote, state.commit] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    if let Some((index, term)) = snapshot {
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&term.to_le_bytes());
    }
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in entries {
        push_sized(&mut out, entry);
    }
    out
}

fn push_sized<M: protobuf::Message>(out: &mut Vec<u8>, message: &M) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    message.write_to_vec(out).expect("writing to memory");
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        if count > self.0.len() {
            return Err("record ends early".into());
        }
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(
            self.take(8)?.try_into().expect("8 bytes"),
        ))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(
            self.take(4)?.try_into().expect("4 bytes"),
        ))
    }

    fn sized(&mut self) -> Result<&'a [u8], String> {
        let length = self.u32()? as usize;
        self.take(length)
    }
}

/// Parses the groups of one record.
pub fn decode_groups(data: &[u8]) -> Result<Vec<Group>, String> {
    let mut reader = Reader(data);
    let mut groups = Vec::new();
    while !reader.0.is_empty() {
        groups.push(decode_group(&mut reader)?);
    }
    Ok(groups)
}

fn decode_group(reader: &mut Reader) -> Result<Group, String> {
    let flags = reader.take(1)?[0];
    let mut group = Group::default();
    if flags & HAS_STATE != 0 {
        let mut state = HardState::default();
        state.term = reader.u64()?;
        state.vote = reader.u64()?;
        state.commit = reader.u64()?;
        group.hard_state = Some(state);
    }
    if flags & HAS_SNAPSHOT != 0 {
        group.snapshot = Some((reader.u64()?, reader.u64()?));
    }
    for _ in 0..reader.u32()? {
        let entry = Entry::parse_from_bytes(reader.sized()?).map_err(|e| e.to_string())?;
        group.entries.push(entry);
    }
    Ok(group)
}

/// Packs messages into frames of about `limit` bytes, in order.
pub fn encode_frames(messages: &[Message], limit: usize) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = vec![Vec::new()];
    for message in messages {
        if frames.last().is_some_and(|f| f.len() >= limit) {
            frames.push(Vec::new());
        }
        push_sized(frames.last_mut().expect("one frame"), message);
    }
    frames
}

/// Unpacks a frame; what cannot be parsed ends it.
pub fn decode_frame(frame: &[u8]) -> (Vec<Message>, bool) {
    let mut reader = Reader(frame);
    let mut messages = Vec::new();
    while !reader.0.is_empty() {
        let parsed = reader
            .sized()
            .and_then(|body| Message::parse_from_bytes(body).map_err(|e| e.to_string()));
        match parsed {
            Ok(message) => messages.push(message),
            Err(_) => return (messages, false),
        }
    }
    (messages, true)
}
