//! Roots depend on everything that landed and on nothing else; seals come back as they were.

use proptest::prelude::*;

use super::*;
use crate::store::limits::{KEY_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX};

const MIGRATION: MigrationId = MigrationId { source: PeerId { rank: 3, incarnation: 1 }, generation: 7, attempt: 0 };

fn leaf(id: u64) -> Leaf {
    Leaf { id: ItemId(id), version: 41, bytes: 4096, crc32c: 0xdead_beef }
}

fn seal() -> Seal {
    Seal {
        migration: MIGRATION,
        target: PeerId { rank: 12, incarnation: 4 },
        root: root(&[leaf(1), leaf(3)]),
        landed: vec![ItemId(1), ItemId(3)],
        missing: vec![ItemId(2)],
        cut: Some(Cut { total_items: 9, record: Bytes::from_static(b"step 41") }),
    }
}

fn hex(root: Root) -> String {
    root.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_root_is_the_same_for_everybody_and_for_ever() {
    // sha256sum of the tag, the number of leaves as u64, and for each leaf id, version and bytes as u64 and the CRC as
    // u32, all little endian.
    assert_eq!(hex(root(&[])), "ed16603a475b0db9846e208a1e37db3226d7105d1769988e68c1439c1388190e");
    assert_eq!(hex(root(&[leaf(1), leaf(3)])), "21eec0e542de98a31e24738ceffdc3d349238e2f23d1f7dfb32f2745c6f87f3a");
}

#[test]
fn a_root_does_not_depend_on_the_order_in_which_items_landed() {
    assert_eq!(root(&[leaf(1), leaf(2), leaf(3)]), root(&[leaf(3), leaf(1), leaf(2)]));
}

#[test]
fn a_root_depends_on_everything_else() {
    let others = [
        vec![],
        vec![leaf(1)],
        vec![leaf(1), leaf(2), leaf(3)],
        vec![leaf(1), Leaf { version: 42, ..leaf(2) }],
        vec![leaf(1), Leaf { bytes: 4097, ..leaf(2) }],
        vec![leaf(1), Leaf { crc32c: 0, ..leaf(2) }],
        vec![leaf(1), leaf(3)],
    ];
    for other in others {
        assert_ne!(root(&other), root(&[leaf(1), leaf(2)]), "{other:?}");
    }
}

#[test]
fn keys_name_the_migration_and_the_target() {
    assert_eq!(seal_key(MIGRATION, 12), "migration/7/3.1/0/seal/12");
    let longest = MigrationId {
        source: PeerId { rank: u32::MAX, incarnation: u32::MAX },
        generation: u64::MAX,
        attempt: u32::MAX,
    };
    assert!(seal_key(longest, u32::MAX).len() <= KEY_LEN_BYTES_MAX);
}

#[test]
fn seals_come_back() {
    for seal in [seal(), Seal { cut: None, landed: vec![], ..seal() }] {
        assert_eq!(Seal::decode(&seal.encode()), Ok(seal));
    }
}

#[test]
fn the_largest_seal_fits_into_the_store() {
    let largest = Seal {
        landed: (0..crate::limits::ITEMS_MAX as u64).map(ItemId).collect(),
        missing: vec![],
        cut: Some(Cut { total_items: u32::MAX, record: vec![0; crate::limits::RECORD_LEN_BYTES_MAX].into() }),
        ..seal()
    };
    let bytes = largest.encode();
    assert!(bytes.len() <= VALUE_LEN_BYTES_MAX, "{} bytes", bytes.len());
    assert_eq!(Seal::decode(&bytes), Ok(largest));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_come_back_alike(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(seal) = Seal::decode(&bytes) {
            prop_assert_eq!(&seal.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_comes_back_alike(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = seal().encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(seal) = Seal::decode(&bytes) {
            prop_assert_eq!(&seal.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_seal_that_is_cut_short_is_refused(len in any::<prop::sample::Index>()) {
        let bytes = seal().encode();
        prop_assert!(Seal::decode(&bytes[..len.index(bytes.len())]).is_err());
    }
}
