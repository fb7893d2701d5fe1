//! The store of a job as its processes use it: one trait, served over TCP or held in memory.
//!
//! | part | is |
//! |---|---|
//! | [`Store`] | the four operations |
//! | [`StoreServer`] | a store that one process hosts for all |
//! | [`TcpStore`] | a client of it: every call bounded, safe to repeat |
//! | [`MemoryStore`] | the same store inside one process, for tests |
//! | [`host_or_connect`] | the first of the processes hosts, the others join |
//! | [`claim_identity`], [`publish_ticket`] | one process a rank, and which of its lives |

mod client;
mod connection;
mod error;
mod hosting;
mod identity;
mod journal;
mod limits;
mod memory;
mod server;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use client::TcpStore;
pub use error::StoreError;
pub use hosting::{HostError, Hosted, host_or_connect};
pub use identity::{ClaimError, claim_identity, host_name, publish_ticket};
pub use limits::CLAIM_GRACE;
pub use memory::MemoryStore;
pub use server::{BindError, Exposure, StoreFailure, StoreServer};
pub use xfer_migrate_core::store::{Swap, Version, Versioned, records};

/// Versioned values that are replaced only by somebody who knows what they replace.
///
/// All processes of a job see the same store. Each call returns within the implementation's own bound; an error says
/// that the outcome couldn't be had, and for [`Store::compare_and_swap`] whether it may have happened all the same.
pub trait Store: Send + Sync {
    /// What `key` holds; none if it was never written.
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// Writes `value` if `key` still holds version `expected` ([`Version::ABSENT`] if it must not exist yet).
    ///
    /// A lost answer is asked for again until the outcome is known, so a call writes at most once.
    fn compare_and_swap(&self, key: &str, expected: Version, value: Bytes) -> Result<Swap, StoreError>;

    /// Waits until `key` is newer than `newer_than` and returns it; none when `timeout` passes first.
    fn wait(&self, key: &str, newer_than: Version, timeout: Duration) -> Result<Option<Versioned>, StoreError>;

    /// All keys that begin with `prefix`, in order, with what they hold. A listing of many keys is read in parts,
    /// and keys that are written meanwhile may be in it or not.
    fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, StoreError>;
}

/// A number that nobody else draws: the standard library keys its hashers from the system's randomness.
fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A wait that started and is over after a while.
#[derive(Debug, Clone, Copy)]
struct Bound {
    started: Instant,
    limit: Duration,
}

impl Bound {
    fn new(limit: Duration) -> Self {
        Self { started: Instant::now(), limit }
    }

    fn left(self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

#[cfg(test)]
mod tests;
