//! What has completed: what it says of the work, and to whom it gives something to do.
#![allow(unsafe_code, reason = "a device has written what has arrived")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use xfer_sys::verbs::Status;
use xfer_transport_core::rdma;

use super::exposures::Exposure;
use super::order::OutOfOrder;
use super::{Failure, Queue, Wire, kind};
use crate::limits::RDMA_ROOM;
use crate::wake::Wake;

impl Wire {
    /// Takes in what has completed.
    pub(in crate::backend::verbs) fn turn(&self) {
        let mut over = Vec::new();
        {
            let mut queue = self.lock();
            self.take_in(&mut queue, &mut over);
        }
        // Their memory may be somebody's whose end takes other locks.
        drop(over);
    }

    /// The same by another thread than the link's, which may sleep: it has asked to be told of what it waited for then, and this may be
    /// what it waits for since.
    pub(super) fn turn_for_another(&self) {
        self.turn();
        let queue = self.lock();
        if queue.news || queue.failed.is_some() {
            self.nudge.wake();
        }
    }

    /// Takes in what has completed, and says whether there is something to do.
    pub(in crate::backend::verbs) fn peek(&self) -> bool {
        self.turn();
        let queue = self.lock();
        queue.news || queue.failed.is_some()
    }

    /// All that there is to do is about to be done.
    pub(in crate::backend::verbs) fn seen(&self) {
        self.lock().news = false;
    }

    /// Whether only packets of the other end are waited for. Everything that is told otherwise costs a wake-up: that a packet has
    /// left, or a window is closed, matters only where there is no room for another.
    pub(in crate::backend::verbs) fn waits_for_packets_only(&self) -> bool {
        let queue = self.lock();
        queue.posted == queue.done && !queue.free.is_empty() && !queue.is_full_of_exposures()
    }

    /// Has the next completion announced by the descriptor; or, with `only_sent`, the next packet.
    pub(in crate::backend::verbs) fn arm(&self, only_sent: bool) -> io::Result<()> {
        Ok(self.completions.arm(only_sent)?)
    }

    /// Whether something was announced; then it has to be armed again.
    pub(in crate::backend::verbs) fn take_announcement(&self) -> bool {
        self.completions.take_announcement()
    }

    /// What wakes the link's thread besides.
    pub(in crate::backend::verbs) fn nudge(&self) -> &Wake {
        &self.nudge
    }

    /// What becomes readable when something was announced.
    pub(in crate::backend::verbs) fn descriptor(&self) -> BorrowedFd<'_> {
        self.completions.channel().as_fd()
    }

    fn take_in(&self, queue: &mut Queue, over: &mut Vec<Exposure>) {
        let mut found = std::mem::take(&mut queue.found);
        loop {
            match self.completions.poll(|completion| found.push(completion)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    queue.fail_with(Failure::Call(error.to_string()));
                    break;
                }
            }
        }
        queue.mishaps.befall(&mut found);
        for completion in found.drain(..) {
            let number = completion.id as u16;
            let in_order = queue.order.completed(completion.id);
            // What comes after something that was lost can't be understood any more.
            let is_room = completion.id >> 56 == kind::ROOM;
            queue.has_missed |= is_room && (in_order.is_err() || !completion.status.is_ok());
            if let Err(OutOfOrder { missing }) = in_order {
                queue.fail_with(Failure::Call(match missing {
                    Some(id) => format!("the completion of {} was lost", kind::words(id)),
                    None => format!("{} completes that nobody has asked for", kind::words(completion.id)),
                }));
            }
            if completion.id >> 56 == kind::OPEN && !completion.status.is_ok() && completion.status != Status::FLUSHED {
                // The next link does without them.
                tracing::warn!("no windows over {}: {}", self.rail, completion.status);
                self.rail.has_windows.store(false, Ordering::Relaxed);
            }
            if !completion.status.is_ok() {
                queue.fail_with(Failure::Status(completion.status, kind::words(completion.id)));
            }
            match completion.id >> 56 {
                kind::READ => {
                    queue.done += 1;
                    queue.news = true;
                    while queue.landing.front().is_some_and(|(until, ..)| *until <= queue.done) {
                        queue.landing.pop_front();
                    }
                }
                kind::SEND => {
                    queue.news |= queue.free.is_empty();
                    queue.free.push(number);
                }
                kind::CLOSE if completion.status.is_ok() => {
                    queue.news |= queue.is_full_of_exposures();
                    queue.closed(completion.id & kind::NUMBER, over);
                }
                kind::ROOM if !queue.has_missed => {
                    // SAFETY: what has arrived is ours until the buffer is posted again.
                    let bytes = unsafe { self.room.bytes(number, completion.len_bytes as usize) };
                    match rdma::numbers_of(bytes) {
                        Some((taken, freed)) => {
                            queue.credits += u32::from(freed);
                            if queue.credits > u32::from(RDMA_ROOM) {
                                queue.fail_with(Failure::Violation("it has more room than there is"));
                            }
                            queue.take(taken, over);
                            queue.arrived.push_back((number, completion.len_bytes));
                            queue.news = true;
                        }
                        None => queue.fail_with(Failure::Violation("a packet without its head")),
                    }
                }
                _ => {}
            }
        }
        queue.found = found;
    }
}
