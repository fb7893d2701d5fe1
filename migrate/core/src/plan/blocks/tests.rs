//! Orders against the exact optimum at every byte, and what they refuse.

use proptest::prelude::*;

use super::*;
use crate::plan::oracle::most_saved_by_closures_ns;

fn parcel(bytes: u64, saves_ns: u64, needs: &[usize]) -> Parcel {
    Parcel { bytes, saves_ns, needs: needs.to_vec() }
}

fn places(blocks: &[Block]) -> Vec<Vec<usize>> {
    blocks.iter().map(|block| block.parcels.clone()).collect()
}

#[test]
fn what_stands_alone_is_sorted_by_density_and_then_by_length() {
    let parcels = [(10, 10), (5, 20), (20, 20), (7, 0), (0, 3)].map(|(bytes, saves)| parcel(bytes, saves, &[]));
    assert_eq!(places(&blocks(&parcels).unwrap()), [vec![4], vec![1], vec![0], vec![2], vec![3]]);
}

#[test]
fn a_need_that_is_worth_nothing_travels_with_the_first_that_needs_it() {
    // Alone, 1 saves 10 a byte; but 0 comes first, and 3 is better than both.
    let parcels = [parcel(9, 0, &[]), parcel(1, 10, &[0]), parcel(1, 10, &[0]), parcel(2, 4, &[])];
    assert_eq!(places(&blocks(&parcels).unwrap()), [vec![3], vec![0, 1, 2]]);
}

#[test]
fn a_chain_is_cut_where_its_density_falls() {
    let parcels = [parcel(1, 1, &[]), parcel(1, 9, &[0]), parcel(1, 2, &[1]), parcel(1, 3, &[2])];
    assert_eq!(places(&blocks(&parcels).unwrap()), [vec![0, 1], vec![2, 3]]);
}

#[test]
fn a_need_of_two_is_sent_once() {
    let parcels = [parcel(4, 0, &[]), parcel(4, 0, &[]), parcel(0, 8, &[0]), parcel(0, 4, &[0, 1]), parcel(3, 3, &[])];
    let found = blocks(&parcels).unwrap();
    assert_eq!(places(&found), [vec![0, 2], vec![4], vec![1, 3]]);
    assert_eq!([0, 4, 5, 8, 9, 10, 11, 99].map(|bytes| best_saved_ns(&found, bytes)), [0, 8, 9, 12, 13, 14, 15, 15]);
}

#[test]
fn what_makes_no_order_is_refused_by_name() {
    let error = |parcels: &[Parcel]| blocks(parcels).unwrap_err();
    assert_eq!(error(&[parcel(1, 1, &[0])]), BlocksError::Cycle { parcel: 0 });
    assert_eq!(error(&[parcel(1, 1, &[1]), parcel(1, 1, &[0])]), BlocksError::Cycle { parcel: 0 });
    let unknown = BlocksError::UnknownNeed { parcel: 0, needs: 1, parcels: 1 };
    assert_eq!(error(&[parcel(1, 1, &[1])]), unknown);
    let half = 1 << 61;
    assert!(blocks(&[parcel(half, half, &[]), parcel(half, half, &[])]).is_ok());
    assert_eq!(error(&[parcel(half + 1, 1, &[]), parcel(half, 1, &[])]), BlocksError::TooMuch { what: "bytes" });
    assert_eq!(error(&[parcel(1, half + 1, &[]), parcel(1, half, &[])]), BlocksError::TooMuch { what: "savings" });
}

#[test]
fn so_many_may_hang_together_and_no_more() {
    let chain = |count: usize| -> Vec<Parcel> {
        (0..count).map(|at| if at == 0 { parcel(5, 0, &[]) } else { parcel(1, at as u64, &[at - 1]) }).collect()
    };
    let found = blocks(&chain(limits::ENTANGLED_MAX)).unwrap();
    assert_eq!(found.iter().map(|block| block.parcels.len()).sum::<usize>(), limits::ENTANGLED_MAX);
    let error = BlocksError::TooEntangled { parcels: limits::ENTANGLED_MAX + 1 };
    assert_eq!(blocks(&chain(limits::ENTANGLED_MAX + 1)), Err(error));
}

/// A parcel that all others need, and nothing else: what the shortcut for it finds is checked like anything else.
fn stars() -> impl Strategy<Value = Vec<Parcel>> {
    prop::collection::vec((0_u64..12, 0_u64..30), 2..9).prop_map(|parcels| {
        let needs = |at: usize| if at == 0 { vec![] } else { vec![0] };
        let parcel = |(at, (bytes, saves_ns)): (usize, (u64, u64))| Parcel { bytes, saves_ns, needs: needs(at) };
        parcels.into_iter().enumerate().map(parcel).collect()
    })
}

/// Up to nine parcels, each of which may need any of those before it.
fn parcels() -> impl Strategy<Value = Vec<Parcel>> {
    let one = (0_u64..12, 0_u64..30, any::<u16>(), any::<u16>());
    prop::collection::vec(one, 1..10).prop_map(|parcels| {
        let parcel = |(at, (bytes, saves_ns, some, others)): (usize, (u64, u64, u16, u16))| {
            // A quarter of all possible needs.
            let needs = (0..at).filter(|need| some & others & (1 << need) != 0).collect();
            Parcel { bytes, saves_ns, needs }
        };
        parcels.into_iter().enumerate().map(parcel).collect()
    })
}

/// The same, where needs stand anywhere.
fn shuffled() -> impl Strategy<Value = Vec<Parcel>> {
    let places = |parcels: &[Parcel]| Just((0..parcels.len()).collect::<Vec<_>>()).prop_shuffle();
    parcels().prop_flat_map(move |parcels| (places(&parcels), Just(parcels))).prop_map(|(place_of, parcels)| {
        let mut moved = vec![parcel(0, 0, &[]); parcels.len()];
        for (at, mut parcel) in parcels.into_iter().enumerate() {
            parcel.needs.iter_mut().for_each(|need| *need = place_of[*need]);
            moved[place_of[at]] = parcel;
        }
        moved
    })
}

fn any_parcels() -> impl Strategy<Value = Vec<Parcel>> {
    prop_oneof![parcels(), shuffled(), stars()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn at_every_moment_the_order_is_best_but_for_the_block_on_its_way(parcels in any_parcels()) {
        let found = blocks(&parcels).unwrap();
        let (mut bytes, mut saved) = (0, 0);
        for block in &found {
            for at in bytes..bytes + block.bytes {
                let best = most_saved_by_closures_ns(&parcels, at);
                prop_assert!(best_saved_ns(&found, at) >= best, "the bound holds at {at} bytes");
                prop_assert!(saved + block.saves_ns >= best, "at {at} bytes");
            }
            (bytes, saved) = (bytes + block.bytes, saved + block.saves_ns);
            prop_assert_eq!(most_saved_by_closures_ns(&parcels, bytes), best_saved_ns(&found, bytes));
        }
        prop_assert_eq!(saved, most_saved_by_closures_ns(&parcels, u64::MAX));
    }

    #[test]
    fn the_order_has_everything_once_and_needs_first(parcels in any_parcels()) {
        let order: Vec<usize> = blocks(&parcels).unwrap().into_iter().flat_map(|block| block.parcels).collect();
        let mut seen = vec![false; parcels.len()];
        for place in order {
            prop_assert!(!seen[place]);
            prop_assert!(parcels[place].needs.iter().all(|need| seen[*need]));
            seen[place] = true;
        }
        prop_assert!(seen.iter().all(|seen| *seen));
    }
}
