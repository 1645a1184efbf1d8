//! What comes from the wire, and what of it reaches the engine.

use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::Core;
use crate::codec::decode_frame;

impl Core {
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
}
