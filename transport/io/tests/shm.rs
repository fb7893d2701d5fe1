//! Shared memory passes the suite.

use std::sync::Arc;

use xfer_transport::BackendId;
use xfer_transport::backend::Backend;
use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::conformance::{delivery, failure, fence, identity, messages, trials};

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
