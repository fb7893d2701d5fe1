//! The store inside one process, with the rules of the one over TCP.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use xfer_migrate_core::store::{StateLimits, StoreState, Swap, SwapRequest, Token, Version, Versioned};
use xfer_transport_core::Time;

use super::{Bound, Store, StoreError};

/// A store that lives in this process: the same state as a server's, without a network.
#[derive(Debug)]
pub struct MemoryStore {
    held: Mutex<Held>,
    written: Condvar,
    origin: Instant,
}

#[derive(Debug)]
struct Held {
    state: StoreState,
    swaps: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        let held = Held { state: StoreState::new(StateLimits::default()), swaps: 0 };
        Self { held: Mutex::new(held), written: Condvar::new(), origin: Instant::now() }
    }

    fn now(&self) -> Time {
        Time::ZERO.after(self.origin.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // The state has no step between two consistent ones at which it could panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.lock().state.get(self.now(), key).map_err(|refusal| StoreError::refused(key, refusal))
    }

    fn compare_and_swap(&self, key: &str, expected: Version, value: Bytes) -> Result<Swap, StoreError> {
        let now = self.now();
        let mut held = self.lock();
        held.swaps += 1;
        let token = Token { client: 0, sequence: held.swaps };
        let request = SwapRequest { key: key.to_owned(), expected, value, token, again: false };
        let swap = held.state.compare_and_swap(now, request).map_err(|refusal| StoreError::refused(key, refusal))?;
        drop(held);
        self.written.notify_all();
        Ok(swap)
    }

    fn wait(&self, key: &str, newer_than: Version, timeout: Duration) -> Result<Option<Versioned>, StoreError> {
        let bound = Bound::new(timeout);
        let mut held = self.lock();
        loop {
            let newer = held.state.newer(self.now(), key, newer_than);
            let found = newer.map_err(|refusal| StoreError::refused(key, refusal))?;
            if found.is_some() || bound.is_over() {
                return Ok(found);
            }
            held = self.written.wait_timeout(held, bound.left()).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, StoreError> {
        let held = self.lock();
        let entries = held.state.list(self.now(), prefix, "", usize::MAX);
        let entries = entries.map_err(|refusal| StoreError::refused(prefix, refusal))?;
        Ok(entries.map(|(key, found)| (key.to_owned(), found)).collect())
    }
}
