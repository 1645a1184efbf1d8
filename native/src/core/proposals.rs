//! Commands on their way into the log, and the token by which their proposer knows them again.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};

use super::Core;

const CONTEXT_BYTES: usize = 16;

impl Core {
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

    pub(super) fn token(&self, context: &[u8]) -> u64 {
        let own = context.len() == CONTEXT_BYTES
            && context[..8] == self.settings.incarnation.to_be_bytes();
        if own {
            u64::from_be_bytes(context[8..].try_into().expect("8 bytes"))
        } else {
            0
        }
    }
}
