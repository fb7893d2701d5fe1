//! What happens to a device, its ports, and what was made on it, without having been asked for.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;

use super::VerbsError;
use super::abi::{self, AsyncEvent};
use super::device::Context;

/// Values of `ibv_event_type`: those that end something.
mod kind {
    pub(super) const QUEUE_OVERRUN: i32 = 0;
    pub(super) const PAIR_FAILED: i32 = 1;
    pub(super) const PAIR_REQUEST: i32 = 2;
    pub(super) const PAIR_ACCESS: i32 = 3;
    pub(super) const DEVICE_FAILED: i32 = 8;
    pub(super) const PORT_DOWN: i32 = 10;
}

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A completion queue was full, so completions are lost.
    QueueOverrun {
        /// As the queue was [told](super::CompletionQueue::new).
        owner: u64,
    },
    /// A queue pair has failed by itself.
    PairFailed {
        /// As its completion queue was told.
        owner: u64,
        /// The interface's number for the reason.
        number: i32,
    },
    /// A port doesn't carry any more.
    PortDown {
        /// Its number.
        port: u8,
    },
    /// The device failed, or was taken away.
    DeviceFailed,
    /// Something else, which ends nothing.
    Other {
        /// The interface's number for it.
        number: i32,
    },
}

impl Event {
    /// # Safety
    ///
    /// What the event is about must still be there, which it is until the event is acknowledged.
    unsafe fn of(event: &AsyncEvent) -> Self {
        let number = event.event_type;
        match number {
            kind::QUEUE_OVERRUN => {
                // SAFETY: the queue is there, by the caller's word.
                let owner = unsafe { (*event.element.cast::<abi::Cq>()).cq_context };
                Self::QueueOverrun { owner: owner.addr() as u64 }
            }
            kind::PAIR_FAILED | kind::PAIR_REQUEST | kind::PAIR_ACCESS => {
                // SAFETY: the queue pair is there, by the caller's word.
                let owner = unsafe { (*event.element.cast::<abi::Qp>()).qp_context };
                Self::PairFailed { owner: owner.addr() as u64, number }
            }
            // A port's number is an `int` in the place of the pointer.
            kind::PORT_DOWN => Self::PortDown { port: event.element.addr() as u32 as u8 },
            kind::DEVICE_FAILED => Self::DeviceFailed,
            number => Self::Other { number },
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueOverrun { .. } => {
                f.write_str("the completion queue was full, so completions are lost (overrun)")
            }
            Self::PairFailed { number: kind::PAIR_REQUEST, .. } => {
                f.write_str("the queue pair got a request that makes no sense, and has failed")
            }
            Self::PairFailed { number: kind::PAIR_ACCESS, .. } => {
                f.write_str("the other end wanted memory that it may not reach, and the queue pair has failed")
            }
            Self::PairFailed { .. } => f.write_str("the queue pair has failed (fatal error)"),
            Self::PortDown { port } => write!(f, "port {port} is down"),
            Self::DeviceFailed => f.write_str("the device has failed, or was taken away"),
            Self::Other { number } => write!(f, "event {number}"),
        }
    }
}

/// Keeps [`Context::take_event`] from waiting.
pub(super) fn never_block(context: *mut abi::Context) -> Result<(), VerbsError> {
    // SAFETY: the context is open, and so is its descriptor.
    let result = unsafe {
        let descriptor = (*context).async_fd;
        let flags = libc::fcntl(descriptor, libc::F_GETFL);
        libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if result < 0 { Err(VerbsError::last("a device whose events block (fcntl)")) } else { Ok(()) }
}

impl Context {
    /// What becomes readable when something has happened.
    pub fn events(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the device's, and open as long as that is.
        unsafe { BorrowedFd::borrow_raw((*self.raw).async_fd) }
    }

    /// The next thing that has happened; nothing if nothing has.
    pub fn take_event(&self) -> Result<Option<Event>, VerbsError> {
        let mut event = AsyncEvent { element: ptr::null_mut(), event_type: 0 };
        // SAFETY: the context is open and doesn't block, and the structure is whole.
        if unsafe { (self.library.get_async_event)(self.raw, &mut event) } != 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(VerbsError::Failed { what: "the device's events can't be read (ibv_get_async_event)", error }),
            };
        }
        // SAFETY: whoever ends what it is about waits until it is acknowledged, which comes after this.
        let happened = unsafe { Event::of(&event) };
        // SAFETY: it was given just now, and is acknowledged once.
        unsafe { (self.library.ack_async_event)(&mut event) };
        Ok(Some(happened))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the library gives it: about a queue, or a queue pair, whose owner is 77; or about port 2.
    fn given(number: i32) -> (Event, String) {
        let private = ptr::without_provenance_mut(77);
        // SAFETY: structures of pointers and numbers, for which zeros are values.
        let (mut queue, mut pair) = unsafe { (std::mem::zeroed::<abi::Cq>(), std::mem::zeroed::<abi::Qp>()) };
        (queue.cq_context, pair.qp_context) = (private, private);
        let element = match number {
            kind::QUEUE_OVERRUN => (&raw mut queue).cast(),
            kind::PAIR_FAILED..=5 => (&raw mut pair).cast(),
            _ => ptr::without_provenance_mut(0xffff_ffff_0000_0002),
        };
        // SAFETY: both live here.
        let event = unsafe { Event::of(&AsyncEvent { element, event_type: number }) };
        (event, event.to_string())
    }

    #[test]
    fn what_has_happened_says_whose_it_is() {
        for (number, expected, says) in [
            (0, Event::QueueOverrun { owner: 77 }, "overrun"),
            (1, Event::PairFailed { owner: 77, number: 1 }, "fatal"),
            (2, Event::PairFailed { owner: 77, number: 2 }, "makes no sense"),
            (3, Event::PairFailed { owner: 77, number: 3 }, "may not reach"),
            (4, Event::Other { number: 4 }, "event 4"),
            (8, Event::DeviceFailed, "taken away"),
            (9, Event::Other { number: 9 }, "event 9"),
            (10, Event::PortDown { port: 2 }, "port 2 is down"),
            (99, Event::Other { number: 99 }, "event 99"),
        ] {
            let (event, words) = given(number);
            assert_eq!(event, expected);
            assert!(words.contains(says), "{words}");
        }
    }
}
