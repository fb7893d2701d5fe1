//! The fence around a transfer's source: once it is closed, no link and no device reads the source any more.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{READER_GRACE, READER_LOOK_EVERY};

/// Something that reads sources without anybody copying: a device, on behalf of the other end.
pub(crate) trait Reader: Send + Sync + fmt::Debug {
    /// Finds out whether it is through with something, and leaves the gates of that. Takes no gate's lock but to leave it.
    fn look(&self);

    /// The other end has all that it could read under `number`: that ends now, without a word of it.
    fn finish(&self, number: u64);

    /// Ends what it reads under `number`, by force if need be, and leaves its gate once that is proven.
    fn stop(&self, number: u64);
}

/// Lets links read a source until it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Somebody has waited for it to be empty, for as long as anybody does, and it was not.
    given_up: bool,
    /// Links that are reading just now, and what devices read.
    inside: usize,
    /// Who reads for a device, and under which number.
    readers: Vec<(Arc<dyn Reader>, u64)>,
}

/// A link is reading the source.
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// Begins to read, unless it is closed.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.inside += 1;
        Some(Inside(self))
    }

    /// Lets a device read, unless it is closed, until [`Gate::leave`] is called with the same number. Whoever closes the gate
    /// meanwhile gives the reader a moment to come to an end by itself, and then stops it.
    #[must_use]
    pub(crate) fn admit(&self, reader: Arc<dyn Reader>, number: u64) -> bool {
        let mut state = self.lock();
        if !state.closed {
            state.inside += 1;
            state.readers.push((reader, number));
        }
        !state.closed
    }

    /// A device reads no more of what it was admitted for under `number`.
    pub(crate) fn leave(&self, number: u64) {
        let mut state = self.lock();
        if let Some(at) = state.readers.iter().position(|(_, other)| *other == number) {
            let reader = state.readers.swap_remove(at);
            self.left_by_one(state);
            // It may be the last that holds a device, whose end takes other locks.
            drop(reader);
        }
    }

    /// All that devices were let read has arrived where they brought it: none of them has to be waited for.
    pub(crate) fn finish(&self) {
        let readers = self.lock().readers.clone();
        readers.iter().for_each(|(reader, number)| reader.finish(*number));
    }

    /// Closes it and waits until nobody is inside. `false` if somebody still is after `timeout`; whoever asks after that is told
    /// at once how it stands.
    pub(crate) fn close(&self, timeout: Duration) -> bool {
        let began = Instant::now();
        let mut state = self.lock();
        state.closed = true;
        let mut stopped = state.given_up;
        while state.inside > 0 {
            let timeout = if state.given_up { READER_LOOK_EVERY } else { timeout };
            let Some(left) = timeout.checked_sub(began.elapsed()) else {
                state.given_up = true;
                return false;
            };
            // It may be for this very thread to find out that a device is through: nobody else is waited for alone.
            let readers = state.readers.clone();
            if !readers.is_empty() {
                drop(state);
                if !stopped && began.elapsed() >= READER_GRACE {
                    readers.iter().for_each(|(reader, number)| reader.stop(*number));
                    stopped = true;
                } else {
                    // One that reads several parts looks for all of them.
                    for (at, (reader, _)) in readers.iter().enumerate() {
                        if at == 0 || !Arc::ptr_eq(reader, &readers[at - 1].0) {
                            reader.look();
                        }
                    }
                }
                state = self.lock();
                if state.inside == 0 {
                    break;
                }
            }
            let wait = if readers.is_empty() { left } else { left.min(READER_LOOK_EVERY) };
            state = self.left.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn left_by_one(&self, mut state: MutexGuard<'_, State>) {
        state.inside -= 1;
        if state.closed && state.inside == 0 {
            self.left.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.left_by_one(self.0.lock());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn nobody_enters_a_closed_gate() {
        let gate = Gate::default();
        drop(gate.enter().expect("it is open"));
        assert!(gate.close(Duration::ZERO));
        assert!(gate.enter().is_none());
    }

    #[test]
    fn closing_waits_for_those_inside() {
        let gate = Gate::default();
        let first = gate.enter().expect("it is open");
        let second = gate.enter().expect("several may be inside");
        assert!(!gate.close(Duration::ZERO));
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| gate.close(Duration::from_secs(60)));
            drop(first);
            drop(second);
            assert!(closing.join().expect("no panic"));
        });
    }

    /// Leaves when it is looked at, or only when it is stopped.
    #[derive(Debug)]
    struct Device {
        gate: Arc<Gate>,
        ends_by_itself: bool,
        stopped: AtomicBool,
    }

    impl Reader for Device {
        fn look(&self) {
            if self.ends_by_itself {
                self.gate.leave(7);
            }
        }

        fn finish(&self, number: u64) {
            self.gate.leave(number);
        }

        fn stop(&self, number: u64) {
            self.stopped.store(true, Ordering::SeqCst);
            self.gate.leave(number);
        }
    }

    #[test]
    fn closing_lets_a_device_come_to_its_end_and_stops_one_that_does_not() {
        for ends_by_itself in [true, false] {
            let gate = Arc::new(Gate::default());
            let device = Arc::new(Device { gate: Arc::clone(&gate), ends_by_itself, stopped: AtomicBool::default() });
            assert!(gate.admit(Arc::clone(&device) as Arc<dyn Reader>, 7));
            assert!(gate.close(Duration::from_secs(60)));
            assert_eq!(device.stopped.load(Ordering::SeqCst), !ends_by_itself);
            assert!(!gate.admit(device, 8), "it is closed");
            assert!(gate.close(Duration::ZERO));
        }
    }

    #[test]
    fn who_closes_after_another_has_given_up_waits_no_more_and_learns_of_the_end() {
        let gate = Gate::default();
        let inside = gate.enter().expect("it is open");
        assert!(!gate.close(Duration::ZERO));
        // This would go on for ever.
        assert!(!gate.close(Duration::MAX));
        drop(inside);
        assert!(gate.close(Duration::MAX));
    }

    #[test]
    fn a_device_that_has_brought_all_is_not_waited_for() {
        let gate = Arc::new(Gate::default());
        let (ends_by_itself, stopped) = (false, AtomicBool::default());
        let device = Arc::new(Device { gate: Arc::clone(&gate), ends_by_itself, stopped });
        assert!(gate.admit(Arc::clone(&device) as Arc<dyn Reader>, 7));
        gate.finish();
        assert!(gate.close(Duration::ZERO));
        assert!(!device.stopped.load(Ordering::SeqCst));
    }
}
