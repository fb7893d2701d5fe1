//! Reading the other end's memory, and the proof that this is over.
#![allow(unsafe_code, reason = "a device is given memory")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use xfer_sys::verbs::{MemoryRegion, Part, Work};

use super::{Failure, Wire, kind};
use crate::intake::Pulling;
use crate::limits::{DRAIN_TIMEOUT, READER_GRACE, READER_LOOK_EVERY};
use crate::memory::Slice;

impl Wire {
    /// Reads so far whose end is known.
    pub(in crate::backend::verbs) fn reads_so_far(&self) -> u64 {
        self.lock().done
    }

    /// Whether another read may be posted.
    pub(in crate::backend::verbs) fn has_room_to_read(&self) -> bool {
        let queue = self.lock();
        queue.failed.is_none() && queue.posted - queue.done < u64::from(self.reads())
    }

    /// Reads `len` bytes at `remote` of the other end to `at` of `memory`, which stays as it is until that is over. How many reads
    /// have to be over for that.
    pub(in crate::backend::verbs) fn read(
        &self,
        (memory, at, len): (&Slice, usize, usize),
        registration: &Arc<MemoryRegion>,
        (remote, remote_key): (u64, u32),
    ) -> io::Result<u64> {
        let mut queue = self.lock();
        let start = memory.as_ptr() as u64 + at as u64;
        debug_assert!((at + len) as u64 <= memory.len_bytes());
        let part = Part { start, len_bytes: len as u32, key: registration.local_key() };
        let until = queue.posted + 1;
        match queue.landing.back_mut() {
            // More of the same chunk.
            Some((last, kept, by)) if kept.as_ptr() == memory.as_ptr() && Arc::ptr_eq(by, registration) => {
                *last = until
            }
            _ => queue.landing.push_back((until, memory.clone(), Arc::clone(registration))),
        }
        // SAFETY: the range is inside the slice, which is kept beside the queue pair until the read is known to be over, and which
        // others look at as at memory that a peer writes.
        let posted = unsafe { queue.post([(kind::READ << 56, &Work::Read { part, remote, remote_key })]) };
        if let Err(error) = posted {
            queue.fail_with(Failure::Call(error.to_string()));
            return Err(error.into());
        }
        queue.posted = until;
        Ok(until)
    }

    /// Waits until the first `until` reads are over, at most for `timeout`.
    fn reads_are_over(&self, until: u64, timeout: Duration) -> bool {
        let began = Instant::now();
        loop {
            self.turn_for_another();
            if self.lock().done >= until {
                return true;
            }
            if began.elapsed() >= timeout {
                return false;
            }
            thread::sleep(READER_LOOK_EVERY);
        }
    }

    /// Ends all reads by force: the proof that the device writes nothing more. `false` if there is none.
    pub(super) fn stop_reading(&self) -> bool {
        let until = {
            let mut queue = self.lock();
            if queue.posted == queue.done {
                return true;
            }
            if let Err(error) = queue.pair.fail() {
                tracing::warn!("{}: {error}", self.rail);
            }
            queue.fail_with(Failure::Call("stopped, since it would not come to the end of a read".into()));
            queue.posted
        };
        if self.reads_are_over(until, DRAIN_TIMEOUT) {
            return true;
        }
        let mut queue = self.lock();
        match queue.end() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{}: {error}: memory that it may write is kept for ever", self.rail);
                std::mem::forget(std::mem::take(&mut queue.landing));
                false
            }
        }
    }
}

/// The reads of one chunk.
#[derive(Debug)]
pub(in crate::backend::verbs) struct Reads {
    wire: Arc<Wire>,
    /// They are over when so many of the queue pair's are.
    until: AtomicU64,
}

impl Reads {
    pub(in crate::backend::verbs) fn new(wire: &Arc<Wire>) -> Self {
        Self { wire: Arc::clone(wire), until: AtomicU64::new(0) }
    }

    /// One more was posted.
    pub(in crate::backend::verbs) fn go_on_until(&self, until: u64) {
        self.until.store(until, Ordering::SeqCst);
    }
}

impl Pulling for Reads {
    fn stop(&self) -> bool {
        // Those of other chunks go on, unless this is not over within a moment.
        self.wire.reads_are_over(self.until.load(Ordering::SeqCst), READER_GRACE) || self.wire.stop_reading()
    }
}
