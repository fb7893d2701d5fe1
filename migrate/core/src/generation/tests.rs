//! Records come back as they were, and what isn't one is refused.

use proptest::prelude::*;

use super::*;
use crate::store::limits::VALUE_LEN_BYTES_MAX;

const MIGRATION: MigrationId = MigrationId { source: PeerId { rank: 1, incarnation: 2 }, generation: 6, attempt: 3 };

fn handoff() -> GenerationRecord {
    GenerationRecord {
        generation: 7,
        base: 6,
        kind: GenerationKind::Handoff,
        source: Some(MIGRATION.source),
        attempt: 3,
        owners: vec![("layers.0-5".into(), 0), ("layers.6-11".into(), 2)],
        roots: vec![(0, [7; 32]), (2, [9; 32])],
        landed: vec![ItemId(1), ItemId(4)],
        recompute: vec![ItemId(2)],
        missing: vec![],
        reason: "2 of 3 items landed, the others are had again".into(),
        record: Bytes::from_static(b"step 41"),
    }
}

#[test]
fn records_come_back() {
    let restore = GenerationRecord {
        kind: GenerationKind::Restore,
        missing: vec!["layer.6.weight".into()],
        reason: "rank 2 is gone".into(),
        ..handoff()
    };
    let initial = GenerationRecord::initial(handoff().owners);
    let withdrawn = initial.withdrawn(MigrationId { generation: 0, ..MIGRATION }, "the notice was withdrawn".into());
    for record in [handoff(), restore, initial, withdrawn] {
        assert_eq!(GenerationRecord::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn a_withdrawal_leaves_everything_where_it_was() {
    let base = GenerationRecord { generation: 6, base: 5, ..handoff() };
    let record = base.withdrawn(MIGRATION, "false alarm".into());
    assert_eq!((record.generation, record.base, record.kind), (7, 6, GenerationKind::Withdrawn));
    assert_eq!(record.owners, base.owners);
    assert_eq!((record.landed, record.roots, record.record), (vec![], vec![], Bytes::new()));
}

#[test]
fn a_record_ends_only_its_own_migration() {
    assert!(handoff().ends(MIGRATION));
    let others = [
        MigrationId { attempt: 4, ..MIGRATION },
        MigrationId { generation: 5, ..MIGRATION },
        MigrationId { source: PeerId { rank: 1, incarnation: 3 }, ..MIGRATION },
        MigrationId { source: PeerId { rank: 2, incarnation: 2 }, ..MIGRATION },
    ];
    for other in others {
        assert!(!handoff().ends(other), "{other}");
    }
}

#[test]
fn numbers_that_do_not_belong_together_are_refused() {
    let records = [
        GenerationRecord { generation: 8, ..handoff() },
        GenerationRecord { generation: 6, ..handoff() },
        GenerationRecord { generation: 0, base: u64::MAX, ..handoff() },
        GenerationRecord { source: None, ..handoff() },
        GenerationRecord { source: Some(MIGRATION.source), ..GenerationRecord::initial(vec![]) },
        GenerationRecord { generation: 3, ..GenerationRecord::initial(vec![]) },
    ];
    for record in records {
        let refused = GenerationRecord::decode(&record.encode());
        assert!(matches!(refused, Err(DecodeError::Inconsistent { .. })), "{refused:?}");
    }
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = handoff().encode().to_vec();
    bytes[0] = 2;
    let refused = GenerationRecord::decode(&bytes).unwrap_err().to_string();
    assert_eq!(refused, "the generation's format 2 is not known to this version");
}

#[test]
fn the_largest_record_fits_into_the_store() {
    let id = |at: usize| ItemId(at as u64);
    let largest = GenerationRecord {
        owners: vec![("s".repeat(limits::SHARD_NAME_LEN_BYTES_MAX), 0); limits::SHARDS_MAX],
        roots: vec![(0, [0; 32]); limits::TARGETS_MAX],
        // What landed isn't had again: together they are at most all items.
        landed: (0..limits::ITEMS_MAX).map(id).collect(),
        missing: vec!["m".repeat(limits::NAME_LEN_BYTES_MAX); limits::MISSING_NAMES_MAX],
        reason: "r".repeat(limits::REASON_LEN_BYTES_MAX),
        record: vec![0; limits::RECORD_LEN_BYTES_MAX].into(),
        ..handoff()
    };
    let bytes = largest.encode();
    assert!(bytes.len() <= VALUE_LEN_BYTES_MAX, "{} bytes", bytes.len());
    assert_eq!(GenerationRecord::decode(&bytes), Ok(largest));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_come_back_alike(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = GenerationRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_comes_back_alike(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = handoff().encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(record) = GenerationRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_record_that_is_cut_short_is_refused(len in any::<prop::sample::Index>()) {
        let bytes = handoff().encode();
        prop_assert!(GenerationRecord::decode(&bytes[..len.index(bytes.len())]).is_err());
    }
}
