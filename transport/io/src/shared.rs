//! What all peers of an endpoint share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use xfer_transport_core::egress::Egress;
use xfer_transport_core::path::LinkId;
use xfer_transport_core::{PeerId, Time};

use crate::beats::Beats;
use crate::config::EndpointConfig;
use crate::flight::FlightRecorder;
use crate::grants::Grants;
use crate::hub::Hub;
use crate::limits::{LOOKS_LEFT_OUT_STEP, SLEEPS_PER_LOOK_MAX};
use crate::loans::Held;
use crate::stats::Counters;
use crate::worker::{Seen, look_for};

/// What all peers of an endpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: PeerId,
    pub(crate) job: String,
    /// Which process this is, among those that may claim the same identity.
    pub(crate) nonce: u64,
    pub(crate) chunk_bytes: u32,
    pub(crate) links_per_peer: usize,
    pub(crate) busy_poll: Duration,
    /// Looks to leave out, since somebody who computes wants the processor.
    looks_left_out: AtomicU32,
    /// How many are to be left out the next time: more if that happens again and again.
    next_left_out: AtomicU32,
    pub(crate) grants: Arc<Grants>,
    pub(crate) hub: Hub,
    pub(crate) counters: Arc<Counters>,
    pub(crate) flights: FlightRecorder,
    pub(crate) threads: Arc<Threads>,
    pub(crate) beats: Beats,
    pub(crate) held: Held,
    egress: Mutex<Egress>,
    started: Instant,
    /// What the calendar said then: for showing times to people, never for deciding.
    started_on: SystemTime,
    next_link: AtomicU32,
    next_order: AtomicU64,
    stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: &EndpointConfig, nonce: u64, beats: Beats) -> Self {
        let counters = Arc::<Counters>::default();
        Self {
            id: config.id,
            job: config.job.clone(),
            nonce,
            chunk_bytes: config.chunk_bytes,
            links_per_peer: config.links_per_peer,
            busy_poll: config.busy_poll,
            looks_left_out: AtomicU32::new(0),
            next_left_out: AtomicU32::new(0),
            grants: Arc::new(Grants::new(Arc::clone(&counters))),
            hub: Hub::new(Arc::clone(&counters)),
            counters,
            flights: FlightRecorder::default(),
            threads: Arc::default(),
            beats,
            held: Held::default(),
            egress: Mutex::default(),
            started: Instant::now(),
            started_on: SystemTime::now(),
            next_link: AtomicU32::new(0),
            next_order: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// Looks until `seen` says that there is something, for `least`; not at all for a while after somebody was found computing on the
    /// same processor.
    pub(crate) fn look_for(&self, least: Duration, looks: usize, seen: impl FnMut() -> bool) -> Seen {
        let one_less = |left: u32| left.checked_sub(1);
        if self.looks_left_out.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Seen::No;
        }
        let seen = look_for(least, looks, seen);
        self.looked(seen);
        seen
    }

    /// One who computes holds up every look, or every other; any process that runs for a moment holds up one. So looks are left out
    /// only where it has happened often beside those that were not held up.
    fn looked(&self, seen: Seen) {
        let next = self.next_left_out.load(Ordering::SeqCst);
        let then = match seen {
            Seen::HeldUp => {
                self.looks_left_out.store(next, Ordering::SeqCst);
                (2 * next + LOOKS_LEFT_OUT_STEP).min(SLEEPS_PER_LOOK_MAX)
            }
            Seen::Yes | Seen::No => next.saturating_sub(1),
        };
        self.next_left_out.store(then, Ordering::SeqCst);
    }

    /// The endpoint's clock: it begins when the endpoint does.
    pub(crate) fn now(&self) -> Time {
        Time::ZERO.after(self.started.elapsed())
    }

    /// What the calendar says at `at`, if nobody has set it since the endpoint started.
    pub(crate) fn on_calendar(&self, at: Time) -> SystemTime {
        self.started_on + at.since(Time::ZERO)
    }

    /// How long it is until `at`.
    pub(crate) fn until(&self, at: Time) -> Duration {
        at.since(self.now())
    }

    pub(crate) fn egress(&self) -> MutexGuard<'_, Egress> {
        self.egress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_link(&self) -> LinkId {
        LinkId(self.next_link.fetch_add(1, Ordering::Relaxed))
    }

    /// The next place in the order of all transfers.
    pub(crate) fn next_order(&self) -> u64 {
        self.next_order.fetch_add(1, Ordering::Relaxed)
    }

    /// Says that the endpoint is shutting down; `false` if somebody has said so before.
    pub(crate) fn stop(&self) -> bool {
        !self.stopping.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// Counts the threads of an endpoint, so that its end can be waited for without waiting for ever.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    running: Mutex<usize>,
    left: Condvar,
}

/// A thread that runs.
#[derive(Debug)]
pub(crate) struct Running(Arc<Threads>);

impl Threads {
    /// Counts one more, until what this returns is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Running {
        *self.lock() += 1;
        Running(Arc::clone(self))
    }

    /// Waits until none runs. `false` if some still do after `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let waited = self.left.wait_timeout_while(self.lock(), timeout, |running| *running > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_left_out_for_a_while_and_then_taken_up_again() {
        let config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job");
        let shared = Shared::new(&config, 1, Beats::new().expect("a descriptor"));
        shared.looks_left_out.store(2, Ordering::SeqCst);
        let mut looked = 0;
        let mut look = || {
            let seen = shared.look_for(Duration::MAX, 1, || {
                looked += 1;
                true
            });
            (seen, looked)
        };
        assert_eq!([look(), look(), look()], [(Seen::No, 0), (Seen::No, 0), (Seen::Yes, 1)]);
    }

    #[test]
    fn no_look_is_left_out_for_one_that_was_held_up_and_many_where_every_other_is() {
        let config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job");
        let shared = Shared::new(&config, 1, Beats::new().expect("a descriptor"));
        let left_out = |found: u32| {
            (0..found).for_each(|_| shared.looked(Seen::Yes));
            shared.looked(Seen::HeldUp);
            shared.looks_left_out.load(Ordering::SeqCst)
        };
        let often: Vec<_> = (0..6).map(|_| left_out(1)).collect();
        assert_eq!(often, [0, 3, 9, 21, 45, SLEEPS_PER_LOOK_MAX - 1]);
        assert_eq!(left_out(2 * SLEEPS_PER_LOOK_MAX), 0);
    }
}
