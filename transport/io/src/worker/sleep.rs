//! What the thread of a link sleeps on, and who else wakes it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::{Inside, Pace, Worker};
use crate::backend::{Interest, Sight};
use crate::limits::{FAREWELL, LOOK_AHEAD, RETRY_SUBSCRIBER_AFTER};
use crate::peer::Peer;

impl Worker {
    /// Waits until there is something to do.
    pub(super) fn sleep(&self, peer: Option<&Peer>, pace: &mut Pace) {
        let (interest, timeout, worked) = {
            let mut inside = self.lock();
            let times =
                [inside.machine.poll_timeout(), inside.paced_until, peer.and_then(|peer| peer.path().poll_timeout())];
            let timeout = times.into_iter().flatten().min().map(|at| self.shared.until(at));
            let link = inside.link.poll_timeout().map(|at| at.saturating_duration_since(Instant::now()));
            let retry = peer.filter(|peer| peer.backlog.is_stuck()).map(|_| RETRY_SUBSCRIBER_AFTER);
            let timeout = [timeout, link, retry].into_iter().flatten().min();
            (self.tell(&mut inside), timeout, std::mem::take(&mut inside.worked))
        };
        if interest.at_once {
            return;
        }
        let timeout = timeout.unwrap_or(FAREWELL);
        if self.look(timeout, worked.then_some(pace)) {
            return;
        }
        if !self.stands_aside {
            self.watch.wait(timeout);
        } else if self.callers.load(Ordering::SeqCst) > 0 {
            self.wait_beside_callers(timeout);
        } else if !self.lock().link.rest() {
            self.watch.wait(timeout);
        }
    }

    /// Sleeps while others look. They come and go, mostly for as long as an answer takes: so the link is not asked to tell each
    /// time, but this thread comes by, and takes over where nobody has looked since it came by last. Without a lock, since one of
    /// them may be about to need it.
    fn wait_beside_callers(&self, timeout: Duration) {
        let (began, pause) = (Instant::now(), self.shared.busy_poll.max(LOOK_AHEAD));
        self.waits_beside.store(true, Ordering::SeqCst);
        let mut looks = self.looks.load(Ordering::SeqCst);
        // Whoever gives up from here on sees that somebody has to be woken.
        while self.callers.load(Ordering::SeqCst) > 0 || self.looks.load(Ordering::SeqCst) != looks {
            looks = self.looks.load(Ordering::SeqCst);
            let left = timeout.saturating_sub(began.elapsed());
            if self.watch.wait(left.min(pause)) || left <= pause {
                break;
            }
        }
        self.waits_beside.store(false, Ordering::SeqCst);
    }

    /// Something was done by another thread: the link's own sleeps on what the link waited for before that.
    pub(super) fn wake_if_waiting(&self, inside: &mut Inside) {
        let is_told = self.sight == Sight::Everything;
        let interest = if is_told { self.tell(inside) } else { inside.link.interest() };
        let writable = interest.writable && !is_told;
        if writable || interest.at_once || inside.held.is_some() || inside.paced_until.is_some() {
            self.watch.wake.wake();
        }
    }

    /// Lets the link's thread be told of what the link waits for, which is returned; but not of what somebody else sees, who looks
    /// at it. Whoever changes one of the two has the lock, and comes here before it lets go.
    pub(super) fn tell(&self, inside: &mut Inside) -> Interest {
        let interest = inside.link.interest();
        let is_seen = self.sight == Sight::Everything && self.callers.load(Ordering::SeqCst) > 0;
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, interest.readable && !is_seen);
        flags.set(EventFlags::OUT, interest.writable);
        if flags != inside.told {
            self.watch.tell_of(flags);
            inside.told = flags;
        }
        interest
    }
}
