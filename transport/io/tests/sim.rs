//! The simulated network passes the suite, and the endpoint passes its faults.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xfer_transport::backend::Backend;
use xfer_transport::backend::sim::{Faults, SimNetwork};
use xfer_transport::conformance::{
    PATIENCE, Pair, delivery, eventually, failure, fence, identity, messages, pattern, seed, trials,
};
use xfer_transport::core::limits::CHUNK_ATTEMPTS_MAX;
use xfer_transport::{BackendId, Channel, DownReason, Lane, PeerEvent, Region, TransferError};

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() {
            let network = SimNetwork::new(seed());
            $group::$name(&|| network.backend() as Arc<dyn Backend>, $($($argument),*)?);
        })*
    };
}

include!("suite/mod.rs");

#[test]
fn the_path_is_reported() {
    let network = SimNetwork::new(seed());
    delivery::the_path_is_reported(&|| network.backend() as Arc<dyn Backend>, BackendId::Sim);
}

/// Sends both ways and in all lanes through a network with faults, and expects everything to arrive.
fn survive(faults: Faults, transfers: u64, len_bytes: u64) -> (SimNetwork, Pair) {
    let network = SimNetwork::new(seed());
    let pair = Pair::with(&|| network.backend() as Arc<dyn Backend>, |config| config.chunk_bytes = 64 << 10);
    network.set_faults(faults);
    let (sender, receiver) = (&pair.sender, &pair.receiver);
    let mut under_way = Vec::new();
    for salt in 0..transfers {
        let (from, to) = if salt % 2 == 0 { (sender, receiver) } else { (receiver, sender) };
        let source = Region::from_vec(pattern(len_bytes, salt));
        let destination = Region::allocate(len_bytes).expect("memory");
        let grant = to.grant(&destination, from.id()).expect("a grant");
        let lane = Lane::ALL[salt as usize % 4];
        let write = from.write(to.id(), source.all(), grant.remote().all(), lane, None);
        under_way.push((write, source, destination, grant));
    }
    for (write, source, destination, grant) in under_way {
        let done = write.wait(Some(PATIENCE)).expect("applied and verified");
        assert_eq!(done.crc32c, source.crc32c());
        assert!(destination.copy_to_vec() == source.copy_to_vec(), "it says done, and isn't");
        assert_eq!(grant.received(), len_bytes);
    }
    network.set_faults(Faults::default());
    (network, pair)
}

#[test]
fn damaged_chunks_are_sent_again() {
    let mut faults = Faults::default();
    faults.corrupt_one_in = 10;
    let (_network, pair) = survive(faults, 12, 2 << 20);
    let (one, other) = (pair.sender.stats(), pair.receiver.stats());
    assert!(one.chunks_damaged + other.chunks_damaged > 0, "nothing was damaged");
    assert_eq!(one.chunks_retried, other.chunks_damaged);
    assert_eq!(other.chunks_retried, one.chunks_damaged);
}

#[test]
fn a_chunk_that_is_always_damaged_fails_its_transfer_and_no_other() {
    let network = SimNetwork::new(seed());
    let pair = Pair::new(&|| network.backend() as Arc<dyn Backend>);
    let source = Region::from_vec(pattern(100_000, 1));
    let (destination, grant) = pair.granted(100_000);
    let write = || pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Step, None);
    let mut faults = Faults::default();
    faults.corrupt_one_in = 1;
    network.set_faults(faults);
    assert_eq!(write().wait(Some(PATIENCE)), Err(TransferError::Damaged { offset: 0 }));
    assert_eq!(pair.receiver.stats().chunks_damaged, u64::from(CHUNK_ATTEMPTS_MAX));
    network.set_faults(Faults::default());
    write().wait(Some(PATIENCE)).expect("the next one is not damaged");
    assert_eq!(destination.crc32c(), source.crc32c());
}

#[test]
fn slow_and_uneven_links_only_delay() {
    let mut faults = Faults::default();
    faults.delay = Duration::ZERO..Duration::from_millis(20);
    survive(faults, 12, 1 << 20);
}

#[test]
fn links_that_break_now_and_then_lose_nothing() {
    let mut faults = Faults::default();
    faults.cut_one_in = 200;
    faults.corrupt_one_in = 100;
    faults.delay = Duration::ZERO..Duration::from_millis(2);
    // Whether all links of a peer break at once is up to chance, and then the peer is gone, as it should be: so this
    // sends less than it takes for that.
    let (network, pair) = survive(faults, 4, 2 << 20);
    eventually("lost links come back", || network.open_links() >= 3);
    assert_eq!((pair.sender.stats().peers_down, pair.receiver.stats().peers_down), (0, 0));
}

#[test]
fn a_stalled_network_is_silence_and_a_short_stall_is_not() {
    let network = SimNetwork::new(seed());
    let pair = Pair::new(&|| network.backend() as Arc<dyn Backend>);
    let events = pair.sender.events();
    let stall = |stalled| {
        let mut faults = Faults::default();
        faults.stalled = stalled;
        network.set_faults(faults);
    };
    stall(true);
    std::thread::sleep(Duration::from_millis(300));
    stall(false);
    let subscriber = pair.receiver.subscribe(Channel(1));
    pair.sender.send(pair.receiver.id(), Channel(1), Bytes::from_static(b"still here")).expect("connected");
    assert_eq!(subscriber.recv_timeout(PATIENCE).expect("a message").payload, "still here");
    assert_eq!(events.try_iter().count(), 0);
    stall(true);
    let down = events.recv_timeout(PATIENCE);
    assert!(matches!(down, Ok(PeerEvent::Down { reason: DownReason::Silent(_), .. })), "{down:?}");
}
