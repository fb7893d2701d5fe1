//! The simulated network passes the suite, and the endpoint passes its faults.

use std::sync::Arc;

use xfer_transport::BackendId;
use xfer_transport::backend::Backend;
use xfer_transport::backend::sim::SimNetwork;
use xfer_transport::conformance::{delivery, failure, fence, identity, messages, seed, trials};

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
