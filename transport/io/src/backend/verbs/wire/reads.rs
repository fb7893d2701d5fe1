//! Reading the other end's memory, and the proof that this is over.
#![allow(unsafe_code, reason = "a device is given memory")]

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use xfer_sys::verbs::{MemoryRegion, Part, Work};

use super::{Failure, Wire, kind};
use crate::intake::Pulling;
use crate::limits::{DRAIN_TIMEOUT, READER_GRACE, READER_LOOK_EVERY};
use crate::memory::Slice;

impl Wire {
    /// Reads so far, and those of them whose end is known.
    pub(in crate::backend::verbs) fn reads_so_far(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.posted, queue.done)
    }

    /// Whether another read may be posted.
    pub(in crate::backend::verbs) fn has_room_to_read(&self) -> bool {
        let queue = self.lock();
        queue.failed.is_none() && queue.posted - queue.done < u64::from(self.reads())
    }

    /// Reads `len` bytes at `remote` of the other end to `at` of `memory`, which stays as it is until that is over.
    pub(in crate::backend::verbs) fn read(
        &self,
        (memory, at, len): (&Slice, usize, usize),
        registration: &Arc<MemoryRegion>,
        (remote, remote_key): (u64, u32),
    ) -> io::Result<()> {
        let mut queue = self.lock();
        let start = memory.as_ptr() as u64 + at as u64;
        debug_assert!((at + len) as u64 <= memory.len_bytes());
        let part = Part { start, len_bytes: len as u32, key: registration.local_key() };
        queue.landing = Some((memory.clone(), Arc::clone(registration)));
        // SAFETY: the range is inside the slice, which is kept beside the queue pair until the read is known to be over, and which
        // others look at as at memory that a peer writes.
        let posted = unsafe { queue.post(kind::READ << 56, &Work::Read { part, remote, remote_key }) };
        if let Err(error) = posted {
            queue.fail_with(Failure::Call(error.to_string()));
            return Err(error.into());
        }
        queue.posted += 1;
        Ok(())
    }

    /// Waits until the first `until` reads are over, at most for `timeout`.
    fn reads_are_over(&self, until: u64, timeout: Duration) -> bool {
        let began = Instant::now();
        loop {
            self.turn();
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
                std::mem::forget(queue.landing.take());
                false
            }
        }
    }
}

impl Pulling for Wire {
    fn stop(&self) -> bool {
        let (posted, done) = self.reads_so_far();
        done >= posted || self.reads_are_over(posted, READER_GRACE) || self.stop_reading()
    }
}
