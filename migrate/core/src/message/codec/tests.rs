//! Messages come back as they were, and what isn't one is refused before it costs anything.

use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MIGRATION: MigrationId = MigrationId { source: PeerId { rank: 1, incarnation: 2 }, generation: 6, attempt: 3 };

fn item(id: u64, cost: RecomputeCost) -> Item {
    Item {
        id: ItemId(id),
        name: format!("layer.{id}.größe").into(),
        class: ItemClass::OptimizerState,
        bytes: 1 << 33,
        version: 41,
        target: 2,
        group: GroupId(7),
        cost,
    }
}

fn offer() -> Offer {
    let time = Duration::from_micros(1234);
    Offer {
        sequence: 3,
        time_left: Duration::from_millis(119_500),
        targets: vec![0, 2],
        owners_after: vec![("layers.0-5".into(), 0), ("layers.6-11".into(), 2)],
        items: vec![
            item(1, RecomputeCost::Irreplaceable),
            item(2, RecomputeCost::Compute { time, from: vec![ItemId(1), ItemId(9)] }),
            item(3, RecomputeCost::Compute { time: Duration::ZERO, from: vec![] }),
            item(4, RecomputeCost::Fetch { from: 5 }),
        ],
    }
}

fn region(id: u64) -> RemoteRegion {
    RemoteRegion { id: RegionId(id), len_bytes: 1 << 33, place: Place::Host }
}

/// What was kept, in these ranges.
fn landed(ranges: &[Range<u64>]) -> Landed {
    let mut landed = Landed::default();
    ranges.iter().for_each(|range| landed.insert(range.clone(), range.end as u32));
    landed
}

fn messages() -> Vec<Message> {
    let refusals = [
        Refusal::OtherGeneration { offered: 6, known: 8 },
        Refusal::NotATarget { rank: 4 },
        Refusal::OutOfMemory { rank: 2, needed_bytes: 1 << 35, available_bytes: 1 << 34 },
        Refusal::Leaving { rank: 2 },
        Refusal::Invalid { reason: "two items have the id #1".into() },
        Refusal::Allocation { reason: "out of memory".into() },
    ];
    let item = ItemId(0x0123_4567_89ab_cdef);
    let mut bodies = vec![
        Body::Offer(offer()),
        Body::Grants { sequence: 3, grants: vec![(ItemId(1), region(u64::MAX)), (ItemId(2), region(5))] },
        Body::Kept { items: vec![(ItemId(1), landed(&[0..5, 5..9, 20..21])), (ItemId(2), landed(&[]))] },
        Body::Sent { item, version: 41, crc32c: 0xdead_beef, send: 2 },
        Body::Landed { item, send: 2 },
        Body::Damaged { item, send: 1 },
        Body::Cut(Cut { total_items: 4, record: Bytes::from_static(b"step 41") }),
        Body::Finished { skipped: vec![ItemId(3), ItemId(4)] },
        Body::Deadline { time_left: Duration::from_secs(30) },
    ];
    bodies.extend(refusals.map(|refusal| Body::Refuse { refusal }));
    bodies.into_iter().map(|body| Message { migration: MIGRATION, body }).collect()
}

#[test]
fn messages_come_back() {
    for message in messages() {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}

#[test]
fn the_announced_length_of_an_item_is_what_it_takes() {
    for item in offer().items {
        let mut writer = Writer::default();
        write_item(&mut writer, &item);
        assert_eq!(writer.into_bytes().len(), item_len_bytes(&item));
    }
}

#[test]
fn the_longest_messages_are_within_the_limit() {
    let longest_item = Item {
        name: "n".repeat(limits::NAME_LEN_BYTES_MAX).into(),
        cost: RecomputeCost::Compute { time: Duration::ZERO, from: vec![ItemId(0); limits::INPUTS_PER_ITEM_MAX] },
        ..item(1, RecomputeCost::Irreplaceable)
    };
    let grants_of_one_offer = limits::OFFER_ITEMS_LEN_BYTES_MAX / ITEM_LEN_BYTES_MIN;
    let ranges = |count: usize| -> Vec<Range<u64>> { (0..count as u64).map(|at| 2 * at..2 * at + 1).collect() };
    let mut longest_kept = vec![(ItemId(1), landed(&ranges(1))); grants_of_one_offer];
    let pieces = (limits::KEPT_RANGES_MAX - grants_of_one_offer) / (LANDED_RANGES_MAX - 1);
    longest_kept[..pieces].fill((ItemId(1), landed(&ranges(LANDED_RANGES_MAX))));
    let bodies = [
        // The first offer has no items, and the others no owners.
        Body::Offer(Offer {
            targets: vec![0; limits::TARGETS_MAX],
            owners_after: vec![("s".repeat(limits::SHARD_NAME_LEN_BYTES_MAX), 0); limits::SHARDS_MAX],
            items: vec![],
            ..offer()
        }),
        Body::Offer(Offer {
            targets: vec![],
            owners_after: vec![],
            items: vec![longest_item.clone(); limits::OFFER_ITEMS_LEN_BYTES_MAX / item_len_bytes(&longest_item)],
            ..offer()
        }),
        Body::Grants { sequence: 1, grants: vec![(ItemId(1), region(1)); grants_of_one_offer] },
        Body::Kept { items: longest_kept },
        Body::Cut(Cut { total_items: 1, record: vec![0; limits::RECORD_LEN_BYTES_MAX].into() }),
        Body::Finished { skipped: vec![ItemId(1); limits::ITEMS_MAX] },
    ];
    for body in bodies {
        let what = body.name();
        let message = Message { migration: MIGRATION, body };
        let bytes = message.encode();
        assert!(bytes.len() <= limits::MESSAGE_LEN_BYTES_MAX, "{what} of {} bytes", bytes.len());
        assert!(Message::decode(&bytes) == Ok(message), "{what}");
    }
}

#[test]
fn a_message_beyond_the_limit_is_refused_unread() {
    let bytes = vec![FORMAT; limits::MESSAGE_LEN_BYTES_MAX + 1];
    let refused = Message::decode(&bytes).unwrap_err().to_string();
    assert_eq!(refused, "the message has a length of 1048577; at most 1048576 is taken");
}

#[test]
fn numbers_of_other_versions_are_refused_by_name() {
    let set = |at: usize, value: u8| {
        let sent = Message { migration: MIGRATION, body: Body::Landed { item: ItemId(1), send: 1 } };
        let mut bytes = sent.encode().to_vec();
        bytes[at] = value;
        Message::decode(&bytes).unwrap_err().to_string()
    };
    assert_eq!(set(0, 2), "the message's format 2 is not known to this version");
    assert_eq!(set(21, 99), "the kind of message 99 is not known to this version");
}

#[test]
fn kept_ranges_that_overlap_are_empty_or_too_many_are_refused() {
    let encoded = |ranges: &[Range<u64>]| {
        let mut bytes = Message { migration: MIGRATION, body: Body::Kept { items: vec![] } }.encode().to_vec();
        bytes[22..26].copy_from_slice(&1_u32.to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend((ranges.len() as u32).to_le_bytes());
        for range in ranges {
            bytes.extend([&range.start.to_le_bytes()[..], &range.end.to_le_bytes(), &[0; 4]].concat());
        }
        Message::decode(&bytes)
    };
    assert!(encoded(&[0..5, 5..6]).is_ok());
    for ranges in [&[0..5, 4..6][..], std::slice::from_ref(&(3..3)), &[5..6, 0..1]] {
        let refused = encoded(ranges).unwrap_err().to_string();
        assert_eq!(refused, "a kept range is inconsistent: it is empty, or not behind the one before it", "{ranges:?}");
    }
    let most: Vec<Range<u64>> = (0..LANDED_RANGES_MAX as u64 + 1).map(|at| 2 * at..2 * at + 1).collect();
    assert!(encoded(&most[1..]).is_ok());
    let too_long = DecodeError::TooLong { field: "the kept ranges", len: 4097, max: 4096 };
    assert_eq!(encoded(&most), Err(too_long));
}

#[test]
fn a_list_that_lies_about_its_length_is_refused() {
    let finished = Message { migration: MIGRATION, body: Body::Finished { skipped: vec![ItemId(1)] } };
    let mut bytes = finished.encode().to_vec();
    bytes[22..26].copy_from_slice(&60_000_u32.to_le_bytes());
    assert_eq!(Message::decode(&bytes), Err(DecodeError::Truncated { field: "the skipped items" }));
    bytes[22..26].copy_from_slice(&u32::MAX.to_le_bytes());
    let too_long = DecodeError::TooLong { field: "the skipped items", len: u32::MAX.into(), max: 65_536 };
    assert_eq!(Message::decode(&bytes), Err(too_long));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_come_back_alike(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(&message.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn changed_bytes_are_refused_or_come_back_alike(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let messages = messages();
        let mut bytes = messages[which.index(messages.len())].encode().to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(&message.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_message_that_is_cut_short_is_refused(
        which in any::<prop::sample::Index>(),
        len in any::<prop::sample::Index>(),
    ) {
        let messages = messages();
        let bytes = messages[which.index(messages.len())].encode();
        prop_assert!(Message::decode(&bytes[..len.index(bytes.len())]).is_err());
    }
}
