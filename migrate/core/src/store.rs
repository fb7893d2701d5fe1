//! The agreement of a job: a small store of versioned values with compare-and-swap.
//!
//! Who owns what is decided in exactly one place, and this is it. The store is deliberately small: four operations,
//! values of a few megabytes, no deletion, no transactions. What makes it safe to build on is one rule: a value is
//! only replaced by somebody who names the version that it replaces.
//!
//! | part | what it decides |
//! |---|---|
//! | [`StoreState`] | values, versions, who wins a swap |
//! | [`Service`] | a whole server without sockets: greetings, frames, waiting clients, limits |
//! | [`journal`] | what is written down so that a store can be started again |
//! | [`wire`] | bytes to requests and answers, and back |
//! | [`records`] | what the well-known keys hold |
//! | [`limits`] | how much of everything there may be, and why |
//!
//! Sockets and threads are in `xfer-migrate`.

pub mod journal;
pub mod limits;
pub mod records;
mod service;
mod state;
pub mod wire;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

pub use service::{ClientId, CloseReason, Service, ServiceLimits};
pub use state::{Refusal, StateLimits, StoreState, Written, check_key};

/// Which write a value comes from. Every write that wins gets the next number of the whole store, so the versions of
/// a key only grow and none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    /// The version of a key that was never written.
    pub const ABSENT: Self = Self(0);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// A value as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// Which write it comes from.
    pub version: Version,
    /// The value itself.
    pub value: Bytes,
    /// How long it had been in the store by the store's own clock. Two processes share no clock, so a value that
    /// carries a time left is worth that much less.
    pub age: Duration,
}

/// What became of a compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The value was written, as this version.
    Won(Version),
    /// The key holds another version than expected: this one. Nothing was written.
    Lost(Versioned),
}

/// One swap of one client, so that asking again for the same swap can't write twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// A number that the client drew at random when it connected.
    pub client: u64,
    /// Which of its swaps this is.
    pub sequence: u64,
}

/// A compare-and-swap, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapRequest {
    /// What to write.
    pub key: String,
    /// The version to replace; [`Version::ABSENT`] to create.
    pub expected: Version,
    /// The new value.
    pub value: Bytes,
    /// Which swap of which client this is.
    pub token: Token,
    /// Whether it was asked for before and the answer was lost.
    pub again: bool,
}
