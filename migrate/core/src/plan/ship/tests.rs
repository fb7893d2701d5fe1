//! Choices against all others, on small cases.

use proptest::prelude::*;

use super::*;
use crate::plan::oracle::soonest_end_of_all_ns;

const S: u64 = 1_000_000_000;

fn piece(target: usize, bytes: u64, saves_s: u64) -> Piece {
    Piece { target, bytes, saves_ns: saves_s * S }
}

fn link(room_bytes: u64) -> Link {
    Link { bytes_per_s: 10, ahead_bytes: 0, free_bytes: 0, room_bytes }
}

#[test]
fn beside_each_other_link_and_target_end_together() {
    let pieces = [piece(0, 10, 4), piece(0, 10, 2), piece(0, 10, 2)];
    let choice = choose(&pieces, link(99), Computing::Beside);
    assert_eq!((choice.sent, choice.end_ns), (vec![true, true, false], 2 * S));
    // In part: 4/3 bytes more than two pieces would be the crossing, but two are exact.
    assert_eq!(choice.bound_ns, 2 * S - 1);
}

#[test]
fn after_each_other_a_piece_is_sent_if_the_link_is_quicker() {
    let pieces = [piece(0, 10, 4), piece(0, 10, 2), piece(0, 20, 1)];
    let choice = choose(&pieces, link(99), Computing::After);
    assert_eq!((choice.sent, choice.end_ns), (vec![true, true, false], 3 * S));
}

#[test]
fn of_two_targets_the_busier_one_is_helped_first() {
    // One second on the link takes two off a target, but only if both are brought down does the end come nearer.
    let pieces = [piece(0, 10, 2), piece(1, 10, 2), piece(0, 10, 2)];
    let choice = choose(&pieces, link(99), Computing::After);
    assert_eq!((choice.sent[0] || choice.sent[2], choice.end_ns), (true, 3 * S));
    assert!(!choice.sent[1]);
}

#[test]
fn while_nobody_waits_for_the_link_it_is_used() {
    let pieces = [piece(0, 10, 2), piece(0, 20, 1), piece(0, 20, 1)];
    let waiting = Link { free_bytes: 30, ..link(99) };
    let choice = choose(&pieces, waiting, Computing::After);
    assert_eq!((choice.sent, choice.end_ns), (vec![true, true, false], 4 * S));
}

#[test]
fn what_has_to_leave_anyway_takes_its_time_before_it() {
    let pieces = [piece(0, 10, 4)];
    let ahead = Link { ahead_bytes: 20, ..link(99) };
    for (computing, bound_ns) in [(Computing::After, 3 * S - 1), (Computing::Beside, 12 * S / 5 - 1)] {
        let choice = choose(&pieces, ahead, computing);
        assert_eq!((choice.sent, choice.end_ns, choice.bound_ns), (vec![true], 3 * S, bound_ns));
    }
}

#[test]
fn no_room_means_everything_is_computed() {
    let pieces = [piece(0, 10, 2), piece(1, 10, 3)];
    let choice = choose(&pieces, link(9), Computing::Beside);
    assert_eq!((choice.sent, choice.end_ns), (vec![false, false], 3 * S));
    let unknown =
        choose(&pieces, Link { bytes_per_s: 0, ahead_bytes: 0, free_bytes: 0, room_bytes: 0 }, Computing::After);
    assert_eq!((unknown.sent, unknown.end_ns, unknown.bound_ns <= 3 * S), (vec![false, false], 3 * S, true));
    assert_eq!(choose(&[], link(9), Computing::Beside), Choice { sent: vec![], end_ns: 0, sent_ns: 0, bound_ns: 0 });
}

#[test]
fn what_saves_nothing_stays() {
    for computing in [Computing::Beside, Computing::After] {
        assert_eq!(choose(&[piece(0, 5, 7), piece(0, 5, 0)], link(99), computing).sent, [true, false]);
    }
}

/// Up to nine pieces of up to three targets, densest first.
fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let one = (0_usize..3, 1_u64..200, 0_u64..200).prop_map(|(target, bytes, saves)| piece(target, bytes, saves));
    prop::collection::vec(one, 0..10).prop_map(|mut pieces| {
        pieces.sort_by(|a, b| {
            let (ours, theirs) =
                (u128::from(a.saves_ns) * u128::from(b.bytes), u128::from(b.saves_ns) * u128::from(a.bytes));
            theirs.cmp(&ours)
        });
        pieces
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_choice_is_within_a_piece_a_target_of_the_best_and_above_its_bound(
        pieces in pieces(),
        bytes_per_s in 1_u64..400,
        room_bytes in 0_u64..1500,
        ahead_bytes in prop_oneof![Just(0_u64), 0_u64..500],
        free_bytes in prop_oneof![Just(0_u64), 0_u64..900],
        beside in any::<bool>(),
    ) {
        let computing = if beside { Computing::Beside } else { Computing::After };
        let link = Link { bytes_per_s, ahead_bytes, free_bytes, room_bytes };
        let choice = choose(&pieces, link, computing);
        let sent: u64 = pieces.iter().zip(&choice.sent).filter(|(_, sent)| **sent).map(|(piece, _)| piece.bytes).sum();
        prop_assert!(sent <= room_bytes);
        let best = soonest_end_of_all_ns(&pieces, link, computing);
        prop_assert!(choice.bound_ns <= best && best <= choice.end_ns, "{} {best} {}", choice.bound_ns, choice.end_ns);
        let slip_of = |piece: &Piece| piece.saves_ns;
        let slip: u64 = (0..3)
            .map(|target| pieces.iter().filter(|piece| piece.target == target).map(slip_of).max().unwrap_or(0))
            .max()
            .unwrap_or(0);
        prop_assert!(choice.end_ns <= best + slip, "{} {best} {slip}", choice.end_ns);
    }
}
