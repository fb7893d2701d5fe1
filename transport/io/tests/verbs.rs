//! RDMA verbs pass the suite, between the devices of a machine that has some.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use xfer_transport::BackendId;
use xfer_transport::backend::Backend;
use xfer_transport::backend::verbs::{VerbsBackend, addresses};
use xfer_transport::conformance::{delivery, failure, fence, identity, messages, trials};

/// The addresses to bind, or nothing after a sentence that says why.
fn places() -> Option<Vec<IpAddr>> {
    addresses().map_err(|why| eprintln!("skipped: {why}")).ok()
}

/// One place after the other, so that two ends are on two devices where there are two.
fn maker(places: Vec<IpAddr>) -> impl Fn() -> Arc<dyn Backend> {
    let made = AtomicUsize::new(0);
    move || {
        let place = places[made.fetch_add(1, Ordering::Relaxed) % places.len()];
        Arc::new(VerbsBackend::bind(SocketAddr::new(place, 0), None).expect("it could be bound before"))
    }
}

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() {
            let Some(places) = places() else { return };
            $group::$name(&maker(places), $($($argument),*)?);
        })*
    };
}

include!("suite/mod.rs");

#[test]
fn the_path_is_reported() {
    let Some(places) = places() else { return };
    delivery::the_path_is_reported(&maker(places), BackendId::Verbs);
}
