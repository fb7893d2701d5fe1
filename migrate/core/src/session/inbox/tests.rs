//! What lands, and what doesn't.

use xfer_transport_core::{Place, RegionId};

use super::*;
use crate::cost::RecomputeCost;
use crate::item::{GroupId, ItemClass};

const RANK: u32 = 2;

fn item(id: u64) -> Item {
    Item {
        id: ItemId(id),
        name: format!("item.{id}").into(),
        class: ItemClass::Parameter,
        bytes: 10 * id,
        version: 41,
        target: RANK,
        group: GroupId::ALONE,
        cost: RecomputeCost::Irreplaceable,
    }
}

fn grant(id: u64) -> (ItemId, RemoteRegion) {
    (ItemId(id), RemoteRegion { id: RegionId(id), len_bytes: 10 * id, place: Place::Host })
}

fn arrived(send: u32) -> Arrived {
    Arrived { send, crc32c: 100 + send }
}

/// Items 1 and 2, with memory.
fn inbox() -> Inbox {
    let mut inbox = Inbox::default();
    let items = [item(1), item(2)];
    assert_eq!(inbox.add(0, items.iter()), [(ItemId(1), 10), (ItemId(2), 20)]);
    assert_eq!(inbox.allocated(&[grant(2), grant(1)]), Ok(0));
    inbox
}

fn land(inbox: &mut Inbox, id: u64) {
    assert_eq!(inbox.sent(RANK, ItemId(id), 41, arrived(1)), Ok(OnSent::Verify));
    assert_eq!(inbox.verified(ItemId(id), 101, true), Ok(1));
}

#[test]
fn what_was_verified_has_landed() {
    let mut inbox = inbox();
    assert_eq!((inbox.bytes(), inbox.is_complete()), (30, false));
    land(&mut inbox, 2);
    assert_eq!(inbox.leaves(), [Leaf { id: ItemId(2), version: 41, bytes: 20, crc32c: 101 }]);
    assert_eq!(inbox.missing(), [ItemId(1)]);
    land(&mut inbox, 1);
    assert!(inbox.is_complete());
    assert_eq!(inbox.missing(), []);
}

#[test]
fn what_is_being_verified_has_not_landed() {
    let mut inbox = inbox();
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(1)), Ok(OnSent::Verify));
    assert!(inbox.is_verifying() && !inbox.is_complete());
    assert_eq!((inbox.leaves(), inbox.missing()), (vec![], vec![ItemId(1), ItemId(2)]));
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(1)), Ok(OnSent::Known), "said twice");
    let wrong = Err(Violation::Item { what: "verified", item: ItemId(1) });
    assert_eq!(inbox.verified(ItemId(1), 102, true), wrong, "that was another digest");
    assert_eq!(inbox.verified(ItemId(1), 101, true), Ok(1));
    assert_eq!(inbox.verified(ItemId(1), 101, true), wrong, "said twice");
    assert!(!inbox.is_verifying());
}

#[test]
fn a_damaged_item_lands_by_a_later_sending_only() {
    let mut inbox = inbox();
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(1)), Ok(OnSent::Verify));
    assert_eq!(inbox.verified(ItemId(1), 101, false), Ok(1));
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(1)), Ok(OnSent::Known), "said twice");
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(2)), Ok(OnSent::Verify));
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(1)), Ok(OnSent::Known), "said late");
    assert_eq!(inbox.verified(ItemId(1), 102, true), Ok(2));
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(2)), Ok(OnSent::Repeat));
}

#[test]
fn what_has_landed_is_not_replaced() {
    let mut inbox = inbox();
    land(&mut inbox, 1);
    let other = Err(Violation::OtherContent { item: ItemId(1) });
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, arrived(2)), other);
    assert_eq!(inbox.sent(RANK, ItemId(1), 41, Arrived { send: 1, crc32c: 0 }), other);
    assert_eq!(inbox.sent(RANK, ItemId(1), 42, arrived(1)), other, "versions are never mixed");
    assert_eq!(inbox.leaves().len(), 1);
}

#[test]
fn an_item_without_memory_can_not_have_arrived() {
    let mut inbox = Inbox::default();
    inbox.add(0, [item(1)].iter());
    let sent = inbox.sent(RANK, ItemId(1), 41, arrived(1));
    assert_eq!(sent, Err(Violation::Item { what: "sent", item: ItemId(1) }));
    let sent = inbox.sent(RANK, ItemId(9), 41, arrived(1));
    assert_eq!(sent, Err(Violation::UnknownItem { item: ItemId(9), rank: RANK }));
}

#[test]
fn memory_is_for_the_oldest_offer_as_a_whole() {
    let mut inbox = Inbox::default();
    inbox.add(0, [item(1), item(2)].iter());
    inbox.add(1, [].iter());
    inbox.add(2, [item(3)].iter());
    let (_, region) = grant(9);
    let refused = [
        vec![],
        vec![grant(1)],
        vec![grant(3)],
        vec![grant(1), grant(2), grant(3)],
        vec![grant(1), grant(1)],
        vec![grant(1), (ItemId(2), region)],
    ];
    for grants in refused {
        assert!(matches!(inbox.allocated(&grants), Err(Violation::Grants { .. })), "{grants:?}");
    }
    assert_eq!(inbox.allocated(&[grant(1), grant(2)]), Ok(0));
    assert_eq!(inbox.allocated(&[grant(3)]), Ok(2), "an offer with nothing for this rank needs no memory");
    assert!(inbox.allocated(&[]).is_err());
}

#[test]
fn what_is_not_sent_is_not_waited_for() {
    let mut inbox = inbox();
    land(&mut inbox, 1);
    let unknown = Violation::UnknownItem { item: ItemId(9), rank: RANK };
    assert_eq!(inbox.skip(RANK, &[ItemId(2), ItemId(9)]), Err(unknown));
    assert!(!inbox.is_complete(), "nothing of it was taken");
    assert_eq!(inbox.skip(RANK, &[ItemId(2)]), Ok(()));
    assert!(inbox.is_complete());
    assert_eq!(inbox.missing(), [ItemId(2)]);
}
