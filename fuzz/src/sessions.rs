//! A peer and a store that say whatever they like to one side of a migration, whose driver is honest.
//!
//! The input is a list of records, each a kind, a length (`u16`) and that many bytes. The other side's messages and
//! the store's values are decoded from them as they would be from the wire; a session may refuse them, and must not panic,
//! ask for more than it may, or stay undecided once its time is over.

mod source;
mod target;

pub use source::source;
pub use target::target;

use xfer_migrate_core::{GenerationRecord, Message, MigrationId};
use xfer_transport_core::PeerId;

const SOURCE: PeerId = PeerId { rank: 0, incarnation: 1 };
const MIGRATION: MigrationId = MigrationId { source: SOURCE, generation: 0, attempt: 1 };

/// More than any exchange about a few items needs; beyond it, a session talks to itself.
const STEPS_MAX: usize = 10_000;

/// A session has a handful of timers, each of which is due a few times at most.
const TIMEOUTS_MAX: usize = 64;

fn first_generation() -> GenerationRecord {
    GenerationRecord::initial(vec![("a".into(), 0), ("b".into(), 1)])
}

/// The message of bytes from a peer, about this migration whatever the bytes say.
fn message(bytes: &[u8]) -> Option<Message> {
    Message::decode(bytes).ok().map(|message| Message { migration: MIGRATION, ..message })
}

/// One of the processes that there are.
fn peer(payload: &[u8]) -> PeerId {
    PeerId { rank: u32::from(first(payload) % 4), incarnation: 1 }
}

fn first(payload: &[u8]) -> u8 {
    payload.first().copied().unwrap_or_default()
}

/// The records of an input; the last one may be cut short.
pub(crate) struct Records<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, low, high], rest) = self.0.split_first_chunk()?;
        let (payload, rest) = rest.split_at(rest.len().min(u16::from_le_bytes([low, high]).into()));
        self.0 = rest;
        Some((kind, payload))
    }
}
