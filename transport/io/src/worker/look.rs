//! Looking for what arrives instead of sleeping: by the link's own thread, or by one that waits for something anyway.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use xfer_transport_core::link::State;

use super::{Inside, Worker};
use crate::backend::Interest;
use crate::backlog::Backlog;
use crate::peer::Peer;

impl Worker {
    /// Looks whether there is something to do without sleeping, as long as it was told to.
    pub(super) fn look(&self, interest: Interest, timeout: Duration) -> bool {
        let least = self.shared.busy_poll.min(timeout);
        // Whoever looks here meanwhile takes in what arrives, and does so without waking anybody.
        if least.is_zero() || self.callers.load(Ordering::SeqCst) > 0 {
            return false;
        }
        if self.can_be_peeked {
            self.lock().look(true);
        }
        let (started, mut found) = (Instant::now(), false);
        while !found && started.elapsed() < least && self.callers.load(Ordering::SeqCst) == 0 {
            // Whoever has the lock sends or takes in, and needs it undisturbed.
            found = self.is_peeked() || self.wait(interest, Duration::ZERO);
            if !found {
                // Whoever is to bring something may need this processor for it.
                thread::yield_now();
            }
        }
        if self.can_be_peeked {
            let mut inside = self.lock();
            inside.look(false);
            found |= inside.link.peek();
        }
        found
    }

    fn is_peeked(&self) -> bool {
        self.can_be_peeked && self.inside.try_lock().is_ok_and(|inside| inside.link.peek())
    }

    /// Takes in what can be seen without the kernel's help, unless somebody else does just now.
    fn look_once(self: &Arc<Self>, peer: &Arc<Peer>) {
        let mut news = false;
        {
            let Ok(mut inside) = self.inside.try_lock() else { return };
            let inside = &mut *inside;
            if !inside.link.peek() || inside.over.is_some() || inside.machine.state() != State::Open {
                return;
            }
            // There is nobody to greet on an open link.
            if let Err(reason) = self.turn_of(inside, &mut news, true) {
                inside.over = Some(reason);
                self.wake.wake();
            }
            self.wake_if_waiting(inside);
        }
        Backlog::offer(peer, None);
        if peer.backlog.is_stuck() {
            // The link's own thread offers it again soon, once it knows.
            self.wake.wake();
        }
        match news {
            true => peer.kick(),
            false => peer.kick_for_messages(),
        }
    }
}

impl Inside {
    /// One more thread looks, or one less.
    fn look(&mut self, begins: bool) {
        self.lookers = if begins { self.lookers + 1 } else { self.lookers.saturating_sub(1) };
        if matches!((begins, self.lookers), (true, 1) | (false, 0)) {
            self.link.look(begins);
        }
    }
}

/// A thread that waits for something of a peer, and looks for it meanwhile.
pub(crate) struct Looking {
    worker: Arc<Worker>,
    peer: Arc<Peer>,
}

impl Looking {
    /// Nothing where there is nothing to look at: then the link's own thread looks.
    pub(crate) fn at(worker: Arc<Worker>, peer: Arc<Peer>) -> Option<Self> {
        if !worker.can_be_peeked {
            return None;
        }
        worker.callers.fetch_add(1, Ordering::SeqCst);
        {
            let mut inside = worker.lock();
            inside.look(true);
            worker.wake_if_waiting(&inside);
        }
        Some(Self { worker, peer })
    }

    /// Takes in what has arrived.
    pub(crate) fn once(&self) {
        self.worker.look_once(&self.peer);
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.worker.callers.fetch_sub(1, Ordering::SeqCst);
        self.worker.lock().look(false);
        // What has come until then was put for one who looked. If somebody else has the lock, it is the link's own to take.
        self.once();
        if self.worker.lock().link.peek() {
            self.worker.wake.wake();
        }
    }
}
