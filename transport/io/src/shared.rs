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
use crate::limits::{HELD_UP_STEP, HELD_UP_TIMES_MAX, YIELD_MAX};
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
    /// Until when looks are left out, since somebody who computes wants the processor: in nanoseconds of our clock.
    no_look_until: AtomicU64,
    /// How many times as long as the next look that is held up none follows: more if that happens again and again.
    held_up_times: AtomicU32,
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
            no_look_until: AtomicU64::new(0),
            held_up_times: AtomicU32::new(0),
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
    /// same processor, whether he was offered it or took it.
    pub(crate) fn look_for(&self, least: Duration, looks: usize, seen: impl FnMut() -> bool) -> Seen {
        let began = self.now();
        if began < Time::from_nanos(self.no_look_until.load(Ordering::Relaxed)) {
            return Seen::LeftOut;
        }
        let seen = look_for(least, looks, seen);
        let took = self.now().since(began);
        let held_up = seen == Seen::HeldUp || took > least.saturating_add(YIELD_MAX);
        self.looked(held_up.then_some(took));
        seen
    }

    /// A look was held up for so long, or not at all. One who computes holds up every look, or every other; any process that runs for a
    /// moment holds up one. So that costs nothing the first time, and where it has happened often beside looks that were not
    /// held up, none follows until what they took is little beside the time without.
    fn looked(&self, held_up: Option<Duration>) {
        let times = self.held_up_times.load(Ordering::Relaxed);
        let next = match held_up {
            Some(took) => {
                let until = self.now().after(took.saturating_mul(times));
                self.no_look_until.fetch_max(until.as_nanos(), Ordering::Relaxed);
                (2 * times + HELD_UP_STEP).min(HELD_UP_TIMES_MAX)
            }
            None => times.saturating_sub(1),
        };
        self.held_up_times.store(next, Ordering::Relaxed);
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
        let mut looked = 0;
        let mut look = || {
            let seen = shared.look_for(Duration::MAX, 1, || {
                looked += 1;
                true
            });
            (seen, looked)
        };
        assert_eq!(look(), (Seen::Yes, 1));
        shared.held_up_times.store(HELD_UP_TIMES_MAX, Ordering::Relaxed);
        shared.looked(Some(Duration::from_secs(60)));
        // A shorter one later changes nothing.
        shared.looked(Some(Duration::from_nanos(1)));
        assert_eq!([look(), look()], [(Seen::LeftOut, 1), (Seen::LeftOut, 1)]);
        assert!(shared.no_look_until.load(Ordering::Relaxed) >= Duration::from_secs(60 * 64).as_nanos() as u64);
        shared.no_look_until.store(shared.now().as_nanos(), Ordering::Relaxed);
        assert_eq!(look(), (Seen::Yes, 2));
    }

    #[test]
    fn no_look_is_left_out_for_one_that_was_held_up_and_many_where_every_other_is() {
        let config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job");
        let shared = Shared::new(&config, 1, Beats::new().expect("a descriptor"));
        let times = |found: u32| {
            (0..found).for_each(|_| shared.looked(None));
            let times = shared.held_up_times.load(Ordering::Relaxed);
            shared.looked(Some(Duration::ZERO));
            times
        };
        let often: Vec<_> = (0..6).map(|_| times(1)).collect();
        assert_eq!(often, [0, 3, 9, 21, 45, HELD_UP_TIMES_MAX - 1]);
        assert_eq!(times(2 * HELD_UP_TIMES_MAX), 0);
    }
}
