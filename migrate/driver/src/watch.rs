//! Looks whether a key of the store has changed, again and again, on a thread that may wait.

use std::time::Duration;

use crate::store::{Store, StoreError, Version, Versioned};

/// How long one look waits at the store. Short, so that whoever watches sees soon that nobody wants it to any more.
pub(crate) const WATCH: Duration = Duration::from_millis(500);

/// What `key` holds, if that is newer than `newer_than` by the end of one look.
///
/// A store is lost only if two looks in a row fail. A process that was stopped for a while finds the time of its look over,
/// though the store has answered, and a migration that is about to be sealed would end for it.
pub(crate) fn look(store: &dyn Store, key: &str, newer_than: Version) -> Result<Option<Versioned>, StoreError> {
    store.wait(key, newer_than, WATCH).or_else(|_| store.wait(key, newer_than, WATCH))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::store::{MemoryStore, Swap};

    /// A store that does not answer some waits.
    struct Silent {
        store: MemoryStore,
        silences: AtomicU32,
    }

    impl Store for Silent {
        fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
            self.store.get(key)
        }

        fn compare_and_swap(&self, key: &str, expected: Version, value: Bytes) -> Result<Swap, StoreError> {
            self.store.compare_and_swap(key, expected, value)
        }

        fn wait(&self, key: &str, newer_than: Version, timeout: Duration) -> Result<Option<Versioned>, StoreError> {
            let silent = self.silences.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if silent.is_ok() {
                let (address, cause) = ("127.0.0.1:1".to_owned(), "timed out".to_owned());
                return Err(StoreError::Silent { address, cause, tried: timeout });
            }
            self.store.wait(key, newer_than, timeout)
        }

        fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, StoreError> {
            self.store.list(prefix)
        }
    }

    #[test]
    fn one_answer_that_is_missed_is_no_lost_store_and_two_are() {
        for (silences, is_lost) in [(0, false), (1, false), (2, true)] {
            let store = Silent { store: MemoryStore::new(), silences: AtomicU32::new(silences) };
            store.compare_and_swap("key", Version::ABSENT, Bytes::from_static(b"value")).expect("it is written");
            let found = look(&store, "key", Version::ABSENT);
            assert_eq!(found.is_err(), is_lost, "{silences} missed: {found:?}");
        }
    }
}
