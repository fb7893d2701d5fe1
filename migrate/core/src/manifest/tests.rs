//! What makes a manifest, and what it covers, against brute force.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::item::{GroupId, ItemClass};

fn item(id: u64, cost: RecomputeCost) -> Item {
    Item {
        id: ItemId(id),
        name: format!("item.{id}").into(),
        class: ItemClass::Saved,
        bytes: 8,
        version: 1,
        target: 0,
        group: GroupId::ALONE,
        cost,
    }
}

fn computed(id: u64, from: &[u64]) -> Item {
    let from = from.iter().copied().map(ItemId).collect();
    item(id, RecomputeCost::Compute { time: Duration::from_millis(1), from })
}

fn lost(id: u64) -> Item {
    item(id, RecomputeCost::Irreplaceable)
}

fn ids(manifest: &Manifest) -> Vec<u64> {
    manifest.items().iter().map(|item| item.id.0).collect()
}

#[test]
fn items_keep_their_order_where_dependencies_allow() {
    let manifest = Manifest::new(vec![lost(3), computed(1, &[2, 3]), lost(4), lost(2)]).unwrap();
    assert_eq!(ids(&manifest), [3, 2, 1, 4]);
    assert_eq!(manifest.get(ItemId(1)).map(|item| item.id), Some(ItemId(1)));
    assert_eq!(manifest.get(ItemId(9)), None);
    assert_eq!((manifest.len(), manifest.total_bytes()), (4, 32));
}

#[test]
fn what_is_added_stands_behind_what_was_there() {
    let mut manifest = Manifest::new(vec![lost(7)]).unwrap();
    manifest.extend(vec![computed(6, &[5, 7]), lost(5)]).unwrap();
    assert_eq!(ids(&manifest), [7, 5, 6]);
}

#[test]
fn a_refused_extension_changes_nothing() {
    let mut manifest = Manifest::new(vec![lost(1)]).unwrap();
    let before = manifest.clone();
    let refused = [
        (vec![lost(2), lost(2)], ManifestError::DuplicateId(ItemId(2))),
        (vec![lost(1)], ManifestError::DuplicateId(ItemId(1))),
        (vec![computed(2, &[9])], ManifestError::UnknownInput { name: "item.2".into(), input: ItemId(9) }),
        (vec![computed(2, &[2])], ManifestError::Cycle { name: "item.2".into() }),
        (vec![computed(2, &[3]), computed(3, &[4]), computed(4, &[2])], ManifestError::Cycle { name: "item.2".into() }),
        (vec![Item { bytes: 0, ..lost(2) }], ManifestError::Size { name: "item.2".into(), bytes: 0 }),
        (
            vec![Item { bytes: limits::ITEM_BYTES_MAX + 1, ..lost(2) }],
            ManifestError::Size { name: "item.2".into(), bytes: limits::ITEM_BYTES_MAX + 1 },
        ),
        (vec![Item { name: "".into(), ..lost(2) }], ManifestError::NameLength { id: ItemId(2), len_bytes: 0 }),
        (
            vec![Item { name: "n".repeat(513).into(), ..lost(2) }],
            ManifestError::NameLength { id: ItemId(2), len_bytes: 513 },
        ),
        (vec![Item { name: "item.1".into(), ..lost(2) }], ManifestError::DuplicateName("item.1".into())),
        (
            vec![computed(2, &vec![1; limits::INPUTS_PER_ITEM_MAX + 1])],
            ManifestError::TooManyInputs { name: "item.2".into(), inputs: limits::INPUTS_PER_ITEM_MAX + 1 },
        ),
    ];
    for (items, error) in refused {
        assert_eq!(manifest.extend(items), Err(error));
        assert_eq!(manifest, before);
    }
    let largest = Item { bytes: limits::ITEM_BYTES_MAX, name: "n".repeat(512).into(), ..lost(2) };
    manifest.extend(vec![largest]).unwrap();
    manifest.extend(vec![computed(3, &vec![1; limits::INPUTS_PER_ITEM_MAX])]).unwrap();
}

#[test]
fn there_is_a_limit_to_items_and_none_to_their_depth() {
    let link = |id: u64| if id == 0 { lost(0) } else { computed(id, &[id - 1]) };
    let chain = |len: u64| (0..len).rev().map(link).collect();
    let most = limits::ITEMS_MAX as u64;
    let manifest = Manifest::new(chain(most)).unwrap();
    assert_eq!(manifest.items()[0].id, ItemId(0), "the last one given needs nothing");
    assert_eq!(Manifest::new(chain(most + 1)), Err(ManifestError::TooManyItems { items: most as usize + 1 }));
}

#[test]
fn what_a_rank_holds_can_be_fetched_while_it_is_there() {
    let manifest = Manifest::new(vec![item(1, RecomputeCost::Fetch { from: 4 }), computed(2, &[1])]).unwrap();
    let none = BTreeSet::new();
    let there = coverage(&manifest, &none, &BTreeSet::from([3]));
    assert_eq!(there, Coverage { recompute: vec![ItemId(1), ItemId(2)], missing: vec![] });
    let gone = coverage(&manifest, &none, &BTreeSet::from([4]));
    assert_eq!(gone, Coverage { recompute: vec![], missing: vec![ItemId(1), ItemId(2)] });
}

/// Up to twelve items; each may need any of those with a smaller id.
fn items() -> impl Strategy<Value = Vec<Item>> {
    let cost = (0_u8..5, any::<u16>(), 0_u32..3);
    prop::collection::vec(cost, 1..12).prop_map(|costs| {
        let item = |(id, (kind, needs, rank)): (usize, (u8, u16, u32))| {
            let from: Vec<u64> = (0..id as u64).filter(|input| needs & (1 << input) != 0).collect();
            match kind {
                0 => lost(id as u64),
                1 => item(id as u64, RecomputeCost::Fetch { from: rank }),
                _ => computed(id as u64, &from),
            }
        };
        costs.into_iter().enumerate().map(item).collect()
    })
}

/// Everything that can be had, found by trying again and again until nothing is added.
fn can_be_had(items: &[Item], landed: &BTreeSet<ItemId>, gone: &BTreeSet<u32>) -> BTreeSet<ItemId> {
    let mut had = landed.clone();
    loop {
        let before = had.len();
        for item in items {
            let again = match &item.cost {
                RecomputeCost::Irreplaceable => false,
                RecomputeCost::Compute { from, .. } => from.iter().all(|input| had.contains(input)),
                RecomputeCost::Fetch { from } => !gone.contains(from),
            };
            if again {
                had.insert(item.id);
            }
        }
        if had.len() == before {
            return had;
        }
    }
}

proptest! {
    #[test]
    fn coverage_is_what_can_be_had(
        items in items().prop_shuffle(),
        landed in prop::collection::btree_set((0_u64..12).prop_map(ItemId), 0..8),
        gone in prop::collection::btree_set(0_u32..3, 0..3),
    ) {
        let is_known = |id: &ItemId| items.iter().any(|item| item.id == *id);
        let landed: BTreeSet<ItemId> = landed.into_iter().filter(is_known).collect();
        let manifest = Manifest::new(items.clone()).unwrap();
        let found = coverage(&manifest, &landed, &gone);

        let had = can_be_had(&items, &landed, &gone);
        let recompute: BTreeSet<ItemId> = found.recompute.iter().copied().collect();
        prop_assert_eq!(&recompute, &had.difference(&landed).copied().collect());
        let missing: BTreeSet<ItemId> = found.missing.iter().copied().collect();
        prop_assert_eq!(&missing, &items.iter().map(|item| item.id).filter(|id| !had.contains(id)).collect());
        prop_assert_eq!(recompute.len() + missing.len() + landed.len(), items.len());

        // Whoever follows the list has every input when it is needed.
        let mut there = landed;
        for id in found.recompute {
            let item = manifest.get(id).unwrap();
            prop_assert!(item.cost.inputs().iter().all(|input| there.contains(input)));
            there.insert(id);
        }
    }

    #[test]
    fn more_that_lands_never_loses_anything(
        items in items(),
        some in prop::collection::btree_set((0_u64..12).prop_map(ItemId), 0..6),
        more in prop::collection::btree_set((0_u64..12).prop_map(ItemId), 0..6),
    ) {
        let manifest = Manifest::new(items).unwrap();
        let missing = |landed: &BTreeSet<ItemId>| coverage(&manifest, landed, &BTreeSet::new()).missing.len();
        let all: BTreeSet<ItemId> = some.union(&more).copied().collect();
        prop_assert!(missing(&all) <= missing(&some));
    }

    #[test]
    fn inputs_stand_before_what_needs_them_however_items_are_added(
        items in items().prop_shuffle(),
        first in 0_usize..12,
    ) {
        let whole = Manifest::new(items.clone()).unwrap();
        let mut parts = Manifest::default();
        // Parts of a dependency order can be added one after the other, as offers are.
        let (early, late) = whole.items().split_at(first.min(items.len()));
        parts.extend(early.to_vec()).unwrap();
        parts.extend(late.to_vec()).unwrap();
        prop_assert_eq!(&parts, &whole);
        for (at, item) in whole.items().iter().enumerate() {
            for input in item.cost.inputs() {
                prop_assert!(whole.place(*input).is_some_and(|place| place < at));
            }
        }
    }
}
