//! Sessions that fail leave nothing behind. `make soak` does it ten thousand times.

use std::sync::Arc;

use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::soak::failed_sessions;
use xfer_transport::conformance::{Make, seed, trials};

/// What a run may add to the resident memory: what the allocator keeps for itself, however many sessions there were.
const DRIFT_BYTES_MAX: u64 = 1 << 20;

// One test, since both look at the same process.
#[test]
fn failed_sessions_leave_nothing_behind() {
    let tcp: Make<'_> = &|| Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"));
    let shm: Make<'_> = &|| Arc::new(ShmBackend::bind().expect("shared memory"));
    for make in [tcp, shm] {
        let soak = failed_sessions(make, trials(300), 150, seed());
        let drift = soak.after.resident_bytes.saturating_sub(soak.before.resident_bytes);
        assert!(drift <= DRIFT_BYTES_MAX, "{soak:?}");
        assert!(soak.ends.len() >= 6, "every way to fail was tried: {:?}", soak.ends);
    }
}
