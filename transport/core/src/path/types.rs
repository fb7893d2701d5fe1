//! The words in which a path is spoken to.

use std::time::Duration;

use crate::frame::{FrameHeader, FrameKind};
use crate::limits::{TRANSFER_BYTES_MAX, TRANSFERS_PER_PEER_MAX};
use crate::message::Refusal;
use crate::schedule::Windows;
use crate::stream::Numbered;
use crate::{BackendId, Deadline, Lane, RegionId, Time};

/// One link of a path. Handed out by its owner, never reused within a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// One transfer of a path. The sender counts from 1; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u64);

/// What is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Who is served first.
    pub lane: Lane,
    /// The receiver's grant.
    pub region: RegionId,
    /// Where in it the bytes go, in bytes.
    pub offset: u64,
    /// How many they are.
    pub len_bytes: u64,
    /// After which they are worth nothing.
    pub deadline: Option<Deadline>,
    /// Its place in the order in which transfers were asked for, over all peers: what decides while a limit binds.
    pub order: u64,
}

/// A transfer that can't begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The table of transfers is full.
    #[error("{TRANSFERS_PER_PEER_MAX} transfers to this peer are under way: wait for some of them")]
    TooMany,
    /// Longer than a transfer can be.
    #[error("a transfer has at most {TRANSFER_BYTES_MAX} bytes: split it")]
    TooLong,
    /// The peer is gone.
    #[error("the peer is gone")]
    Gone,
}

/// Why a transfer ended before it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its owner asked for it.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// The receiver doesn't take it.
    Refused(Refusal),
    /// A chunk arrived damaged every time.
    Damaged {
        /// Where in the region, in bytes.
        offset: u64,
    },
    /// The peer is gone.
    Gone,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Every byte is at its destination and was verified there.
    Done {
        /// CRC-32C of all bytes.
        crc32c: u32,
        /// How many there are.
        len_bytes: u64,
        /// What each backend carried, in bytes.
        over: Vec<(BackendId, u64)>,
        /// From its request to its last acknowledgement.
        took: Duration,
        /// Chunks that were sent more than once, counted each time.
        retried_chunks: u32,
    },
    /// It ended early.
    Failed {
        /// Why.
        cause: Cause,
        /// Whether it is proven that the receiver writes nothing more of it.
        fenced: bool,
    },
}

/// What the path's owner has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEvent {
    /// The source of a transfer must not be read any more.
    Stop(TransferId),
    /// A transfer is over; said once.
    Ended(TransferId, End),
    /// The fence of a transfer that had ended without proof is proven: its memory is free. When the peer goes first nothing
    /// is proven, and the owner lets go by itself of what it holds for the peer's sake.
    Released(TransferId),
}

/// A chunk to put on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its transfer.
    pub transfer: TransferId,
    /// Its lane.
    pub lane: Lane,
    /// How often it was posted before.
    pub attempt: u8,
    /// Where it starts in the transfer's source, in bytes.
    pub source_offset: u64,
    /// The receiver's grant.
    pub region: RegionId,
    /// Where in it the chunk goes, in bytes.
    pub offset: u64,
    /// Its length.
    pub len_bytes: u32,
}

impl Chunk {
    /// What stands before its bytes on the wire, whose checksum is `payload_crc32c`.
    pub fn header(&self, payload_crc32c: u32) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Data,
            lane: self.lane,
            attempt: self.attempt,
            region: self.region.0,
            offset: self.offset,
            transfer: self.transfer.0,
            len_bytes: self.len_bytes,
            payload_crc32c,
        }
    }
}

/// What a link does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send this message.
    Message(Numbered),
    /// Send this chunk.
    Chunk(Chunk),
    /// Wait until this moment: the rate limit is reached.
    Wait(Time),
    /// Nothing, until something else happens.
    Idle,
}

/// How a path behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathConfig {
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// What each lane may have posted.
    pub windows: Windows,
}
