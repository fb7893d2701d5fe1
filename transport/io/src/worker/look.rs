//! Looking for what arrives instead of sleeping: by the link's own thread, or by one that waits for something anyway.
//!
//! That is done for a moment without being told to, while something is under way and such looks find something: see [`Pace`]. Where both
//! ends see the same memory there is a mailbox to look at; on a connection of TCP the kernel is asked, again and again.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{hint, thread};

use xfer_transport_core::link::State;
use xfer_transport_core::message::LinkRole;

use super::{Inside, Worker};
use crate::backend::Sight;
use crate::backlog::Backlog;
use crate::limits::{
    CALLS_BEFORE_YIELD, LOOK_AHEAD, LOOKS_BEFORE_CALL, LOOKS_BEFORE_YIELD, SLEEPS_PER_LOOK_MAX, YIELD_MAX,
};
use crate::peer::Peer;

impl Worker {
    /// Looks whether there is something to do without sleeping: as long as it was told to, or for a moment if there is a pace
    /// that says that this pays.
    pub(super) fn look(&self, timeout: Duration, pace: Option<&mut Pace>) -> bool {
        let least = self.shared.busy_poll.min(timeout);
        // Whoever looks here meanwhile takes in what arrives, and does so without waking anybody.
        if self.callers.load(Ordering::SeqCst) > 0 {
            return false;
        }
        if !least.is_zero() {
            return self.look_for(least) == Seen::Yes && self.callers.load(Ordering::SeqCst) == 0;
        }
        let pace = pace.filter(|_| self.sight != Sight::None && self.role() != LinkRole::Beat);
        let seen = pace.map(|pace| pace.look(|| self.look_for(LOOK_AHEAD.min(timeout))));
        matches!(seen, Some(Seen::Yes | Seen::HeldUp))
    }

    /// Looks at what both ends see, and at what the thread would be told of; until somebody else looks.
    fn look_for(&self, least: Duration) -> Seen {
        let sees_memory = self.sight == Sight::Memory;
        if sees_memory {
            self.lock().look(true);
        }
        let looks = if self.sight == Sight::None { 1 } else { LOOKS_BEFORE_YIELD };
        let mut looked = 0;
        let seen = self.shared.look_for(least, looks, || {
            looked += 1;
            // What comes the other way takes a call to find out, which is as long as many looks at memory.
            let asks = !sees_memory || looked % LOOKS_BEFORE_CALL == 0;
            let is_told = || if asks { self.watch.wait(Duration::ZERO) } else { self.watch.wake.is_asked() };
            sees_memory && self.is_peeked() || is_told() || self.callers.load(Ordering::SeqCst) > 0
        });
        if sees_memory {
            let mut inside = self.lock();
            inside.look(false);
            if inside.link.peek() && seen != Seen::HeldUp {
                return Seen::Yes;
            }
        }
        seen
    }

    /// Whoever has the lock sends or takes in, and needs it undisturbed.
    fn is_peeked(&self) -> bool {
        self.inside.try_lock().is_ok_and(|mut inside| inside.link.peek())
    }

    /// Takes in what can be seen without being told of it, unless somebody else does just now.
    fn look_once(self: &Arc<Self>, peer: &Arc<Peer>) {
        let mut news = false;
        {
            let Ok(mut inside) = self.inside.try_lock() else { return };
            let inside = &mut *inside;
            if inside.over.is_some() || inside.machine.state() != State::Open || !inside.link.peek() {
                return;
            }
            // There is nobody to greet on an open link.
            if let Err(reason) = self.turn_of(inside, &mut news, true) {
                inside.over = Some(reason);
                self.watch.wake.wake();
            }
            self.wake_if_waiting(inside);
        }
        peer.settle_unheard();
        Backlog::offer(peer, None);
        if peer.backlog.is_stuck() {
            // The link's own thread offers it again soon, once it knows.
            self.watch.wake.wake();
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

/// Whether it pays to look for a moment before sleeping: as long as what is looked for comes meanwhile. Each look that finds
/// nothing makes the pause until the next one longer, so that what it costs stays small against the sleeps.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    pause: u32,
    sleeps_left: u32,
}

impl Pace {
    /// Looks, unless that has not paid.
    pub(crate) fn look(&mut self, look: impl FnOnce() -> Seen) -> Seen {
        if self.sleeps_left > 0 {
            self.sleeps_left -= 1;
            return Seen::No;
        }
        let seen = look();
        self.pause = match seen {
            Seen::Yes => 0,
            Seen::No | Seen::HeldUp => (2 * self.pause).clamp(1, SLEEPS_PER_LOOK_MAX),
            // It says nothing of what looks find.
            Seen::LeftOut => return seen,
        };
        self.sleeps_left = self.pause;
        seen
    }
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Yes,
    No,
    /// Somebody else had the processor for so long that it may be there by now.
    HeldUp,
    /// There was no look, after one that was held up.
    LeftOut,
}

/// Looks until `seen` says that there is something, for `least`. Whoever is to bring it may need this processor: it is offered
/// after every few looks.
pub(crate) fn look_for(least: Duration, looks: usize, mut seen: impl FnMut() -> bool) -> Seen {
    let started = Instant::now();
    loop {
        for _ in 0..looks {
            if seen() {
                return Seen::Yes;
            }
            hint::spin_loop();
        }
        let offered = started.elapsed();
        if offered >= least {
            return Seen::No;
        }
        thread::yield_now();
        if started.elapsed() - offered > YIELD_MAX {
            return Seen::HeldUp;
        }
    }
}

/// A thread that waits for something of a peer, and looks for it meanwhile.
pub(crate) struct Looking {
    worker: Arc<Worker>,
    peer: Arc<Peer>,
    gave_up: Cell<bool>,
}

impl Looking {
    /// Nothing where there is nothing to look at: then the link's own thread looks.
    pub(crate) fn at(worker: Arc<Worker>, peer: Arc<Peer>) -> Option<Self> {
        if worker.sight == Sight::None {
            return None;
        }
        worker.callers.fetch_add(1, Ordering::SeqCst);
        {
            let mut inside = worker.lock();
            inside.look(true);
            worker.wake_if_waiting(&mut inside);
        }
        if worker.sight == Sight::Everything && worker.stands_aside && !worker.waits_beside.load(Ordering::SeqCst) {
            // It waits to be told, and then would be in the way of this look or of the next.
            worker.watch.wake.wake();
        }
        Some(Self { worker, peer, gave_up: Cell::new(false) })
    }

    /// Nothing where somebody else looks already.
    pub(crate) fn alone_at(worker: Arc<Worker>, peer: Arc<Peer>) -> Option<Self> {
        (worker.callers.load(Ordering::SeqCst) == 0).then(|| Self::at(worker, peer)).flatten()
    }

    /// How often to look before the processor is offered to others.
    pub(crate) fn looks(&self) -> usize {
        if self.worker.sight == Sight::Everything { CALLS_BEFORE_YIELD } else { LOOKS_BEFORE_YIELD }
    }

    /// Takes in what has arrived.
    pub(crate) fn once(&self) {
        self.worker.looks.fetch_add(1, Ordering::SeqCst);
        self.worker.look_once(&self.peer);
    }

    /// It has not come, and who has looked for it goes to sleep.
    pub(crate) fn give_up(&self) {
        self.gave_up.set(true);
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.worker.callers.fetch_sub(1, Ordering::SeqCst);
        {
            let mut inside = self.worker.lock();
            inside.look(false);
            if self.worker.sight == Sight::Everything {
                let comes_by = !self.gave_up.get() && self.worker.waits_beside.load(Ordering::SeqCst);
                if comes_by && !inside.link.interest().at_once {
                    return;
                }
                // What comes from here on, or has come and was not seen, its own thread is told of.
                self.worker.wake_if_waiting(&mut inside);
                return;
            }
        }
        // What has come until then was put for one who looked. If somebody else has the lock, it is the link's own to take.
        self.worker.look_once(&self.peer);
        let is_left = self.gave_up.get() && self.worker.waits_beside.load(Ordering::SeqCst);
        if is_left || self.worker.lock().link.peek() {
            self.worker.watch.wake.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_find_nothing_become_rare_and_one_that_finds_something_brings_them_back() {
        let mut pace = Pace::default();
        let sleeps_until_a_look = |pace: &mut Pace, seen| {
            let mut looked = false;
            (0..).find(|_| {
                let _ = pace.look(|| {
                    looked = true;
                    seen
                });
                looked
            })
        };
        let pauses: Vec<_> = (0..10).filter_map(|_| sleeps_until_a_look(&mut pace, Seen::No)).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(sleeps_until_a_look(&mut pace, Seen::LeftOut), Some(SLEEPS_PER_LOOK_MAX));
        assert_eq!(sleeps_until_a_look(&mut pace, Seen::Yes), Some(0), "what was left out has found nothing out");
        assert_eq!(sleeps_until_a_look(&mut pace, Seen::No), Some(0));
    }
}
