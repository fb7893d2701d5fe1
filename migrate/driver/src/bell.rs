//! One condition that everything a caller may wait for rings.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use xfer_transport::limits::TIMEOUT_MAX;

/// Wakes waiters when something they may care about happened.
///
/// A caller in the middle of a step waits for one of several things: its tensor, the end of a migration, its own notice.
/// They all ring one bell, and the waiter looks again; that costs a spurious look now and then and saves a thread or
/// a poll loop for every wait.
#[derive(Debug, Default)]
pub struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// Wakes every waiter.
    pub fn ring(&self) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        *rings = rings.wrapping_add(1);
        self.rung.notify_all();
    }

    /// Calls `look` now and after every ring, until it finds something or `timeout` is over.
    pub fn wait_for<T>(&self, timeout: Option<Duration>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let until = timeout.map(|timeout| Instant::now() + timeout.min(TIMEOUT_MAX));
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let seen = *rings;
            // `look` takes other locks whose holders ring this bell: never hold the bell's own meanwhile.
            drop(rings);
            if let Some(found) = look() {
                return Some(found);
            }
            rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
            while *rings == seen {
                match until {
                    None => rings = self.rung.wait(rings).unwrap_or_else(PoisonError::into_inner),
                    Some(until) => {
                        let left = until.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            return None;
                        }
                        rings = self.rung.wait_timeout(rings, left).unwrap_or_else(PoisonError::into_inner).0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_ring_between_the_look_and_the_wait_is_not_lost() {
        let bell = Arc::new(Bell::default());
        let flag = Arc::new(AtomicBool::new(false));
        let mut looks = 0;
        let found = bell.wait_for(None, || {
            looks += 1;
            if looks == 1 {
                flag.store(true, Ordering::SeqCst);
                bell.ring();
            }
            (looks > 1).then(|| flag.load(Ordering::SeqCst))
        });
        assert_eq!(found, Some(true));
    }

    #[test]
    fn a_wait_ends_with_its_timeout() {
        let bell = Bell::default();
        assert_eq!(bell.wait_for(Some(Duration::from_millis(5)), || None::<()>), None);
        // As long as anybody can say is no mistake; what is there is found at once.
        assert_eq!(bell.wait_for(Some(Duration::MAX), || Some(())), Some(()));
    }
}
