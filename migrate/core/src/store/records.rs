//! What the well-known keys of a job hold, apart from generations and seals.

use std::time::Duration;

use bytes::Bytes;

use super::limits;
use crate::codec::{DecodeError, Reader, Writer};

/// The key of the ownership record: whichever generation is there is true.
pub const GENERATION_KEY: &str = "generation";

/// The key under which a generation stays that another one has replaced. Whoever replaces it writes it here before, so
/// that somebody who looked away meanwhile still learns how a migration of his ended. The first generation of a job
/// ended none, and isn't kept.
pub fn kept_generation_key(generation: u64) -> String {
    format!("{GENERATION_KEY}/{generation}")
}

/// What all claims begin with.
pub const PEER_PREFIX: &str = "peer/";

/// What all drain orders begin with.
pub const NOTICE_PREFIX: &str = "notice/";

/// The key under which the process of `rank` says which life it is and how it is reached.
pub fn peer_key(rank: u32) -> String {
    format!("{PEER_PREFIX}{rank}")
}

/// The key under which an operator tells the process of `rank` to leave.
pub fn notice_key(rank: u32) -> String {
    format!("{NOTICE_PREFIX}{rank}")
}

/// The key under which stands whose turn it is to leave, while a generation is true: two hand-overs that are based on the same one
/// can't both be committed, and a target takes one at a time.
pub fn turn_key(generation: u64) -> String {
    format!("turn/{generation}")
}

/// The key under which the process of `rank` says how many bytes others may hand over to it at once, in decimal digits: who leaves plans
/// with it, and is refused if he offers more.
pub fn room_key(rank: u32) -> String {
    format!("room/{rank}")
}

const PEER_CLAIM_FORMAT: u8 = 1;
const DRAIN_ORDER_FORMAT: u8 = 1;

/// Which process has a rank, which of the rank's lives it is, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerClaim {
    /// Which life of the rank; the first is 1.
    pub incarnation: u32,
    /// The process on its host.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// How its endpoint is reached, opaque here; empty while the process has claimed the rank and not yet listened.
    pub ticket: Bytes,
}

impl PeerClaim {
    /// The claim as a value of the store.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(PEER_CLAIM_FORMAT);
        writer.u32(self.incarnation);
        writer.u32(self.pid);
        writer.text(&self.host, limits::NAME_LEN_BYTES_MAX);
        writer.bytes(&self.ticket);
        writer.into_bytes()
    }

    /// The claim of a value.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        format_is(&mut reader, "the claim's format", PEER_CLAIM_FORMAT)?;
        let claim = Self {
            incarnation: reader.u32("the incarnation")?,
            pid: reader.u32("the process id")?,
            host: reader.text("the host name", limits::NAME_LEN_BYTES_MAX)?.to_owned(),
            ticket: reader.bytes("the ticket", limits::TICKET_LEN_BYTES_MAX)?,
        };
        reader.end()?;
        Ok(claim)
    }
}

/// An operator's word to one process that it goes away, or that it stays after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainOrder {
    /// Which life of the rank is meant: an order must not drain the life that replaced the one it was given to.
    pub incarnation: u32,
    /// Tells two orders apart.
    pub nonce: u64,
    /// What is left to the process; none when the order takes an earlier one back.
    pub left: Option<Duration>,
    /// Why, in the operator's words.
    pub reason: String,
}

impl DrainOrder {
    /// The order as a value of the store.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(DRAIN_ORDER_FORMAT);
        writer.u32(self.incarnation);
        writer.u64(self.nonce);
        writer.u8(self.left.is_some().into());
        writer.u64(self.left.map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
        writer.text(&self.reason, limits::NAME_LEN_BYTES_MAX);
        writer.into_bytes()
    }

    /// The order of a value.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        format_is(&mut reader, "the order's format", DRAIN_ORDER_FORMAT)?;
        let incarnation = reader.u32("the incarnation")?;
        let nonce = reader.u64("the nonce")?;
        let stands = reader.bool("whether the order stands")?;
        let left_ms = reader.u64("the time left")?;
        let order = Self {
            incarnation,
            nonce,
            left: stands.then(|| Duration::from_millis(left_ms)),
            reason: reader.text("the reason", limits::NAME_LEN_BYTES_MAX)?.to_owned(),
        };
        reader.end()?;
        Ok(order)
    }
}

fn format_is(reader: &mut Reader<'_>, field: &'static str, known: u8) -> Result<(), DecodeError> {
    match reader.u8(field)? {
        found if found == known => Ok(()),
        found => Err(DecodeError::Unknown { field, number: found.into() }),
    }
}

#[cfg(test)]
mod tests;
