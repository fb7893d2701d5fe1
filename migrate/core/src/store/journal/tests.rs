//! What is written down is what comes back, wherever a crash cuts it off; and what was answered for is never guessed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::store::{Swap, SwapRequest};

const HEAD: Head = Head { life: 7, clock: [3; 16], ahead_ns: 11 };

const LIMITS: StateLimits = StateLimits { keys_max: 100, total_bytes_max: 1 << 20, remembered_wins_max: 4 };

/// A journal of a store, and the store after each record.
struct Kept {
    bytes: Vec<u8>,
    /// Where each record begins; and the end.
    starts: Vec<usize>,
    states: Vec<StoreState>,
}

/// Swaps of a few keys, each written down, and known to be on the disk if `synced`.
fn kept(swaps: &[(u8, u8)], synced: bool) -> Kept {
    let mut state = StoreState::new(LIMITS);
    let (mut journal, mut bytes) = Journal::begin(&HEAD, &state);
    journal.synced();
    let (mut starts, mut states) = (vec![bytes.len()], vec![state.clone()]);
    for (sequence, (key, len)) in swaps.iter().enumerate() {
        let key = format!("key/{key}");
        let at = Time::ZERO.after(Duration::from_secs(sequence as u64));
        let expected = state.get(at, &key).unwrap().map_or(Version::ABSENT, |found| found.version);
        let value = Bytes::from(vec![*len; usize::from(*len)]);
        let token = Token { client: 5, sequence: sequence as u64 };
        let request = SwapRequest { key: key.clone(), expected, value, token, again: false };
        assert!(matches!(state.compare_and_swap(at, request), Ok(Swap::Won(_))));
        journal.append(&Record::Written(state.written(&key).unwrap()), &mut bytes);
        if synced {
            journal.synced();
        }
        assert_eq!(journal.len_bytes(), bytes.len() as u64);
        starts.push(bytes.len());
        states.push(state.clone());
    }
    Kept { bytes, starts, states }
}

fn swaps() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0_u8..4, 0_u8..40), 1..12)
}

/// Everything of a state: what it holds, and what it remembers of what it held.
fn digest(state: &StoreState) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

proptest! {
    #[test]
    fn a_crash_at_any_byte_leaves_the_whole_records_before_it(swaps in swaps(), cut in any::<prop::sample::Index>()) {
        let Kept { bytes, starts, states } = kept(&swaps, false);
        let cut = HEAD_BYTES + cut.index(bytes.len() - HEAD_BYTES + 1);
        let found = recover(&bytes[..cut], LIMITS).unwrap();
        let whole = starts.iter().rposition(|start| *start <= cut).unwrap();
        prop_assert_eq!((found.head, found.whole_bytes), (HEAD, starts[whole] as u64));
        prop_assert_eq!(digest(&found.state), digest(&states[whole]));
        prop_assert_eq!(found.latest, Time::ZERO.after(Duration::from_secs(whole.saturating_sub(1) as u64)));
    }

    #[test]
    fn a_bit_that_flips_is_cut_if_nobody_answered_for_it_and_else_refused(
        swaps in swaps(),
        bit in any::<prop::sample::Index>(),
        synced in any::<bool>(),
    ) {
        let Kept { mut bytes, starts, states } = kept(&swaps, synced);
        let bit = HEAD_BYTES * 8 + bit.index((bytes.len() - HEAD_BYTES) * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let hit = starts.iter().rposition(|start| *start <= bit / 8).unwrap();
        let is_last = hit + 1 == swaps.len();
        match recover(&bytes, LIMITS) {
            Ok(found) => {
                prop_assert!(!synced || is_last, "record {hit} was answered for");
                prop_assert_eq!((found.whole_bytes, digest(&found.state)), (starts[hit] as u64, digest(&states[hit])));
            }
            Err(error) => {
                prop_assert!(synced && !is_last);
                prop_assert_eq!(error, JournalError::Damaged { at: starts[hit] as u64 });
            }
        }
    }

    #[test]
    fn a_journal_that_is_written_anew_holds_the_same_store(swaps in swaps()) {
        let Kept { states, .. } = kept(&swaps, true);
        let state = states.last().unwrap();
        let (journal, bytes) = Journal::begin(&HEAD, state);
        let found = recover(&bytes, LIMITS).unwrap();
        prop_assert_eq!(digest(&found.state), digest(state));
        prop_assert_eq!(found.whole_bytes, journal.len_bytes());
    }
}

#[test]
fn what_is_no_journal_is_refused_by_name() {
    let Kept { bytes, .. } = kept(&[(1, 1)], true);
    let error = |bytes: &[u8]| recover(bytes, LIMITS).expect_err("it is no journal");
    assert_eq!(error(b"some other file"), JournalError::NotAJournal);
    assert_eq!(error(b""), JournalError::NotAJournal);
    assert_eq!(error(&bytes[..HEAD_BYTES - 1]), JournalError::DamagedHead);
    let with = |at: usize, byte: u8| [&bytes[..at], &[byte], &bytes[at + 1..]].concat();
    assert_eq!(error(&with(12, 9)), JournalError::OtherVersion { theirs: 9 });
    assert_eq!(error(&with(20, 9)), JournalError::DamagedHead);
}

#[test]
fn records_that_make_no_sense_are_refused_where_they_begin() {
    let Kept { bytes, states, .. } = kept(&[(1, 1)], true);
    let written = states[1].written("key/1").unwrap();
    let after = |record: Record| {
        let mut journal = Journal::of(bytes.len() as u64);
        let mut bytes = bytes.clone();
        journal.append(&record, &mut bytes);
        recover(&bytes, LIMITS).map(|found| found.whole_bytes)
    };
    let senseless =
        |reason: &str| Err::<u64, _>(JournalError::Senseless { at: bytes.len() as u64, reason: reason.to_owned() });
    assert_eq!(after(Record::Written(written.clone())), senseless("v1 follows v1"));
    let version = Version(limits::VERSION_MAX + 1);
    assert_eq!(
        after(Record::Written(Written { version, ..written.clone() })),
        senseless(&format!("{version} follows v1"))
    );
    let (version, key) = (Version(2), "no key".to_owned());
    let refused = after(Record::Written(Written { version, key, ..written.clone() }));
    assert_eq!(refused, senseless(&Refusal::InvalidKey.to_string()));
    assert!(after(Record::Written(Written { version, ..written })).is_ok());
    assert!(after(Record::Forgotten(Version(9))).is_ok());
}

#[test]
fn no_more_is_remembered_than_may_be() {
    let token = Token { client: 1, sequence: 1 };
    let mut state = StoreState::new(LIMITS);
    for _ in 0..LIMITS.remembered_wins_max {
        assert_eq!(state.replay(Record::Remembered(token, Version(1))), Ok(()));
    }
    let max = LIMITS.remembered_wins_max;
    assert_eq!(state.replay(Record::Remembered(token, Version(1))), Err(ReplayError::TooManyRemembered { max }));
}
