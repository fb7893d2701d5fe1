//! One migration seen from one side: [`SourceSession`] and [`TargetSession`].
//!
//! A session is a state machine without I/O. Whoever runs it calls [`handle`](SourceSession::handle) with what
//! happened, [`handle_timeout`](SourceSession::handle_timeout) when the time of
//! [`poll_timeout`](SourceSession::poll_timeout) has come, and after each of them does what
//! [`poll_output`](SourceSession::poll_output) says until it says nothing more.
//!
//! ```text
//!  source                          target                              store
//!    | Offer 0, 1, ..                |                                    |
//!    |------------------------------>| Allocate                           |
//!    |                  Kept, Grants |                                    |
//!    |<------------------------------|                                    |
//!    | Compare, Write .. Sent        |                                    |
//!    |------------------------------>| Verify                             |
//!    |             Landed or Damaged |                                    |
//!    |<------------------------------|                                    |
//!    | Cut, Finished                 |                                    |
//!    |------------------------------>| FenceAll, PublishSeal              |
//!    |                               |----------------------------------->| create
//!    |                               | all seals: Propose generation g+1  |
//!    |                               |----------------------------------->| compare and swap
//!    |<-------------------------------------------------------------------| whichever record won
//! ```
//!
//! The source isn't needed from the moment in which it is gone: targets seal what they have, and any of them
//! proposes. Whatever the store's next generation says, everybody obeys, also the source.

mod decision;
mod error;
mod ignored;
mod inbox;
mod outbox;
mod source;
mod state;
mod target;

use bytes::Bytes;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, RateInterval, RemoteRegion};

use crate::generation::GenerationRecord;
use crate::item::{Item, ItemId};
use crate::message::Message;
use crate::plan::Verdict;
use crate::seal::Seal;

pub use error::Violation;
pub use source::{SourceConfig, SourceConfigError, SourceSession, SourceState};
pub use state::Transition;
pub use target::{TargetConfig, TargetSession, TargetState};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    // Either side.
    /// A message came.
    Message {
        /// Who sent it, as the transport knows it.
        from: PeerId,
        /// What it says.
        message: Message,
    },
    /// A process is gone, as the transport noticed.
    PeerGone {
        /// Which process.
        peer: PeerId,
        /// How it was noticed.
        reason: String,
    },
    /// This process is to leave by `deadline`. A source's deadline only comes nearer: a later one is ignored. A
    /// target refuses to be one, unless it has sealed.
    Notice {
        /// The moment after which it may be gone.
        deadline: Deadline,
    },
    /// The store holds this generation: read, watched, or found when a proposal was written. Older ones than the known
    /// one change nothing.
    GenerationSeen {
        /// The record.
        record: GenerationRecord,
    },
    /// The store can't be reached, or doesn't know what became of a proposal or a seal.
    StoreLost {
        /// What the store's client said.
        reason: String,
    },

    // At the source.
    /// There is more to hand over.
    Items(Vec<Item>),
    /// Nothing is added any more.
    Cut {
        /// Travels with the commit; its length is limited by
        /// [`RECORD_LEN_BYTES_MAX`](crate::limits::RECORD_LEN_BYTES_MAX).
        record: Bytes,
    },
    /// The process stays after all.
    Withdraw {
        /// Why, in words.
        reason: String,
    },
    /// What the link carries was measured anew.
    Rate(RateInterval),
    /// A write was applied as a whole at the target.
    Written {
        /// The item.
        item: ItemId,
        /// CRC-32C of the bytes as they were read here.
        crc32c: u32,
    },
    /// A write ended otherwise; no byte of it will be written any more.
    WriteFailed {
        /// The item.
        item: ItemId,
        /// Whether it may work when it is tried again.
        retry: bool,
        /// What the transport said.
        reason: String,
    },

    /// The answer to [`Output::Compare`].
    Compared {
        /// The item.
        item: ItemId,
        /// What of it is at its target: those of the ranges that were asked about whose checksums are those of the bytes here.
        there: Landed,
    },

    // At a target.
    /// What is there of items whose memory is being allocated, verified as it landed in an earlier attempt. Comes before the
    /// answer to their [`Output::Allocate`], from which on the source may write there.
    Kept {
        /// Which ranges of which items, with checksums.
        items: Vec<(ItemId, Landed)>,
    },
    /// The answer to one [`Output::Allocate`]; these are answered in order.
    Allocated {
        /// Where each of its items goes. A grant is as long as its item.
        grants: Vec<(ItemId, RemoteRegion)>,
    },
    /// The other answer to [`Output::Allocate`].
    AllocationFailed {
        /// What the system said.
        reason: String,
    },
    /// The answer to [`Output::Verify`].
    Verified {
        /// The item.
        item: ItemId,
        /// The digest that it was compared with.
        crc32c: u32,
        /// Whether its bytes have that digest.
        ok: bool,
    },
    /// The answer to [`Output::FenceAll`].
    Fenced,
    /// The store holds this seal: this target's own, once it was written, or another one's.
    SealSeen {
        /// The seal.
        seal: Seal,
    },
}

impl Input {
    /// The word for it in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Message { message, .. } => message.body.name(),
            Self::PeerGone { .. } => "peer gone",
            Self::Notice { .. } => "notice",
            Self::GenerationSeen { .. } => "generation seen",
            Self::StoreLost { .. } => "store lost",
            Self::Items(_) => "items",
            Self::Cut { .. } => "cut",
            Self::Withdraw { .. } => "withdraw",
            Self::Rate(_) => "rate",
            Self::Written { .. } => "written",
            Self::WriteFailed { .. } => "write failed",
            Self::Compared { .. } => "compared",
            Self::Kept { .. } => "kept",
            Self::Allocated { .. } => "allocated",
            Self::AllocationFailed { .. } => "allocation failed",
            Self::Verified { .. } => "verified",
            Self::Fenced => "fenced",
            Self::SealSeen { .. } => "seal seen",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output {
    /// Send a message. Messages to one rank must arrive in order, or not at all.
    Send {
        /// To whom.
        to: u32,
        /// What.
        message: Message,
    },
    /// Compare what a target has kept of an item with the item's own bytes; answered by [`Input::Compared`]. There is one at a
    /// time.
    Compare {
        /// The item.
        item: ItemId,
        /// What the target says that it has.
        kept: Landed,
    },
    /// Write an item into granted memory; answered by [`Input::Written`] or [`Input::WriteFailed`].
    Write {
        /// The item.
        item: ItemId,
        /// The rank that granted the memory.
        to: u32,
        /// Where.
        remote: RemoteRegion,
        /// What of it is there, and needs not be written. The checksum that is told in the end is over all of it.
        there: Landed,
    },
    /// Cancel the write of an item, which is then answered as it ends.
    Withdraw {
        /// The item.
        item: ItemId,
    },
    /// Allocate and grant memory to the source for each of these; answered by [`Input::Allocated`] or
    /// [`Input::AllocationFailed`].
    Allocate {
        /// Items and their lengths in bytes.
        items: Vec<(ItemId, u64)>,
    },
    /// Compare an item's bytes with a digest; answered by [`Input::Verified`].
    Verify {
        /// The item.
        item: ItemId,
        /// The CRC-32C that they must have.
        crc32c: u32,
    },
    /// Revoke all grants of this migration, and answer [`Input::Fenced`] once no byte can be written any more.
    FenceAll,
    /// Create `key` in the store with `seal`; answered by [`Input::SealSeen`] with what the key then holds.
    PublishSeal {
        /// Where.
        key: String,
        /// What.
        seal: Seal,
    },
    /// Watch these keys of the store, and tell each seal by [`Input::SealSeen`].
    WatchSeals {
        /// The other targets' keys.
        keys: Vec<String>,
    },
    /// Replace the store's generation by `record` if that is still `record.base`, and tell by
    /// [`Input::GenerationSeen`] what the store then holds, whoever won.
    Propose {
        /// The next generation.
        record: GenerationRecord,
    },
}

/// What a user of the session wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// At the source: there is a new plan; see [`SourceSession::plan`].
    Planned {
        /// What will become of what.
        verdict: Verdict,
    },
    /// At the source: all targets take part. At a target: the memory for one offer's items is granted.
    Granted,
    /// An item is at its target, whole and verified.
    Landed {
        /// The item.
        item: ItemId,
    },
    /// An item arrived with other bytes than it left with, and is sent again.
    Damaged {
        /// The item.
        item: ItemId,
    },
    /// At a target: the source has said what "all" is, so the migration can be committed without it.
    Cut,
    /// At a target: nothing more can land.
    Sealed {
        /// How many of its items landed.
        landed: usize,
        /// How many didn't.
        missing: usize,
    },
    /// The targets own what the source owned.
    Committed {
        /// The generation that says so.
        record: GenerationRecord,
    },
    /// The targets own what the source owned, and restore it from a checkpoint.
    Restored {
        /// The generation that says so.
        record: GenerationRecord,
    },
    /// Nothing changed hands.
    Withdrawn {
        /// The generation that says so.
        record: GenerationRecord,
    },
    /// Another migration made a generation of its own on the same base: this one has come to nothing, and may be tried
    /// again on the new one.
    Superseded {
        /// The generation that is true now.
        record: GenerationRecord,
    },
    /// A target refuses: at the source, which withdraws, and at that target itself.
    Refused {
        /// The target's rank.
        by: u32,
        /// Why.
        reason: String,
    },
    /// At the source: a target is gone.
    TargetLost {
        /// Its rank.
        rank: u32,
        /// How that was noticed.
        reason: String,
    },
    /// At the source: the deadline passed before there was a generation; the targets decide.
    Expired,
    /// Nothing could be decided here. Nobody may act as a new owner, and memory must be kept: a generation that is
    /// seen later still counts.
    Failed {
        /// Why.
        reason: String,
    },
}
