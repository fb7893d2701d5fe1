//! Sessions that fail leave nothing behind. `make soak` does it ten thousand times.

use std::net::SocketAddr;
use std::sync::Arc;

use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::backend::verbs;
use xfer_transport::conformance::soak::failed_sessions;
use xfer_transport::conformance::{Make, seed, trials};

/// What a run may add to the resident memory: what the allocator keeps for itself, however many sessions there were.
const DRIFT_BYTES_MAX: u64 = 1 << 20;

// One test, since all look at the same process.
#[test]
fn failed_sessions_leave_nothing_behind() {
    let tcp: Make<'_> = &|| Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"));
    let shm: Make<'_> = &|| Arc::new(ShmBackend::bind().expect("shared memory"));
    // A device is a whole machine's, and slower to set up: fewer sessions show whether each leaves something.
    let places = verbs::addresses().inspect_err(|why| eprintln!("without RDMA: {why}")).unwrap_or_default();
    let rdma: Make<'_> = &|| {
        let place = SocketAddr::new(places[0], 0);
        Arc::new(verbs::VerbsBackend::bind(place, None).expect("it could be bound before"))
    };
    let mut all = vec![(tcp, 300, 150, 6), (shm, 300, 150, 6)];
    all.extend((!places.is_empty()).then_some((rdma, 60, 60, 3)));
    for (make, sessions, warm_up, ends) in all {
        let soak = failed_sessions(make, trials(sessions), warm_up, seed());
        let drift = soak.after.resident_bytes.saturating_sub(soak.before.resident_bytes);
        assert!(drift <= DRIFT_BYTES_MAX, "{soak:?}");
        assert!(soak.ends.len() >= ends, "every way to fail was tried: {:?}", soak.ends);
    }
}
