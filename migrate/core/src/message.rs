//! What the two sides of a migration say to each other.

mod codec;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{PeerId, RemoteRegion};

use crate::item::{Item, ItemId};

pub(crate) use codec::{item_len_bytes, read_cut, read_migration, write_cut, write_migration};

/// Names one attempt of one process to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigrationId {
    /// The process that leaves.
    pub source: PeerId,
    /// The generation that is true while it leaves; the next one ends the migration.
    pub generation: u64,
    /// Which of its attempts this is.
    pub attempt: u32,
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from generation {}, attempt {}", self.source, self.generation, self.attempt)
    }
}

/// A message between a source and one of its targets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Which migration it is about.
    pub migration: MigrationId,
    /// What it says.
    pub body: Body,
}

/// What a [`Message`] says. `Offer`, `Sent`, `Cut`, `Finished` and `Deadline` come from the source, the others from a
/// target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// Takes over, or takes over more.
    Offer(Offer),
    /// What a target has of its own items from an earlier attempt, verified as it landed then. It comes before the grants that
    /// name this very memory, which the source can write without it: a target that has nothing says nothing, and a source that
    /// doesn't know this message sends everything.
    Kept {
        /// Which ranges of which items, with checksums.
        items: Vec<(ItemId, Landed)>,
    },
    /// Memory for a target's own items of one offer.
    Grants {
        /// Which offer it answers.
        sequence: u32,
        /// Where each item goes.
        grants: Vec<(ItemId, RemoteRegion)>,
    },
    /// The target doesn't take part.
    Refuse {
        /// Why.
        refusal: Refusal,
    },
    /// All bytes of an item were applied at the target.
    Sent {
        /// The item.
        item: ItemId,
        /// Which content it is.
        version: u64,
        /// CRC-32C of the bytes as they were read at the source.
        crc32c: u32,
        /// Which sending of the item this was, counted from 1.
        send: u32,
    },
    /// An item is there, whole and verified.
    Landed {
        /// The item.
        item: ItemId,
        /// Which sending of it.
        send: u32,
    },
    /// An item's bytes differ from what was read at the source: it must be sent again.
    Damaged {
        /// The item.
        item: ItemId,
        /// Which sending of it.
        send: u32,
    },
    /// The offers are complete: nothing is added any more.
    Cut(Cut),
    /// The source sends nothing more to this target.
    Finished {
        /// The target's items that it doesn't send, on purpose or because it couldn't.
        skipped: Vec<ItemId>,
    },
    /// The deadline came nearer.
    Deadline {
        /// What is left.
        time_left: Duration,
    },
}

impl Body {
    /// The word for it in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offer(_) => "offer",
            Self::Kept { .. } => "kept",
            Self::Grants { .. } => "grants",
            Self::Refuse { .. } => "refuse",
            Self::Sent { .. } => "sent",
            Self::Landed { .. } => "landed",
            Self::Damaged { .. } => "damaged",
            Self::Cut(_) => "cut",
            Self::Finished { .. } => "finished",
            Self::Deadline { .. } => "deadline",
        }
    }
}

/// Items that the source hands over: those of all its targets, so that any survivor can judge what is covered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offer {
    /// Which offer of the migration this is, counted from 0 without gaps.
    pub sequence: u32,
    /// What is left until the deadline.
    pub time_left: Duration,
    /// All ranks that take over. Only in the first offer.
    pub targets: Vec<u32>,
    /// Who owns what afterwards: all shards by name, and the rank of each. Only in the first offer.
    pub owners_after: Vec<(String, u32)>,
    /// The items that this offer adds, inputs before what is computed from them.
    pub items: Vec<Item>,
}

/// What the source says when nothing is added any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cut {
    /// How many items all offers have together: who has fewer doesn't know the whole manifest.
    pub total_items: u32,
    /// Travels with the commit: cursor, step, whatever the new owners must know. Opaque here.
    pub record: Bytes,
}

/// Why a target doesn't take part.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The migration is based on another generation than the one that the target knows to be true.
    #[error("generation {known} is true here, and the offer is based on generation {offered}")]
    OtherGeneration {
        /// What the offer is based on.
        offered: u64,
        /// What the target knows.
        known: u64,
    },
    /// The offer doesn't name this rank.
    #[error("rank {rank} is not among the targets of the offer")]
    NotATarget {
        /// The rank that was asked.
        rank: u32,
    },
    /// There is not enough memory.
    #[error("{needed_bytes} bytes don't fit; rank {rank} takes at most {available_bytes} bytes of others' migrations")]
    OutOfMemory {
        /// The rank that was asked.
        rank: u32,
        /// What the items so far take.
        needed_bytes: u64,
        /// What there is for them.
        available_bytes: u64,
    },
    /// The target goes away itself.
    #[error("rank {rank} leaves, too")]
    Leaving {
        /// The rank that was asked.
        rank: u32,
    },
    /// The offer's items make no manifest.
    #[error("the offer makes no sense: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// Memory could not be allocated or granted.
    #[error("no memory could be granted: {reason}")]
    Allocation {
        /// What the system said.
        reason: String,
    },
}
