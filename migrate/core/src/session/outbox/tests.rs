//! What is posted when, and what becomes of it.

use std::time::Duration;

use proptest::prelude::*;
use xfer_transport_core::{Place, RegionId};

use super::*;
use crate::cost::RecomputeCost;
use crate::item::{GroupId, ItemClass};

const MIB: u64 = 1 << 20;

fn item(id: u64, bytes: u64, target: u32, irreplaceable: bool) -> Item {
    let cost = match irreplaceable {
        true => RecomputeCost::Irreplaceable,
        false => RecomputeCost::Compute { time: Duration::from_millis(1), from: vec![] },
    };
    Item {
        id: ItemId(id),
        name: format!("item.{id}").into(),
        class: ItemClass::Saved,
        bytes,
        version: 1,
        target,
        group: GroupId::ALONE,
        cost,
    }
}

fn region(id: u64, len_bytes: u64) -> (ItemId, RemoteRegion) {
    (ItemId(id), RemoteRegion { id: RegionId(id), len_bytes, place: Place::Host })
}

/// Items 0, 1, ... of these lengths for rank 0, granted and in order.
fn outbox(lengths: &[u64]) -> Outbox {
    let mut outbox = Outbox::default();
    let ids: Vec<ItemId> = (0..lengths.len() as u64).map(ItemId).collect();
    for (id, bytes) in lengths.iter().enumerate() {
        outbox.add(&item(id as u64, *bytes, 0, true));
        outbox.grant(0, &[region(id as u64, *bytes)]).expect("it is the item's length");
    }
    outbox.set_order(&ids);
    outbox
}

/// What was kept of an item: all of it, or less.
fn all_or_less(bytes: u64, all: bool) -> Landed {
    let mut kept = Landed::default();
    kept.insert(0..if all { bytes } else { bytes.div_ceil(2) }, 7);
    kept
}

fn post_all(outbox: &mut Outbox) -> Vec<u64> {
    std::iter::from_fn(|| outbox.post()).map(|(item, ..)| item.0).collect()
}

#[test]
fn the_window_is_full_at_its_bytes_and_not_before() {
    let mut exact = outbox(&[MIB, 63 * MIB, 1]);
    assert_eq!(post_all(&mut exact), [0, 1]);
    assert_eq!(exact.posted_bytes(), 64 * MIB);
    exact.applied(ItemId(0)).expect("it is posted");
    assert_eq!(post_all(&mut exact), [2]);
}

#[test]
fn the_window_is_full_at_its_items_and_not_before() {
    let mut many = outbox(&[1; 66]);
    assert_eq!(post_all(&mut many).len(), limits::WINDOW_ITEMS_MAX);
    many.applied(ItemId(5)).expect("it is posted");
    assert_eq!(post_all(&mut many), [64]);
}

#[test]
fn an_item_larger_than_the_window_travels_alone_and_holds_its_place() {
    let mut large = outbox(&[1, 100 * MIB, 1]);
    assert_eq!(post_all(&mut large), [0], "what is behind it does not overtake it");
    large.applied(ItemId(0)).expect("it is posted");
    assert_eq!(post_all(&mut large), [1]);
    large.applied(ItemId(1)).expect("it is posted");
    assert_eq!(post_all(&mut large), [2]);
}

#[test]
fn what_waits_for_memory_lets_others_ahead_one_at_a_time() {
    let mut outbox = Outbox::default();
    for id in 0..4 {
        outbox.add(&item(id, 10, (id == 1).into(), true));
    }
    outbox.set_order(&[0, 1, 2, 3].map(ItemId));
    outbox.grant(0, &[region(0, 10), region(2, 10), region(3, 10)]).expect("they are rank 0's");
    assert_eq!(post_all(&mut outbox), [0], "2 would be ahead of 1");
    outbox.applied(ItemId(0)).expect("it is posted");
    assert_eq!(post_all(&mut outbox), [2], "and may, when the link is idle");
    outbox.grant(1, &[region(1, 10)]).expect("it is rank 1's");
    assert_eq!(post_all(&mut outbox), [1, 3]);
}

#[test]
fn what_has_to_be_sent_again_has_its_old_place() {
    let mut outbox = outbox(&[1; 70]);
    post_all(&mut outbox);
    assert_eq!(outbox.failed(ItemId(3), true), Ok(Again::Queued));
    outbox.applied(ItemId(4)).expect("it is posted");
    assert_eq!(outbox.damaged(0, ItemId(4), 1), Ok(Some(Again::Queued)));
    assert_eq!(post_all(&mut outbox), [3, 4]);
    assert_eq!(outbox.applied(ItemId(4)), Ok((0, 2)), "its second sending");
}

#[test]
fn an_item_is_sent_so_often_and_no_oftener() {
    let mut outbox = Outbox::default();
    outbox.add(&item(0, 1, 0, true));
    outbox.add(&item(1, 1, 0, false));
    outbox.grant(0, &[region(0, 1), region(1, 1)]).expect("they are rank 0's");
    outbox.set_order(&[ItemId(0), ItemId(1)]);
    for _ in 1..limits::SENDS_PER_ITEM_MAX {
        assert_eq!(post_all(&mut outbox), [0, 1]);
        for id in [0, 1] {
            assert_eq!(outbox.failed(ItemId(id), true), Ok(Again::Queued));
        }
    }
    assert_eq!(post_all(&mut outbox), [0, 1]);
    assert_eq!(outbox.failed(ItemId(0), true), Ok(Again::Lost));
    assert_eq!(outbox.failed(ItemId(1), true), Ok(Again::GivenUp));
    assert_eq!(post_all(&mut outbox), [] as [u64; 0]);
    assert_eq!((outbox.is_finished(0), outbox.skipped(0)), (true, vec![ItemId(0), ItemId(1)]));
}

#[test]
fn words_about_other_sendings_change_nothing() {
    let mut outbox = outbox(&[1]);
    post_all(&mut outbox);
    let wrong = |what| Err(Violation::Item { what, item: ItemId(0) });
    assert_eq!(outbox.landed(0, ItemId(0), 1), wrong("landed"), "its bytes were not applied yet");
    outbox.applied(ItemId(0)).expect("it is posted");
    assert_eq!(outbox.applied(ItemId(0)), Err(Violation::Item { what: "written", item: ItemId(0) }));
    assert_eq!(outbox.landed(0, ItemId(0), 2), wrong("landed"));
    assert_eq!(outbox.landed(2, ItemId(0), 1), Err(Violation::UnknownItem { item: ItemId(0), rank: 2 }));
    assert_eq!(outbox.damaged(0, ItemId(0), 1), Ok(Some(Again::Queued)));
    assert_eq!(outbox.damaged(0, ItemId(0), 1), Ok(None), "said twice");
    post_all(&mut outbox);
    outbox.applied(ItemId(0)).expect("it is posted");
    assert_eq!(outbox.damaged(0, ItemId(0), 1), Ok(None), "said late");
    assert_eq!(outbox.landed(0, ItemId(0), 1), wrong("landed"));
    assert_eq!(outbox.landed(0, ItemId(0), 2), Ok(true));
    assert_eq!(outbox.landed(0, ItemId(0), 2), Ok(false), "said twice");
    assert_eq!(outbox.damaged(0, ItemId(0), 2), Err(Violation::Item { what: "damaged", item: ItemId(0) }));
}

#[test]
fn grants_are_taken_as_a_whole_or_not_at_all() {
    let mut outbox = Outbox::default();
    for id in 0..3 {
        outbox.add(&item(id, 10, 0, true));
    }
    outbox.set_order(&[0, 1, 2].map(ItemId));
    let refused = [vec![region(0, 10), region(1, 9)], vec![region(0, 10), region(7, 10)]];
    for grants in refused {
        assert!(outbox.grant(0, &grants).is_err());
        assert_eq!(outbox.post(), None);
    }
    assert!(outbox.grant(1, &[region(0, 10)]).is_err(), "it goes to rank 0");
    outbox.grant(0, &[region(0, 10)]).expect("it is rank 0's");
    outbox.grant(0, &[region(0, 10)]).expect("the same once more");
    let (_, other) = region(5, 10);
    assert!(outbox.grant(0, &[(ItemId(0), other)]).is_err(), "other memory for the same item");
}

#[test]
fn who_is_gone_gets_nothing_more() {
    let mut outbox = Outbox::default();
    for id in 0..4 {
        outbox.add(&item(id, 10, (id % 2) as u32, true));
    }
    outbox.set_order(&[0, 1, 2, 3].map(ItemId));
    outbox.grant(0, &[region(0, 10), region(2, 10)]).expect("they are rank 0's");
    outbox.grant(1, &[region(1, 10), region(3, 10)]).expect("they are rank 1's");
    assert_eq!(outbox.post().map(|(item, to, ..)| (item.0, to)), Some((0, 0)));
    outbox.give_up_target(0);
    assert_eq!(post_all(&mut outbox), [1, 3]);
    assert!(!outbox.is_finished(0), "what is posted is still on its way");
    assert_eq!(outbox.failed(ItemId(0), false), Ok(Again::Lost));
    assert!(outbox.is_finished(0) && !outbox.is_finished(1));
}

proptest! {
    /// Whatever happens, the tally says what counting anew says.
    #[test]
    fn the_tally_is_what_counting_says(
        steps in prop::collection::vec((0_u8..11, 0_u64..8, any::<bool>()), 0..120),
    ) {
        let mut outbox = Outbox::default();
        for id in 0..8 {
            outbox.add(&item(id, 1 + id * 20 * MIB, (id % 2) as u32, id < 4));
        }
        for (step, id, flag) in steps {
            let (at, target) = (ItemId(id), (id % 2) as u32);
            match step {
                0 => { let _ = outbox.grant(target, &[region(id, 1 + id * 20 * MIB)]); }
                1 => outbox.set_order(&(id..8).rev().map(ItemId).collect::<Vec<_>>()),
                2 => { let _ = outbox.post(); }
                3 => { let _ = outbox.applied(at); }
                4 => { let _ = outbox.failed(at, flag); }
                5 => { let _ = outbox.landed(target, at, 1); }
                6 => { let _ = outbox.damaged(target, at, 1); }
                7 => { let _ = outbox.keep(target, &[(at, all_or_less(1 + id * 20 * MIB, flag))]); }
                8 => { let _ = outbox.next_to_compare(); }
                9 => {
                    let there = if id > 5 { Landed::default() } else { all_or_less(1 + id * 20 * MIB, flag) };
                    let _ = outbox.compared(at, there);
                }
                _ if flag && id == 0 => outbox.give_up_target(target),
                _ => {}
            }
            let mut counted = Tally::default();
            for (item, entry) in outbox.entries.iter() {
                counted.add(item, entry);
            }
            prop_assert_eq!(format!("{:?}", outbox.tally), format!("{counted:?}"));
            let fits = counted.posted_bytes <= limits::WINDOW_BYTES_MAX || counted.posted_items == 1;
            prop_assert!(fits && counted.posted_items <= limits::WINDOW_ITEMS_MAX);
        }
    }
}
