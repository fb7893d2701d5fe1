//! A link for signs of life alone, as the thread that serves all of them sees it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use xfer_transport_core::Time;
use xfer_transport_core::frame::FrameKind;
use xfer_transport_core::link::{Due, Event};
use xfer_transport_core::message::{Greeting, Received};
use xfer_transport_core::path::LinkId;

use super::send::message;
use super::{Inside, Wish, Worker};
use crate::backend::Interest;
use crate::error::DownReason;
use crate::greeting::Side;
use crate::shared::Running;

/// A link for signs of life, once both ends know each other.
pub(crate) struct Pulse {
    worker: Arc<Worker>,
    side: Side,
    /// As of the last look: a thread of a link to this peer was held up.
    held_up: bool,
    running: Running,
}

impl Pulse {
    pub(super) fn new(worker: Arc<Worker>, side: Side, running: Running) -> Self {
        Self { worker, side, held_up: false, running }
    }

    pub(crate) fn id(&self) -> LinkId {
        self.worker.id
    }

    /// Hears what has arrived, and beats if it is time. Never waits.
    pub(crate) fn attend(&mut self) -> Result<(), DownReason> {
        let worker = &self.worker;
        worker.watch.wake.clear();
        if worker.wish.load(Ordering::SeqCst) != Wish::Run as u8 {
            return Err(DownReason::ShutDown);
        }
        let mut inside = worker.lock();
        let inside = &mut *inside;
        let polled = inside.link.poll(&mut inside.intake);
        let now = worker.shared.now();
        if std::mem::take(&mut inside.intake.heard_bytes) > 0 {
            inside.machine.heard(now);
        }
        inside.hear(now)?;
        if let Err(error) = polled {
            let reason = DownReason::from(&error);
            inside.failed = Some(error);
            return Err(reason);
        }
        while let Some(due) = inside.machine.handle_timeout(now) {
            match due {
                Due::Beat => inside.beat = true,
                Due::Suspect => {}
                Due::Dead(silence) => return Err(DownReason::Silent(silence)),
            }
        }
        if let Some(greeting) = inside.greetings.front() {
            // The answer to a hello comes before everything else.
            let answer = message(FrameKind::Greeting, 0, 0, greeting.clone());
            if inside.link.submit(answer).is_err() {
                return Ok(());
            }
            inside.greetings.pop_front();
        }
        let Some(peer) = &inside.peer else { return Ok(()) };
        if !std::mem::take(&mut inside.beat) {
            return Ok(());
        }
        if peer.is_stranded(now) {
            return Err(DownReason::Lost("it lives, but none of its other links can be opened again".into()));
        }
        if let Some(held_up) = peer.is_held_up(now) {
            self.held_up = held_up;
        }
        let beat = message(FrameKind::Beat, 0, u64::from(self.held_up), Received::default().encode());
        // A link that takes no beat is full of beats that were not heard: one more says nothing new.
        let _ = inside.link.submit(beat);
        Ok(())
    }

    /// What of its link to wait for, and the moments by which to attend to it again: for its beats, and for the link itself.
    pub(crate) fn waits_for(&self) -> (Interest, Option<Time>, Option<Instant>) {
        let mut inside = self.worker.lock();
        let interest = inside.link.interest();
        let interest = Interest { at_once: interest.at_once || inside.link.rest(), ..interest };
        (interest, inside.machine.poll_timeout(), inside.link.poll_timeout())
    }

    /// The link's own, and what wakes whoever serves it.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [(*self.worker.watch.readiness).as_fd(), self.worker.watch.wake.as_fd()]
    }

    /// The link is over. This may take a moment, and run callbacks.
    pub(crate) fn end(self, reason: DownReason) {
        let Self { worker, side, running, .. } = self;
        let reason = if reason == DownReason::ShutDown { worker.leave_or_stop() } else { reason };
        worker.end(side, reason);
        drop(running);
    }
}

impl Inside {
    /// Deals with what arrived on a link for signs of life.
    fn hear(&mut self, now: Time) -> Result<(), DownReason> {
        for (header, payload) in std::mem::take(&mut self.intake.messages) {
            match header.kind {
                FrameKind::Beat => {
                    Received::decode(&payload)
                        .map_err(|error| DownReason::Violation(format!("malformed beat: {error}")))?;
                    if let Some(peer) = self.peer.as_ref().filter(|_| header.transfer != 0) {
                        peer.excuse(now);
                    }
                }
                FrameKind::Greeting if Greeting::decode(&payload) == Ok(Greeting::Bye) => {
                    let _ = self.machine.handle(Event::Bye, now);
                    return Err(DownReason::Left);
                }
                kind => {
                    return Err(DownReason::Violation(format!("a {kind:?} frame on a link for signs of life")));
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pulse({:?})", self.worker)
    }
}
