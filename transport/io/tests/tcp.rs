//! TCP passes the suite.

use std::sync::Arc;

use xfer_transport::BackendId;
use xfer_transport::backend::Backend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::{delivery, failure, fence, identity, messages, trials};

fn make() -> Arc<dyn Backend> {
    Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"))
}

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() { $group::$name(&make, $($($argument),*)?); })*
    };
}

include!("suite/mod.rs");

#[test]
fn the_path_is_reported() {
    delivery::the_path_is_reported(&make, BackendId::Tcp);
}
