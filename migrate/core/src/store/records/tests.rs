//! Records come out as they went in, and other formats are refused by name.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn claims_come_out_as_they_went_in(
        incarnation: u32,
        pid: u32,
        host in "\\PC{0,60}",
        ticket in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let claim = PeerClaim { incarnation, pid, host, ticket: ticket.into() };
        prop_assert_eq!(PeerClaim::decode(&claim.encode()), Ok(claim));
    }

    #[test]
    fn orders_come_out_as_they_went_in(
        incarnation: u32,
        nonce: u64,
        left_ms in prop::option::of(any::<u64>()),
        reason in "\\PC{0,60}",
    ) {
        let order = DrainOrder { incarnation, nonce, left: left_ms.map(Duration::from_millis), reason };
        prop_assert_eq!(DrainOrder::decode(&order.encode()), Ok(order));
    }
}

#[test]
fn long_text_is_cut_at_a_character() {
    let reason = "é".repeat(200);
    let order = DrainOrder { incarnation: 1, nonce: 2, left: None, reason };
    let decoded = DrainOrder::decode(&order.encode()).unwrap();
    assert_eq!(decoded.reason, "é".repeat(127));
}

#[test]
fn another_format_is_refused_by_name() {
    let error = PeerClaim::decode(&[2, 0, 0]).unwrap_err();
    assert_eq!(error.to_string(), "the claim's format 2 is not known to this version");
    let error = DrainOrder::decode(&[]).unwrap_err();
    assert_eq!(error.to_string(), "the bytes end inside the order's format");
}

#[test]
fn every_rank_and_generation_has_keys_of_its_own() {
    assert_eq!([peer_key(3), notice_key(3), kept_generation_key(3)], ["peer/3", "notice/3", "generation/3"]);
}
