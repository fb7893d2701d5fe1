//! The suite that every backend passes: one function a promise, each panicking where it is broken.
//!
//! A backend's tests call these with a function that makes a new place in its network:
//!
//! ```no_run
//! use std::sync::Arc;
//! use xfer_transport::backend::{Backend, tcp::TcpBackend};
//! use xfer_transport::conformance;
//!
//! let make = || Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port")) as Arc<dyn Backend>;
//! conformance::delivery::bytes_of_all_sizes_arrive(&make);
//! ```

pub mod delivery;
pub mod failure;
pub mod fence;
pub mod flaky;
pub mod identity;
pub mod messages;
pub mod soak;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::backend::Backend;
use crate::{Endpoint, EndpointConfig, Grant, MemoryError, PeerId, Region};

use self::flaky::Flaky;

/// Makes a new place in the network under test.
pub type Make<'a> = &'a dyn Fn() -> Arc<dyn Backend>;

/// What must happen is waited for this long: far beyond what it takes, so that a slow machine fails nothing.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The job of the suite's endpoints.
pub const JOB: &str = "conformance";

static BUSY_POLL_NS: AtomicU64 = AtomicU64::new(0);

/// From here on all endpoints of the suite look for so long before they sleep.
pub fn look_before_sleeping(busy_poll: Duration) {
    BUSY_POLL_NS.store(busy_poll.as_nanos() as u64, Ordering::SeqCst);
}

static IN_DMABUFS: AtomicBool = AtomicBool::new(false);

/// From here on what the suite sends, and where it arrives, is memory of devices; or a sentence why there is none.
pub fn lie_in_dmabufs() -> Result<(), MemoryError> {
    Region::dmabuf(1)?;
    IN_DMABUFS.store(true, Ordering::SeqCst);
    Ok(())
}

/// Zeroed memory of the kind that the suite is about.
pub fn memory(len_bytes: u64) -> Region {
    let in_dmabufs = IN_DMABUFS.load(Ordering::SeqCst);
    let region = if in_dmabufs { Region::dmabuf(len_bytes) } else { Region::allocate(len_bytes) };
    region.expect("memory")
}

/// The same with these bytes.
pub fn filled(bytes: Vec<u8>) -> Region {
    if !IN_DMABUFS.load(Ordering::SeqCst) {
        return Region::from_vec(bytes);
    }
    let region = memory(bytes.len() as u64);
    region.write_at(0, &bytes).expect("inside");
    region
}

/// Two endpoints that are connected; the second one's links can be broken.
pub struct Pair {
    /// Rank 0, who opened the connection.
    pub sender: Endpoint,
    /// Rank 1.
    pub receiver: Endpoint,
    /// Breaks the receiver's links.
    pub receiver_links: Arc<Flaky>,
}

impl Pair {
    /// Two connected endpoints over the backend under test.
    pub fn new(make: Make<'_>) -> Self {
        Self::with(make, |_| {})
    }

    /// The same, set up by `change`.
    pub fn with(make: Make<'_>, change: impl Fn(&mut EndpointConfig)) -> Self {
        let (sender, _) = start(make, 0, 1, &change);
        let (receiver, receiver_links) = start(make, 1, 1, &change);
        sender.connect(&receiver.ticket(), PATIENCE).expect("connected");
        Self { sender, receiver, receiver_links }
    }

    /// Memory of the receiver that the sender may write.
    pub fn granted(&self, len_bytes: u64) -> (Region, Grant) {
        let region = memory(len_bytes);
        let grant = self.receiver.grant(&region, self.sender.id()).expect("a grant");
        (region, grant)
    }
}

/// An endpoint over the backend under test, whose links can be broken.
pub fn start(
    make: Make<'_>,
    rank: u32,
    incarnation: u32,
    change: &dyn Fn(&mut EndpointConfig),
) -> (Endpoint, Arc<Flaky>) {
    let links = Flaky::new(make());
    let mut config = EndpointConfig::new(PeerId { rank, incarnation }, JOB);
    config.backends = vec![Arc::clone(&links) as Arc<dyn Backend>];
    config.busy_poll = Duration::from_nanos(BUSY_POLL_NS.load(Ordering::SeqCst));
    change(&mut config);
    (Endpoint::start(config).expect("an endpoint"), links)
}

/// Bytes that differ from place to place and from `salt` to `salt`.
pub fn pattern(len_bytes: u64, salt: u64) -> Vec<u8> {
    let mut random = Random(salt);
    let mut bytes = Vec::with_capacity(len_bytes as usize + 8);
    while (bytes.len() as u64) < len_bytes {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len_bytes as usize);
    bytes
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it doesn't within [`PATIENCE`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The seed of everything that is drawn: `XFER_TEST_SEED`, or a fixed one.
pub fn seed() -> u64 {
    number_from_env("XFER_TEST_SEED").unwrap_or(0x5eed)
}

/// How often a trial is repeated: `XFER_TEST_TRIALS`, or `usual`.
pub fn trials(usual: u64) -> u64 {
    number_from_env("XFER_TEST_TRIALS").unwrap_or(usual)
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The SplitMix64 sequence.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Busy for a random time below `most`: sleeping would be far coarser.
    pub fn pause(&mut self, most: Duration) {
        let until = Instant::now() + Duration::from_nanos(self.below(most.as_nanos() as u64));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
