//! What follows from what a target knows.

use std::time::Duration;

use proptest::prelude::*;
use xfer_transport_core::PeerId;

use super::*;
use crate::cost::RecomputeCost;
use crate::item::{GroupId, Item, ItemClass};

const MIGRATION: MigrationId = MigrationId { source: PeerId { rank: 1, incarnation: 1 }, generation: 7, attempt: 2 };

fn manifest() -> Manifest {
    let item = |id, target, cost| Item {
        id: ItemId(id),
        name: format!("item.{id}").into(),
        class: ItemClass::Saved,
        bytes: 8,
        version: 1,
        target,
        group: GroupId::ALONE,
        cost,
    };
    let time = Duration::from_millis(5);
    Manifest::new(vec![
        item(1, 0, RecomputeCost::Irreplaceable),
        item(2, 2, RecomputeCost::Irreplaceable),
        item(3, 0, RecomputeCost::Compute { time, from: vec![ItemId(1)] }),
        item(4, 2, RecomputeCost::Compute { time, from: vec![ItemId(2), ItemId(3)] }),
        item(5, 2, RecomputeCost::Fetch { from: 3 }),
    ])
    .expect("the items make a manifest")
}

fn cut() -> Option<Cut> {
    Some(Cut { total_items: 5, record: Bytes::from_static(b"step 41") })
}

fn seal(rank: u32, landed: &[u64], cut: Option<Cut>) -> (u32, Seal) {
    let target = PeerId { rank, incarnation: 1 };
    let landed = landed.iter().copied().map(ItemId).collect();
    (rank, Seal { migration: MIGRATION, target, root: [rank as u8; 32], landed, missing: vec![], cut })
}

struct Known {
    manifest: Manifest,
    seals: BTreeMap<u32, Seal>,
    gone: BTreeMap<u32, String>,
    source_gone: Option<String>,
}

impl Known {
    fn sealed<const N: usize>(seals: [(u32, Seal); N]) -> Self {
        Self { manifest: manifest(), seals: seals.into(), gone: BTreeMap::new(), source_gone: None }
    }

    fn ask<T>(&self, question: impl FnOnce(&Evidence<'_>) -> T) -> T {
        question(&Evidence {
            migration: MIGRATION,
            me: 0,
            targets: &[0, 2],
            owners_after: &[("a".to_owned(), 0), ("b".to_owned(), 2), ("c".to_owned(), 3)],
            manifest: &self.manifest,
            seals: &self.seals,
            gone: &self.gone,
            source_gone: self.source_gone.as_deref(),
        })
    }

    fn decision(&self) -> Option<GenerationRecord> {
        self.ask(|evidence| evidence.decide())
    }

    fn record(&self) -> GenerationRecord {
        self.ask(|evidence| evidence.decide_now())
    }
}

#[test]
fn with_everything_there_ownership_passes() {
    let known = Known::sealed([seal(0, &[1, 3], cut()), seal(2, &[2, 4, 5], None)]);
    let record = known.record();
    assert_eq!(known.decision(), Some(record.clone()));
    assert_eq!(record.kind, GenerationKind::Handoff);
    assert_eq!(record.reason, "all 5 items landed");
    assert_eq!(record.roots, [(0, [0; 32]), (2, [2; 32])]);
    assert_eq!(&record.record[..], b"step 41", "one target that heard of the cut is enough");
    assert!(record.ends(MIGRATION));
}

#[test]
fn what_follows_from_both_sides_is_had_again() {
    let record = Known::sealed([seal(0, &[1], cut()), seal(2, &[2], cut())]).record();
    assert_eq!(record.kind, GenerationKind::Handoff);
    assert_eq!(record.recompute, [3, 4, 5].map(ItemId));
    assert_eq!(record.reason, "2 of 5 items landed, the others are had again");
}

#[test]
fn every_obstacle_is_named_and_leads_to_a_checkpoint() {
    let complete = || Known::sealed([seal(0, &[1, 3], cut()), seal(2, &[2, 4, 5], cut())]);
    let cases = [
        (Known::sealed([seal(0, &[1, 3], cut()), seal(2, &[4, 5], cut())]), "lost: 1 of 5 items"),
        (
            Known { gone: BTreeMap::from([(2, "connection reset".to_owned())]), ..complete() },
            "rank 2 is gone (connection reset); lost: 2 of 5 items",
        ),
        (
            Known {
                gone: BTreeMap::from([(3, "connection reset".to_owned())]),
                ..Known::sealed([seal(0, &[1], cut()), seal(2, &[2], cut())])
            },
            "lost: 1 of 5 items",
        ),
        (Known::sealed([seal(0, &[1, 3], cut())]), "rank 2 did not seal in time; lost: 2 of 5 items"),
        (
            Known::sealed([seal(0, &[1, 3], None), seal(2, &[2, 4, 5], None)]),
            "the deadline passed before everything was offered",
        ),
        (
            Known {
                source_gone: Some("no byte for 1 s".to_owned()),
                ..Known::sealed([seal(0, &[1, 3], None), seal(2, &[2, 4, 5], None)])
            },
            "rank 1 was gone (no byte for 1 s) before it had offered everything",
        ),
        (
            Known { manifest: Manifest::new(manifest().items()[..4].to_vec()).expect("it is a part"), ..complete() },
            "rank 0 was not offered every item",
        ),
    ];
    for (known, reason) in cases {
        let record = known.record();
        assert_eq!((record.kind, record.reason.as_str()), (GenerationKind::Restore, reason));
        assert_eq!(record.recompute, [], "a checkpoint has everything");
    }
}

#[test]
fn a_rank_that_has_no_part_in_it_keeps_what_it_owns_even_if_it_can_not_be_seen() {
    let known = Known::sealed([seal(0, &[1, 3], cut()), seal(2, &[2, 4, 5], cut())]);
    let known = Known { gone: BTreeMap::from([(3, "no byte for 1 s".to_owned())]), ..known };
    let record = known.record();
    assert_eq!(record.kind, GenerationKind::Handoff);
    assert_eq!(record.owners, [("a".to_owned(), 0), ("b".to_owned(), 2), ("c".to_owned(), 3)]);
}

#[test]
fn no_shard_stays_with_the_dead() {
    let known = Known::sealed([seal(0, &[1, 3], cut()), seal(2, &[2, 4, 5], cut())]);
    assert_eq!(known.record().owners, [("a".to_owned(), 0), ("b".to_owned(), 2), ("c".to_owned(), 3)]);
    let known = Known { gone: BTreeMap::from([(2, "killed".to_owned())]), ..known };
    let record = known.record();
    assert_eq!(record.owners, [("a".to_owned(), 0), ("b".to_owned(), 0), ("c".to_owned(), 3)]);
    assert_eq!(record.landed, [1, 3].map(ItemId), "what the dead had is gone");
    assert_eq!(record.roots, [(0, [0; 32])]);
}

#[test]
fn who_knows_less_waits_for_who_knows_more() {
    let known = Known::sealed([seal(0, &[1, 3], None)]);
    assert_eq!(known.decision(), None);
    let part = Manifest::new(manifest().items()[..4].to_vec()).expect("it is a part");
    let known = Known { manifest: part, ..Known::sealed([seal(0, &[1, 3], None), seal(2, &[2, 4, 5], cut())]) };
    assert_eq!(known.decision(), None);
}

#[test]
fn very_many_losses_are_named_in_part() {
    let item = |id: u64| Item { id: ItemId(id), name: format!("item.{id}").into(), ..manifest().items()[0].clone() };
    let known = Known {
        manifest: Manifest::new((1..=3000).map(item).collect()).expect("they make a manifest"),
        ..Known::sealed([seal(0, &[], None), seal(2, &[], None)])
    };
    let record = known.record();
    assert_eq!(record.missing.len(), limits::MISSING_NAMES_MAX);
    assert!(record.reason.ends_with("lost: 3000 of 3000 items"), "{}", record.reason);
}

proptest! {
    /// Two targets that see the same come to the same, but for who they are.
    #[test]
    fn a_hand_over_is_exactly_what_the_rules_say(
        landed in prop::collection::btree_set(1_u64..=5, 0..=5),
        sealed in any::<[bool; 2]>(),
        cuts in any::<[bool; 2]>(),
        gone in prop::collection::btree_set(prop::sample::select(vec![0_u32, 2, 3, 4]), 0..2),
    ) {
        let manifest = manifest();
        let seal_of = |rank: u32, cut_seen: bool| {
            let own = |id: &&u64| manifest.get(ItemId(**id)).is_some_and(|item| item.target == rank);
            let own: Vec<u64> = landed.iter().filter(own).copied().collect();
            seal(rank, &own, cut_seen.then(cut).flatten())
        };
        let seals: Vec<(u32, Seal)> =
            [(0, 0), (1, 2)].iter().filter(|(at, _)| sealed[*at]).map(|(at, rank)| seal_of(*rank, cuts[*at])).collect();
        let known = Known {
            manifest: manifest.clone(),
            seals: seals.into_iter().collect(),
            gone: gone.iter().map(|rank| (*rank, "killed".to_owned())).collect(),
            source_gone: None,
        };
        let has = |id: u64| landed.contains(&id);
        // With both irreplaceable ones, 3 and 4 follow.
        let covered = has(1) && has(2) && (has(5) || !gone.contains(&3));
        let all_there = sealed == [true, true] && !gone.contains(&0) && !gone.contains(&2);
        let cut_known = (cuts[0] && sealed[0]) || (cuts[1] && sealed[1]);
        let record = known.record();
        prop_assert_eq!(record.kind == GenerationKind::Handoff, covered && all_there && cut_known, "{}", record.reason);
        prop_assert_eq!(record.reason.is_empty(), false);
    }
}
