//! TCP passes the suite when the kernel is asked to send chunks from where they lie.
//!
//! Within a machine the kernel copies them at the other end, so that it reads the source as long as it would over a network, and later
//! than it would have copied it. With `XFER_TEST_CARDS=ADDRESS,ADDRESS`, which lie on two network cards, all of it goes over these.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use xfer_transport::backend::Backend;
use xfer_transport::backend::tcp::{TcpBackend, ZeroCopy};
use xfer_transport::conformance::{PATIENCE, Pair, delivery, failure, fence, identity, messages, pattern, trials};
use xfer_transport::{BackendId, Lane, Region};

const LEN_BYTES: u64 = 32 << 20;

/// Where the two ends are, and whether that is on two cards.
fn places() -> ([IpAddr; 2], bool) {
    let Ok(cards) = std::env::var("XFER_TEST_CARDS") else { return ([Ipv4Addr::LOCALHOST.into(); 2], false) };
    let mut cards = cards.split(',').map(|card| card.parse().expect("an address"));
    ([(); 2].map(|()| cards.next().expect("two addresses")), true)
}

/// One place after the other, so that two ends are at both.
fn maker(zerocopy: ZeroCopy) -> impl Fn() -> Arc<dyn Backend> {
    let made = AtomicUsize::new(0);
    move || {
        let place = places().0[made.fetch_add(1, Ordering::Relaxed) % 2];
        Arc::new(TcpBackend::bind(SocketAddr::new(place, 0)).expect("a port").with_zerocopy(zerocopy))
    }
}

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() { $group::$name(&maker(ZeroCopy::Always(1)), $($($argument),*)?); })*
    };
}

include!("suite/mod.rs");

#[test]
fn the_path_is_reported() {
    delivery::the_path_is_reported(&maker(ZeroCopy::Always(1)), BackendId::Tcp);
}

/// Whoever asks for it learns what came of it; over network cards that all but a few bytes are not copied.
#[test]
fn what_comes_of_it_is_said() {
    let (_, on_cards) = places();
    // How long the kernel takes between cards that are emulated is chance.
    let zerocopy = if on_cards { ZeroCopy::Always(64 << 10) } else { ZeroCopy::From(64 << 10) };
    let pair = Pair::new(&maker(zerocopy));
    let source = Region::from_vec(pattern(LEN_BYTES, 4));
    let (_destination, grant) = pair.granted(LEN_BYTES);
    let moved = || {
        let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Bulk, None);
        write.wait(Some(PATIENCE)).expect("applied and verified");
        let route = pair.sender.route(pair.receiver.id()).expect("connected");
        route.ordinary.expect("there are two ways")
    };
    let mut manner = moved();
    if on_cards {
        assert_eq!(manner.copies, 1, "{manner:?}");
        // Of the last ones the kernel's word may still be to come.
        let uncopied = pair.sender.stats().uncopied_bytes;
        assert!(uncopied >= LEN_BYTES / 2, "{uncopied} of {LEN_BYTES}");
        return;
    }
    eprintln!("skipped: no two network cards (XFER_TEST_CARDS), so the kernel copies");
    for _ in 0..64 {
        if manner.copies == 2 {
            break;
        }
        manner = moved();
    }
    assert!(manner.copies == 2 && manner.sentence.contains("in spite of"), "{manner:?}");
    assert_eq!(pair.sender.stats().uncopied_bytes, 0);
}
