//! Plans one after the other, as a link becomes quicker and slower.

use proptest::prelude::*;

use super::*;
use crate::plan::oracle::soonest_end_of_all_ns;
use crate::plan::ship;

const S: u64 = 1_000_000_000;
const ROOM: u64 = 1_000_000;

/// Ten bytes each; computed, they take 4, 2 and 1 seconds: they pay from 2.5, 5 and 10 bytes a second on.
const PIECES: [Piece; 3] = [piece(10, 4), piece(10, 2), piece(10, 1)];

const fn piece(bytes: u64, saves_s: u64) -> Piece {
    Piece { target: 0, bytes, saves_ns: saves_s * S }
}

fn sent(before: [bool; 3], low: u64, high: u64) -> Vec<bool> {
    choose(&PIECES, &before, RateInterval { low, high }, ROOM, Computing::After).sent
}

#[test]
fn what_pays_at_the_low_end_is_sent_and_what_is_disputed_stays_as_it_was() {
    assert_eq!(sent([false; 3], 3, 30), [true, false, false]);
    assert_eq!(sent([false, true, false], 3, 30), [true, true, false]);
    assert_eq!(sent([true; 3], 3, 30), [true; 3], "no end of it says that the last one doesn't pay");
    assert_eq!(sent([true; 3], 3, 9), [true, true, false]);
    assert_eq!(sent([true; 3], 1, 2), [false; 3]);
    assert_eq!(sent([false; 3], 11, 11), [true; 3]);
}

#[test]
fn a_short_burst_puts_nothing_on_the_link() {
    // Slow, quick for one sample, slow again: with the middle of the rate, the second plan would send the second piece.
    let rates = [(3, 4), (3, 8), (3, 4)];
    let mut plan = [false; 3].to_vec();
    for (low, high) in rates {
        plan = choose(&PIECES, &plan, RateInterval { low, high }, ROOM, Computing::After).sent;
        assert_eq!(plan, [true, false, false], "{low} to {high} bytes a second");
    }
    let middle = Link { bytes_per_s: 5, ahead_bytes: 0, free_bytes: 0, room_bytes: ROOM };
    assert_eq!(ship::choose(&PIECES, middle, Computing::After).end_ns, 5 * S, "where both are as good");
    // What stays quick is used.
    plan = choose(&PIECES, &plan, RateInterval { low: 6, high: 8 }, ROOM, Computing::After).sent;
    assert_eq!(plan, [true, true, false]);
    // And one slow moment takes nothing back of what may still pay.
    plan = choose(&PIECES, &plan, RateInterval { low: 3, high: 8 }, ROOM, Computing::After).sent;
    assert_eq!(plan, [true, true, false]);
}

#[test]
fn what_has_no_room_at_the_low_end_any_more_is_no_plan_to_stay_with() {
    let rate = RateInterval { low: 3, high: 30 };
    let sent = |room_bytes| choose(&PIECES, &[true; 3], rate, room_bytes, Computing::After).sent;
    assert_eq!(sent(30), [true; 3]);
    assert_eq!(sent(29), [true, false, false]);
    assert_eq!(sent(9), [false; 3]);
}

#[test]
fn a_plan_says_when_it_ends_at_the_middle_of_the_rate() {
    let choice = choose(&PIECES, &[false; 3], RateInterval { low: 4, high: 16 }, ROOM, Computing::After);
    // Ten bytes a second: one piece is sent, two are computed. At best all are sent, or the last one is not: three seconds.
    let expected = Choice { sent: vec![true, false, false], end_ns: 4 * S, sent_ns: S, bound_ns: 3 * S - 1 };
    assert_eq!(choice, expected);
    let unknown = choose(&PIECES, &[true; 3], RateInterval { low: 0, high: 0 }, 0, Computing::After);
    assert_eq!((unknown.sent, unknown.end_ns), (vec![false; 3], 7 * S));
}

/// Up to nine pieces of up to three targets, densest first, and which of them are sent.
fn planned() -> impl Strategy<Value = (Vec<Piece>, Vec<bool>)> {
    let piece = (0_usize..3, 1_u64..200, 0_u64..200, any::<bool>());
    prop::collection::vec(piece, 1..10).prop_map(|mut pieces| {
        pieces.sort_by(|one, other| (other.2 * one.1).cmp(&(one.2 * other.1)));
        let piece = |(target, bytes, saves_s, sent)| (Piece { target, bytes, saves_ns: saves_s * S }, sent);
        pieces.into_iter().map(piece).unzip()
    })
}

/// A link that changes its rate, in bytes per second, at moments in seconds; it keeps the last one.
#[derive(Debug, Clone)]
struct Changing(Vec<(u64, u64)>);

impl Changing {
    /// When it has carried so many bytes, in seconds.
    fn sent_s(&self, bytes: u64) -> f64 {
        let (mut left, mut at_s) = (bytes as f64, 0.0);
        for (seconds, bytes_per_s) in &self.0[..self.0.len() - 1] {
            let carried = (seconds * bytes_per_s) as f64;
            if carried >= left {
                return at_s + left / *bytes_per_s as f64;
            }
            (left, at_s) = (left - carried, at_s + *seconds as f64);
        }
        at_s + left / self.0[self.0.len() - 1].1 as f64
    }

    /// When all is there if `sent` are sent, in seconds.
    fn end_s(&self, pieces: &[Piece], sent: &[bool], computing: Computing) -> f64 {
        let bytes = pieces.iter().zip(sent).filter(|(_, sent)| **sent).map(|(piece, _)| piece.bytes).sum();
        let (sent_s, compute_s) = (self.sent_s(bytes), compute_s(pieces, sent));
        match computing {
            Computing::Beside => sent_s.max(compute_s),
            Computing::After => sent_s + compute_s,
        }
    }
}

/// What the busiest target computes.
fn compute_s(pieces: &[Piece], sent: &[bool]) -> f64 {
    let of = |target| {
        let kept = pieces.iter().zip(sent).filter(|(piece, sent)| piece.target == target && !**sent);
        kept.map(|(piece, _)| piece.saves_ns / S).sum::<u64>()
    };
    (0..3).map(of).max().unwrap_or(0) as f64
}

fn computing() -> impl Strategy<Value = Computing> {
    prop_oneof![Just(Computing::Beside), Just(Computing::After)]
}

const ROUNDED_S: f64 = 1e-6;

proptest! {
    #[test]
    fn a_new_plan_is_never_later_than_the_one_before_whatever_the_rate_does_within_its_interval(
        (pieces, before) in planned(),
        low in 1_u64..50,
        more in 0_u64..50,
        rates in prop::collection::vec((0_u64..20, 0.0..=1.0), 1..6),
        computing in computing(),
    ) {
        let rate = RateInterval { low, high: low + more };
        let new = choose(&pieces, &before, rate, ROOM, computing).sent;
        let within = |(seconds, part): &(u64, f64)| (*seconds, low + (more as f64 * part) as u64);
        let link = Changing(rates.iter().map(within).collect());
        let (is, was) = (link.end_s(&pieces, &new, computing), link.end_s(&pieces, &before, computing));
        prop_assert!(is <= was + ROUNDED_S, "{is} s after {was} s: {new:?}");
    }

    #[test]
    fn where_the_link_falls_below_its_interval_a_new_plan_is_later_by_no_more_than_it_says(
        (pieces, before) in planned(),
        low in 10_u64..50,
        more in 0_u64..50,
        fallen in 1_u64..10,
        computing in computing(),
    ) {
        let new = choose(&pieces, &before, RateInterval { low, high: low + more }, ROOM, computing).sent;
        let link = Changing(vec![(0, fallen)]);
        let (is, was) = (link.end_s(&pieces, &new, computing), link.end_s(&pieces, &before, computing));
        let bound = (low as f64 / fallen as f64 - 1.0) * compute_s(&pieces, &before);
        prop_assert!(is <= was + bound + ROUNDED_S, "{is} s after {was} s, bound {bound} s: {new:?}");
    }

    #[test]
    fn where_the_link_rises_above_its_interval_a_new_plan_is_later_by_no_more_than_it_says(
        (pieces, before) in planned(),
        low in 1_u64..50,
        more in 0_u64..50,
        quicker in 1_u64..1000,
        computing in computing(),
    ) {
        let rate = RateInterval { low, high: low + more };
        let new = choose(&pieces, &before, rate, ROOM, computing).sent;
        let link = Changing(vec![(0, rate.high + quicker)]);
        let (is, was) = (link.end_s(&pieces, &new, computing), link.end_s(&pieces, &before, computing));
        let bytes: u64 = pieces.iter().zip(&before).filter(|(_, sent)| **sent).map(|(piece, _)| piece.bytes).sum();
        let bound = bytes as f64 / rate.high as f64;
        prop_assert!(is <= was + bound + ROUNDED_S, "{is} s after {was} s, bound {bound} s: {new:?}");
    }

    #[test]
    fn at_a_rate_that_is_known_no_plan_before_makes_a_worse_one(
        (pieces, before) in planned(),
        bytes_per_s in 1_u64..50,
        room_bytes in 0_u64..2000,
        computing in computing(),
    ) {
        let rate = RateInterval { low: bytes_per_s, high: bytes_per_s };
        let link = Link { bytes_per_s, ahead_bytes: 0, free_bytes: 0, room_bytes };
        let steady = choose(&pieces, &before, rate, room_bytes, computing);
        let fresh = ship::choose(&pieces, link, computing);
        prop_assert!(steady.end_ns <= fresh.end_ns);
        prop_assert!(steady.bound_ns <= soonest_end_of_all_ns(&pieces, link, computing));
        let bytes: u64 = pieces.iter().zip(&steady.sent).filter(|(_, sent)| **sent).map(|(piece, _)| piece.bytes).sum();
        prop_assert!(bytes <= room_bytes);
    }

    #[test]
    fn plans_in_a_row_end_no_later_than_the_first_at_any_rate_that_all_of_them_were_made_for(
        (pieces, _) in planned(),
        middle in 10_u64..50,
        widths in prop::collection::vec((0_u64..10, 0_u64..200), 1..12),
        computing in computing(),
    ) {
        let mut plan = vec![false; pieces.len()];
        let link = Changing(vec![(0, middle)]);
        let mut end_s = link.end_s(&pieces, &plan, computing);
        for (below, above) in widths {
            let rate = RateInterval { low: middle - below.min(middle - 1), high: middle + above };
            plan = choose(&pieces, &plan, rate, ROOM, computing).sent;
            let new_s = link.end_s(&pieces, &plan, computing);
            prop_assert!(new_s <= end_s + ROUNDED_S, "{new_s} s after {end_s} s");
            end_s = new_s;
        }
    }
}
