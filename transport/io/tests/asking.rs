//! TCP passes the suite while its ends look instead of sleeping, so that callers take in what arrives by themselves.

use std::sync::Arc;
use std::time::Duration;

use xfer_transport::backend::Backend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::{delivery, failure, fence, identity, look_before_sleeping, messages, trials};

fn make() -> Arc<dyn Backend> {
    look_before_sleeping(Duration::from_micros(100));
    Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"))
}

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() { $group::$name(&make, $($($argument),*)?); })*
    };
}

include!("suite/mod.rs");
