//! Shared memory passes the suite.

use std::sync::Arc;

use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::{Backend, Manner};
use xfer_transport::conformance::{
    Make, PATIENCE, Pair, delivery, failure, fence, identity, messages, pattern, trials,
};
use xfer_transport::{BackendId, Lane, Region};

fn make() -> Arc<dyn Backend> {
    Arc::new(ShmBackend::bind().expect("shared memory"))
}

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() { $group::$name(&make, $($($argument),*)?); })*
    };
}

include!("suite/mod.rs");

#[test]
fn the_path_is_reported() {
    delivery::the_path_is_reported(&make, BackendId::Shm);
}

/// Over the ring, as where no process may read another.
fn over_the_ring() -> Arc<dyn Backend> {
    Arc::new(ShmBackend::bind().expect("shared memory").without_fetch())
}

#[test]
fn what_can_not_be_fetched_goes_through_the_ring() {
    delivery::bytes_of_all_sizes_arrive(&over_the_ring);
    delivery::many_transfers_at_once_arrive(&over_the_ring);
    fence::a_cancel_is_a_fence(&over_the_ring, trials(100));
    failure::a_lost_link_loses_nothing(&over_the_ring);
    failure::a_source_that_changes_is_noticed(&over_the_ring);
}

/// Moves ordinary memory until the ends have found out how, and says how.
fn manner(make: Make<'_>) -> Manner {
    let pair = Pair::new(make);
    let source = Region::from_vec(pattern(3 << 20, 1));
    let (destination, grant) = pair.granted(3 << 20);
    for _ in 0..2 {
        let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Step, None);
        write.wait(Some(PATIENCE)).expect("applied and verified");
        assert!(destination.copy_to_vec() == source.copy_to_vec());
    }
    pair.sender.route(pair.receiver.id()).and_then(|route| route.ordinary).expect("there is more than one way")
}

#[test]
fn a_route_says_how_ordinary_memory_goes_and_why() {
    let ring = manner(&over_the_ring);
    assert_eq!(ring.copies, 2);
    assert!(ring.sentence.contains("process_vm_readv") && ring.sentence.contains("not permitted"), "{ring:?}");
    let free = manner(&make);
    // A process may always read itself, unless the call is not there at all.
    match free.copies {
        1 => assert_eq!(free.sentence, "fetched with process_vm_readv, and from 16 MiB on through a ring"),
        _ => assert!(free.sentence.contains("process_vm_readv on this process"), "{free:?}"),
    }
}
