//! Claims: one living process a rank.

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::records::{PeerClaim, peer_key};
use super::*;

fn claim_of(store: &dyn Store, rank: u32) -> PeerClaim {
    PeerClaim::decode(&store.get(&peer_key(rank)).unwrap().unwrap().value).unwrap()
}

#[test]
fn the_first_claim_is_the_first_life_and_a_living_one_is_refused_by_name() {
    let store = MemoryStore::new();
    assert_eq!(claim_identity(&store, 1, b"first", &|_| panic!("nobody to ask")), Ok(1));
    let error = claim_identity(&store, 1, b"second", &|ticket| ticket == b"first").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "rank 1 is already claimed by pid {} on {}, which answers; give each process its own RANK",
            std::process::id(),
            host_name()
        )
    );
    assert_eq!(claim_identity(&store, 2, b"other rank", &|_| true), Ok(1));
    assert_eq!(claim_of(&store, 1).ticket, "first");
}

#[test]
fn a_dead_claim_is_taken_over_as_the_next_life() {
    let (_server, store) = serve();
    assert_eq!(claim_identity(&store, 1, b"first", &|_| false), Ok(1));
    assert_eq!(claim_identity(&store, 1, b"second", &|_| false), Ok(2));
    assert_eq!(claim_identity(&store, 1, b"third", &|ticket| ticket == b"first"), Ok(3));
    let error = publish_ticket(&store, 1, 2, b"late").unwrap_err();
    assert!(matches!(error, ClaimError::TakenOver { rank: 1, incarnation: 3, .. }), "{error}");
    assert_eq!(claim_of(&store, 1).ticket, "third");
}

#[test]
fn a_process_that_is_starting_is_waited_for() {
    let store = MemoryStore::new();
    assert_eq!(claim_identity(&store, 1, b"", &|_| false), Ok(1));
    thread::scope(|scope| {
        let rival = scope.spawn(|| claim_identity(&store, 1, b"rival", &|ticket| ticket == b"ready"));
        publish_ticket(&store, 1, 1, b"ready").unwrap();
        assert!(matches!(rival.join().unwrap(), Err(ClaimError::Taken { rank: 1, .. })));
    });
    assert!(matches!(publish_ticket(&store, 7, 1, b"x"), Err(ClaimError::Unclaimed { rank: 7 })));
}

#[test]
fn of_many_claims_at_once_exactly_one_wins() {
    let (server, _) = serve();
    let wins = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            let (store, wins) = (connect(server.local_addr(), AMPLE), &wins);
            scope.spawn(move || match claim_identity(&store, 3, b"ticket", &|_| true) {
                Ok(incarnation) => {
                    assert_eq!(incarnation, 1);
                    wins.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => assert!(matches!(error, ClaimError::Taken { rank: 3, .. }), "{error}"),
            });
        }
    });
    assert_eq!(wins.into_inner(), 1);
}

#[test]
fn what_is_no_claim_is_not_overwritten() {
    let store = MemoryStore::new();
    won(store.compare_and_swap(&peer_key(1), Version::ABSENT, "{}".into()));
    let error = claim_identity(&store, 1, b"ticket", &|_| false).unwrap_err();
    assert!(matches!(error, ClaimError::Unreadable { rank: 1, .. }), "{error}");
    let long = vec![0; limits::TICKET_LEN_BYTES_MAX + 1];
    let error = claim_identity(&store, 2, &long, &|_| false).unwrap_err();
    assert!(matches!(error, ClaimError::TicketTooLong { rank: 2, .. }), "{error}");
    assert_eq!(claim_identity(&store, 2, &long[1..], &|_| false), Ok(1));
}
