//! The store against a model of it, and each limit from both sides.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NOW: Time = Time::ZERO;

fn swap(key: &str, expected: Version, value: &[u8], sequence: u64) -> SwapRequest {
    SwapRequest {
        key: key.to_owned(),
        expected,
        value: Bytes::copy_from_slice(value),
        token: Token { client: 1, sequence },
        again: false,
    }
}

fn again(request: &SwapRequest) -> SwapRequest {
    SwapRequest { again: true, ..request.clone() }
}

fn won(outcome: Result<Swap, Refusal>) -> Version {
    match outcome {
        Ok(Swap::Won(version)) => version,
        other => panic!("expected a win, got {other:?}"),
    }
}

#[derive(Debug, Clone)]
enum Expect {
    Current,
    Absent,
    /// The version of some earlier win, of any key.
    Earlier(usize),
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![3 => Just(Expect::Current), 1 => Just(Expect::Absent), 2 => any::<usize>().prop_map(Expect::Earlier)]
}

proptest! {
    #[test]
    fn the_wins_of_a_key_form_one_chain(ops in prop::collection::vec((0..3_usize, expect()), 1..120)) {
        let keys = ["a", "b", "c"];
        let mut state = StoreState::new(StateLimits::default());
        let mut held: BTreeMap<&str, (Version, Vec<u8>)> = BTreeMap::new();
        let mut versions = vec![Version::ABSENT];
        for (sequence, (key, expect)) in ops.into_iter().enumerate() {
            let key = keys[key];
            let current = held.get(key).map_or(Version::ABSENT, |(version, _)| *version);
            let expected = match expect {
                Expect::Current => current,
                Expect::Absent => Version::ABSENT,
                Expect::Earlier(index) => versions[index % versions.len()],
            };
            let value = sequence.to_le_bytes();
            match state.compare_and_swap(NOW, swap(key, expected, &value, sequence as u64)) {
                Ok(Swap::Won(version)) => {
                    prop_assert_eq!(expected, current, "won over another version than the one that was there");
                    prop_assert!(versions.iter().all(|earlier| *earlier < version));
                    versions.push(version);
                    held.insert(key, (version, value.to_vec()));
                }
                Ok(Swap::Lost(found)) => {
                    prop_assert_ne!(expected, current);
                    prop_assert_eq!((found.version, found.value.to_vec()), held[key].clone());
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::NeverWritten { expected });
                    prop_assert!(!held.contains_key(key) && expected != Version::ABSENT);
                }
            }
        }
        for key in keys {
            let found = state.get(NOW, key).unwrap().map(|found| (found.version, found.value.to_vec()));
            prop_assert_eq!(found, held.get(key).cloned());
        }
    }

    #[test]
    fn asking_again_never_writes_twice(ops in prop::collection::vec((any::<bool>(), 0..40_usize), 1..80)) {
        let mut state = StoreState::new(StateLimits::default());
        let mut asked: Vec<(SwapRequest, Option<Version>)> = Vec::new();
        let mut current = Version::ABSENT;
        for (stale, pick) in ops {
            let expected = match asked.get(pick).and_then(|(_, version)| *version) {
                Some(version) if stale => version,
                _ => current,
            };
            let request = swap("counter", expected, b"value", asked.len() as u64);
            let version = match state.compare_and_swap(NOW, request.clone()).unwrap() {
                Swap::Won(version) => Some(version),
                Swap::Lost(_) => None,
            };
            current = version.unwrap_or(current);
            asked.push((request, version));

            let (request, first) = &asked[pick % asked.len()];
            let second = match state.compare_and_swap(NOW, again(request)).unwrap() {
                Swap::Won(version) => Some(version),
                Swap::Lost(_) => None,
            };
            prop_assert_eq!(*first, second);
            prop_assert_eq!(state.get(NOW, "counter").unwrap().unwrap().version, current);
        }
    }
}

#[test]
fn a_win_is_remembered_as_long_as_promised_and_no_longer() {
    let limits = StateLimits { remembered_wins_max: 3, ..StateLimits::default() };
    let mut state = StoreState::new(limits);
    let first = swap("key", Version::ABSENT, b"0", 0);
    let mut current = won(state.compare_and_swap(NOW, first.clone()));
    let first_version = current;
    for sequence in 1..=3 {
        current = won(state.compare_and_swap(NOW, swap("key", current, b"n", sequence)));
    }
    assert_eq!(state.compare_and_swap(NOW, again(&first)), Ok(Swap::Won(first_version)));
    won(state.compare_and_swap(NOW, swap("key", current, b"n", 4)));
    assert_eq!(state.compare_and_swap(NOW, again(&first)), Err(Refusal::Forgotten));

    // A swap that expects a version newer than all that was forgotten is still told for certain that it lost.
    let loser = swap("key", current, b"x", 99);
    assert!(matches!(state.compare_and_swap(NOW, again(&loser)), Ok(Swap::Lost(_))));
}

#[test]
fn keys_are_short_and_printable() {
    let mut state = StoreState::new(StateLimits::default());
    let longest = "k".repeat(limits::KEY_LEN_BYTES_MAX);
    won(state.compare_and_swap(NOW, swap(&longest, Version::ABSENT, b"", 0)));
    for key in ["", "two words", "line\nbreak", "bell\u{7}", "größe", &format!("{longest}k")] {
        assert_eq!(state.get(NOW, key), Err(Refusal::InvalidKey), "{key:?}");
        assert_eq!(
            state.compare_and_swap(NOW, swap(key, Version::ABSENT, b"", 1)),
            Err(Refusal::InvalidKey),
            "{key:?}"
        );
    }
}

#[test]
fn a_value_of_the_longest_length_fits_and_one_byte_more_does_not() {
    let mut state = StoreState::new(StateLimits::default());
    let mut value = vec![0; limits::VALUE_LEN_BYTES_MAX];
    let version = won(state.compare_and_swap(NOW, swap("key", Version::ABSENT, &value, 0)));
    value.push(0);
    let len_bytes = value.len() as u64;
    assert_eq!(state.compare_and_swap(NOW, swap("key", version, &value, 1)), Err(Refusal::ValueTooLong { len_bytes }));
}

#[test]
fn the_number_of_keys_is_limited_but_old_keys_can_still_be_written() {
    let mut state = StoreState::new(StateLimits { keys_max: 2, ..StateLimits::default() });
    let version = won(state.compare_and_swap(NOW, swap("a", Version::ABSENT, b"", 0)));
    won(state.compare_and_swap(NOW, swap("b", Version::ABSENT, b"", 1)));
    assert_eq!(
        state.compare_and_swap(NOW, swap("c", Version::ABSENT, b"", 2)),
        Err(Refusal::TooManyKeys { keys_max: 2 })
    );
    won(state.compare_and_swap(NOW, swap("a", version, b"more", 3)));
}

#[test]
fn bytes_are_limited_and_given_back_by_shorter_values() {
    let mut state = StoreState::new(StateLimits { total_bytes_max: 10, ..StateLimits::default() });
    let full = won(state.compare_and_swap(NOW, swap("a", Version::ABSENT, &[0; 9], 0)));
    let refused = Err(Refusal::OutOfBytes { total_bytes_max: 10 });
    assert_eq!(state.compare_and_swap(NOW, swap("a", full, &[0; 10], 1)), refused);
    assert_eq!(state.compare_and_swap(NOW, swap("b", Version::ABSENT, b"", 2)), refused);
    let short = won(state.compare_and_swap(NOW, swap("a", full, &[0; 3], 3)));
    won(state.compare_and_swap(NOW, swap("b", Version::ABSENT, &[0; 5], 4)));
    assert_eq!(state.compare_and_swap(NOW, swap("a", short, &[0; 4], 5)), refused);
}

#[test]
fn a_listing_has_the_keys_of_a_prefix_in_order_and_goes_on_after_a_key() {
    let mut state = StoreState::new(StateLimits::default());
    for (sequence, key) in ["peer/2", "peers", "peer/10", "peer/1", "notice/1"].into_iter().enumerate() {
        won(state.compare_and_swap(NOW, swap(key, Version::ABSENT, b"", sequence as u64)));
    }
    let keys = |prefix: &str, after: &str, max| -> Vec<String> {
        state.list(NOW, prefix, after, max).unwrap().map(|(key, _)| key.to_owned()).collect()
    };
    assert_eq!(keys("peer/", "", 9), ["peer/1", "peer/10", "peer/2"]);
    assert_eq!(keys("peer/", "", 2), ["peer/1", "peer/10"]);
    assert_eq!(keys("peer/", "peer/10", 2), ["peer/2"]);
    assert_eq!(keys("peer/", "a", 2), ["peer/1", "peer/10"]);
    assert_eq!(keys("", "", 9).len(), 5);
    assert!(keys("z", "", 9).is_empty());
    assert_eq!(state.list(NOW, "two words", "", 9).err(), Some(Refusal::InvalidKey));
}

#[test]
fn a_value_ages_on_the_clock_of_the_store() {
    let mut state = StoreState::new(StateLimits::default());
    won(state.compare_and_swap(NOW, swap("key", Version::ABSENT, b"", 0)));
    let later = NOW.after(Duration::from_millis(1500));
    assert_eq!(state.get(later, "key").unwrap().unwrap().age, Duration::from_millis(1500));
}
