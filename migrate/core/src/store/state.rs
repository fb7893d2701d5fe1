//! What the store holds, and who wins a swap.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use xfer_transport_core::Time;

use super::journal::{Record, ReplayError};
use super::limits;
use super::{Swap, SwapRequest, Token, Version, Versioned};
use crate::planted::{self, Bug};

/// Keys, values and versions, without a clock or a socket.
#[derive(Debug, Clone, Hash)]
pub struct StoreState {
    entries: BTreeMap<String, Entry>,
    /// The version of the latest write.
    latest: Version,
    /// Keys and values together.
    total_bytes: u64,
    /// Writes that were overwritten since, oldest first, for swaps that are asked for again.
    superseded: VecDeque<(Token, Version)>,
    /// The newest version that fell out of `superseded`.
    forgotten: Version,
    limits: StateLimits,
}

#[derive(Debug, Clone, Hash)]
struct Entry {
    version: Version,
    value: Bytes,
    token: Token,
    written: Time,
}

impl Entry {
    fn seen(&self, now: Time) -> Versioned {
        Versioned { version: self.version, value: self.value.clone(), age: now.since(self.written) }
    }

    fn written_as(&self, key: &str) -> Written {
        let Self { version, value, token, written } = self;
        Written { key: key.to_owned(), value: value.clone(), version: *version, token: *token, at: *written }
    }
}

/// A swap that won, as a journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What was written.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Which write it is.
    pub version: Version,
    /// Which swap it was.
    pub token: Token,
    /// When, by the store's clock.
    pub at: Time,
}

/// How much a [`StoreState`] takes; see [`limits`] for the reasons.
#[derive(Debug, Clone, Copy, Hash)]
pub struct StateLimits {
    /// Most keys.
    pub keys_max: usize,
    /// Most bytes of keys and values together.
    pub total_bytes_max: u64,
    /// Most overwritten writes that are remembered.
    pub remembered_wins_max: usize,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self {
            keys_max: limits::KEYS_MAX,
            total_bytes_max: limits::TOTAL_BYTES_MAX,
            remembered_wins_max: limits::REMEMBERED_WINS_MAX,
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The key is empty, too long, or not printable.
    #[error("a key is 1 to {} printable characters without spaces", limits::KEY_LEN_BYTES_MAX)]
    InvalidKey,
    /// The value is too long.
    #[error("a value of {len_bytes} bytes is too long; the store takes at most {}", limits::VALUE_LEN_BYTES_MAX)]
    ValueTooLong {
        /// Its length.
        len_bytes: u64,
    },
    /// There are as many keys as there may be.
    #[error("the store is full: it holds {keys_max} keys, and keys are never deleted")]
    TooManyKeys {
        /// How many there may be.
        keys_max: u64,
    },
    /// Keys and values together would be too long.
    #[error("the store is full: keys and values may take {total_bytes_max} bytes together")]
    OutOfBytes {
        /// How long they may be.
        total_bytes_max: u64,
    },
    /// A swap expects a version of a key that was never written. In one life of a store that can't come from a read.
    #[error("the swap expects {expected}, but the key was never written here")]
    NeverWritten {
        /// What the swap expected.
        expected: Version,
    },
    /// The same swap was asked for again, and too much was written since to know what became of the first.
    #[error("too much was written since the swap was first asked for to know whether it won; read the key")]
    Forgotten,
    /// The server has no room for another answer at the moment.
    #[error("the store is busy with other clients' large values; ask again")]
    Busy,
    /// The request can't be understood.
    #[error("the request is malformed: {0}")]
    Malformed(String),
}

impl StoreState {
    /// An empty store.
    pub fn new(limits: StateLimits) -> Self {
        Self {
            entries: BTreeMap::new(),
            latest: Version::ABSENT,
            total_bytes: 0,
            superseded: VecDeque::new(),
            forgotten: Version::ABSENT,
            limits,
        }
    }

    /// What `key` holds, if it was ever written.
    pub fn get(&self, now: Time, key: &str) -> Result<Option<Versioned>, Refusal> {
        check_key(key)?;
        Ok(self.entries.get(key).map(|entry| entry.seen(now)))
    }

    /// What `key` holds, if that is newer than `newer_than`.
    pub fn newer(&self, now: Time, key: &str, newer_than: Version) -> Result<Option<Versioned>, Refusal> {
        Ok(self.get(now, key)?.filter(|found| found.version > newer_than))
    }

    /// Writes the value if the key still holds the version that the swap expects.
    ///
    /// A swap that is asked for again is not done again: if the first one won, so has this.
    pub fn compare_and_swap(&mut self, now: Time, swap: SwapRequest) -> Result<Swap, Refusal> {
        check_key(&swap.key)?;
        if swap.value.len() > limits::VALUE_LEN_BYTES_MAX {
            return Err(Refusal::ValueTooLong { len_bytes: swap.value.len() as u64 });
        }
        let held = self.entries.get(&swap.key);
        if swap.again
            && let Some(version) = self.won_as(held, swap.token)
        {
            return Ok(Swap::Won(version));
        }
        match held {
            None if swap.expected != Version::ABSENT => Err(Refusal::NeverWritten { expected: swap.expected }),
            Some(entry) if entry.version != swap.expected && !planted::is(Bug::SwapAnyVersion) => {
                // Had the first try won, its version would be above the expected one.
                if swap.again && self.forgotten > swap.expected {
                    return Err(Refusal::Forgotten);
                }
                Ok(Swap::Lost(entry.seen(now)))
            }
            _ => self.write(now, swap).map(Swap::Won),
        }
    }

    /// Up to `entries_max` keys that begin with `prefix` and come after `after`, in the order of their bytes. An empty
    /// prefix is that of all keys.
    pub fn list<'a>(
        &'a self,
        now: Time,
        prefix: &'a str,
        after: &str,
        entries_max: usize,
    ) -> Result<impl Iterator<Item = (&'a str, Versioned)> + 'a, Refusal> {
        if !prefix.is_empty() {
            check_key(prefix)?;
        }
        let start = match after >= prefix && !after.is_empty() {
            true => Bound::Excluded(after.to_owned()),
            false => Bound::Included(prefix.to_owned()),
        };
        let entries = self.entries.range((start, Bound::Unbounded));
        let entries = entries.take_while(move |(key, _)| key.starts_with(prefix)).take(entries_max);
        Ok(entries.map(move |(key, entry)| (key.as_str(), entry.seen(now))))
    }

    /// What `key` holds, as a journal keeps it.
    pub(super) fn written(&self, key: &str) -> Option<Written> {
        let entry = self.entries.get(key)?;
        Some(entry.written_as(key))
    }

    /// All that has to be written down to have the same store again.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let forgotten = (self.forgotten != Version::ABSENT).then_some(Record::Forgotten(self.forgotten));
        let remembered = self.superseded.iter().map(|(token, version)| Record::Remembered(*token, *version));
        let mut held: Vec<(&String, &Entry)> = self.entries.iter().collect();
        held.sort_by_key(|(_, entry)| entry.version);
        let held = held.into_iter().map(|(key, entry)| Record::Written(entry.written_as(key)));
        forgotten.into_iter().chain(remembered).chain(held)
    }

    /// Does again what was written down, in the same order.
    pub fn replay(&mut self, record: Record) -> Result<(), ReplayError> {
        match record {
            Record::Forgotten(version) => self.forgotten = self.forgotten.max(version),
            Record::Remembered(token, version) => {
                let max = self.limits.remembered_wins_max;
                if self.superseded.len() >= max {
                    return Err(ReplayError::TooManyRemembered { max });
                }
                self.superseded.push_back((token, version));
            }
            Record::Written(written) => {
                if written.version <= self.latest || written.version.0 > limits::VERSION_MAX {
                    return Err(ReplayError::Order { version: written.version, latest: self.latest });
                }
                check_key(&written.key)?;
                self.latest = Version(written.version.0 - 1);
                let Written { key, value, token, at, .. } = written;
                self.write(at, SwapRequest { key, expected: Version::ABSENT, value, token, again: false })?;
            }
        }
        Ok(())
    }

    /// The version of the latest write.
    pub fn latest(&self) -> Version {
        self.latest
    }

    /// Keys and values together.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The version under which `token` won, as far as that is remembered.
    fn won_as(&self, held: Option<&Entry>, token: Token) -> Option<Version> {
        if let Some(entry) = held.filter(|entry| entry.token == token) {
            return Some(entry.version);
        }
        self.superseded.iter().rev().find(|(won, _)| *won == token).map(|&(_, version)| version)
    }

    fn write(&mut self, now: Time, swap: SwapRequest) -> Result<Version, Refusal> {
        let held_bytes = match self.entries.get(&swap.key) {
            Some(entry) => swap.key.len() + entry.value.len(),
            None if self.entries.len() >= self.limits.keys_max => {
                return Err(Refusal::TooManyKeys { keys_max: self.limits.keys_max as u64 });
            }
            None => 0,
        };
        let total_bytes = self.total_bytes - held_bytes as u64 + (swap.key.len() + swap.value.len()) as u64;
        if total_bytes > self.limits.total_bytes_max {
            return Err(Refusal::OutOfBytes { total_bytes_max: self.limits.total_bytes_max });
        }
        let version = Version(self.latest.0 + 1);
        let entry = Entry { version, value: swap.value, token: swap.token, written: now };
        self.latest = version;
        self.total_bytes = total_bytes;
        if let Some(old) = self.entries.insert(swap.key, entry) {
            self.remember(old.token, old.version);
        }
        Ok(version)
    }

    fn remember(&mut self, token: Token, version: Version) {
        self.superseded.push_back((token, version));
        if self.superseded.len() > self.limits.remembered_wins_max
            && let Some((_, version)) = self.superseded.pop_front()
        {
            // Keys are overwritten in any order, so versions in the queue aren't sorted.
            self.forgotten = self.forgotten.max(version);
        }
    }
}

/// Checks that `key` may be a key. Keys end up in log lines and terminals, so they are short and printable.
pub fn check_key(key: &str) -> Result<(), Refusal> {
    let printable = key.bytes().all(|byte| byte.is_ascii_graphic());
    if key.is_empty() || key.len() > limits::KEY_LEN_BYTES_MAX || !printable {
        return Err(Refusal::InvalidKey);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
