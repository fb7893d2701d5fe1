//! Wakes a thread that waits for descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Makes a descriptor readable, once however often it is asked before the sleeper has looked.
#[derive(Debug)]
pub(crate) struct Wake {
    descriptor: OwnedFd,
    asked: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { descriptor, asked: AtomicBool::new(false) })
    }

    /// Wakes the sleeper, or keeps it from going to sleep.
    pub(crate) fn wake(&self) {
        if !self.asked.swap(true, Ordering::SeqCst) {
            // It can only fail by overflow, and then the descriptor is readable anyway.
            let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        }
    }

    /// Whether it was asked and has not looked yet.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// The sleeper is awake and looks at everything after this.
    pub(crate) fn clear(&self) {
        if self.asked.load(Ordering::SeqCst) {
            let _ = rustix::io::read(&self.descriptor, &mut [0; 8]);
            self.asked.store(false, Ordering::SeqCst);
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
