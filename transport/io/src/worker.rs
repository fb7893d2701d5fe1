//! The thread of one link: takes in what arrives, asks the path what to send, keeps the link alive.

mod look;
pub(crate) mod pulse;
mod receive;
mod send;
mod sleep;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;
use std::{hint, io, thread};

use bytes::Bytes;
use rustix::event::epoll::EventFlags;
use xfer_transport_core::limits::OWN_PAUSE_MIN;
use xfer_transport_core::link::{Due, Event, LinkMachine};
use xfer_transport_core::message::{Greeting, LinkRole};
use xfer_transport_core::path::LinkId;
use xfer_transport_core::{BackendId, Time};

use crate::backend::{Link, LinkError, Manner, Op, Sight};
use crate::backlog::Backlog;
use crate::error::DownReason;
use crate::greeting::Side;
use crate::intake::{Intake, Slot};
use crate::limits::{FAREWELL, INLINE_SEEN_BYTES_MAX, LOOKED_AT_TRIES};
use crate::peer::Peer;
use crate::shared::{Running, Shared};
use crate::worker::pulse::Pulse;

use self::watch::Watch;

pub(crate) use self::look::{Looking, Pace, Seen, look_for};

/// One link and its thread.
pub(crate) struct Worker {
    id: LinkId,
    backend: BackendId,
    role: OnceLock<LinkRole>,
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    watch: Watch,
    process: Option<Arc<OwnedFd>>,
    /// Whether the link would send more if it had something.
    hungry: AtomicBool,
    wish: AtomicU8,
    /// What whoever looks can see of the link.
    sight: Sight,
    /// Whether its thread comes by while others look and between their looks, instead of being told each time that they are through,
    /// which is a call of theirs. What comes after their last look is heard of a little late, so where the kernel would tell it by itself,
    /// only if they were told to look.
    stands_aside: bool,
    /// Threads other than its own that look for what arrives: it needs not, then.
    callers: AtomicUsize,
    /// How often they have.
    looks: AtomicUsize,
    /// Its thread waits while they do, and is told of nothing.
    waits_beside: AtomicBool,
    /// When its thread last came around, in nanoseconds of the endpoint's clock.
    came_around: AtomicU64,
    inside: Mutex<Inside>,
}

/// What only one thread at a time may touch: the link's own, or one that sends something small itself.
struct Inside {
    link: Box<dyn Link>,
    intake: Intake,
    machine: LinkMachine,
    /// What of the link its thread is told of.
    told: EventFlags,
    peer: Option<Arc<Peer>>,
    /// What goes before everything else.
    greetings: VecDeque<Bytes>,
    /// A sign of life is due.
    beat: bool,
    /// What the link gave back.
    held: Option<Op>,
    /// When the rate limit lets the next chunk pass.
    paced_until: Option<Time>,
    /// Why the link is over, once what arrived before has been dealt with.
    failed: Option<LinkError>,
    /// Why it is over, as another thread has found: the link's own is to end it.
    over: Option<DownReason>,
    /// Threads that look for what arrives.
    lookers: usize,
    /// Something has arrived since its thread slept that is more than a sign of life.
    worked: bool,
}

/// What is wished of a link's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Wish {
    Run = 0,
    /// Say goodbye, and end.
    Leave = 1,
    /// End.
    Stop = 2,
}

impl Worker {
    /// Gives `link` a thread, which greets the other end first.
    pub(crate) fn start(link: Box<dyn Link>, side: Side, shared: &Arc<Shared>) -> io::Result<Arc<Self>> {
        let worker = Self::new(link, &side, shared)?;
        let running = shared.threads.enter();
        let serving = Arc::clone(&worker);
        thread::Builder::new().name(format!("xfer-link-{}", worker.id.0)).spawn(move || {
            serving.run(side, running);
        })?;
        Ok(worker)
    }

    /// The same without a thread: whoever asks for it turns it, and ends it.
    pub(crate) fn new(link: Box<dyn Link>, side: &Side, shared: &Arc<Shared>) -> io::Result<Arc<Self>> {
        let id = shared.next_link();
        let slot = Arc::<Slot>::default();
        let intake = Intake::new(id, Arc::clone(&slot), Arc::clone(&shared.grants), Arc::clone(&shared.counters));
        Ok(Arc::new(Self {
            id,
            backend: link.backend(),
            role: OnceLock::new(),
            shared: Arc::clone(shared),
            slot,
            watch: Watch::new(link.readiness())?,
            process: link.process(),
            hungry: AtomicBool::new(false),
            wish: AtomicU8::new(Wish::Run as u8),
            sight: link.sight(),
            stands_aside: link.rests() || link.sight() == Sight::Everything && !shared.busy_poll.is_zero(),
            callers: AtomicUsize::new(0),
            looks: AtomicUsize::new(0),
            waits_beside: AtomicBool::new(false),
            came_around: AtomicU64::new(shared.now().as_nanos()),
            inside: Mutex::new(Inside {
                link,
                intake,
                machine: LinkMachine::new(shared.now()),
                told: EventFlags::empty(),
                peer: None,
                greetings: side.first_words().iter().map(Greeting::encode).collect(),
                beat: false,
                held: None,
                paced_until: None,
                failed: None,
                over: None,
                lookers: 0,
                worked: false,
            }),
        }))
    }

    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    pub(crate) fn backend(&self) -> BackendId {
        self.backend
    }

    pub(crate) fn role(&self) -> LinkRole {
        self.role.get().copied().unwrap_or(LinkRole::Data)
    }

    /// What tells of the end of the process at the other end.
    pub(crate) fn process(&self) -> Option<Arc<OwnedFd>> {
        self.process.clone()
    }

    /// How the link moves ordinary memory, where there is more than one way.
    pub(crate) fn manner(&self) -> Option<Manner> {
        self.lock().link.manner()
    }

    /// The same of memory of devices.
    pub(crate) fn dmabuf_manner(&self) -> Option<Manner> {
        self.lock().link.dmabuf_manner()
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Whether its thread has not come around for so long that the other end may notice.
    pub(crate) fn is_held_up(&self, now: Time) -> bool {
        let came_around = Time::from_nanos(self.came_around.load(Ordering::Relaxed));
        self.role() != LinkRole::Beat && now.since(came_around) > OWN_PAUSE_MIN
    }

    /// Makes the link's thread look at everything anew.
    pub(crate) fn wake(&self) {
        self.watch.wake.wake();
    }

    /// Ends the link as soon as its thread looks.
    pub(crate) fn stop(&self) {
        self.wish.store(Wish::Stop as u8, Ordering::SeqCst);
        self.watch.wake.wake();
    }

    /// Lets the link say goodbye and end.
    pub(crate) fn leave(&self) {
        let run = Wish::Run as u8;
        let _ = self.wish.compare_exchange(run, Wish::Leave as u8, Ordering::SeqCst, Ordering::SeqCst);
        self.watch.wake.wake();
    }

    /// There may be something to send. With `inline` it is sent right here if that goes without waiting. `false` if
    /// the link has enough to do, and will ask by itself.
    pub(crate) fn poke(&self, inline: bool) -> bool {
        if !self.hungry.load(Ordering::SeqCst) {
            return false;
        }
        if !inline {
            self.watch.wake.wake();
            return true;
        }
        let Some(mut inside) = self.lock_soon() else {
            self.watch.wake.wake();
            return true;
        };
        let all = self.send(&mut inside, self.shared.now(), INLINE_SEEN_BYTES_MAX);
        if !all {
            self.watch.wake.wake();
        }
        self.wake_if_waiting(&mut inside);
        true
    }

    /// The lock, if nobody has it or who has it only looks.
    fn lock_soon(&self) -> Option<MutexGuard<'_, Inside>> {
        let asks = self.sight == Sight::Everything && self.callers.load(Ordering::SeqCst) > 0;
        for _ in 0..if asks { LOOKED_AT_TRIES } else { 1 } {
            match self.inside.try_lock() {
                Ok(inside) => return Some(inside),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => hint::spin_loop(),
            }
        }
        None
    }

    /// Wakes the link's thread for something to send, if it sleeps and nobody has woken it yet.
    pub(crate) fn wake_if_idle(&self) -> bool {
        let sleeps = !self.watch.wake.is_asked() && self.inside.try_lock().is_ok();
        let wakes = sleeps && self.hungry.load(Ordering::SeqCst);
        if wakes {
            self.watch.wake.wake();
        }
        wakes
    }

    // The thread.

    fn run(self: Arc<Self>, mut side: Side, running: Running) {
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(&mut side)));
        let over = served.unwrap_or_else(|_| {
            tracing::error!("the thread of a link panicked");
            Some(DownReason::Lost("the thread of the link panicked".into()))
        });
        match over {
            Some(reason) => self.end(side, reason),
            None => {
                let shared = Arc::clone(&self.shared);
                if let Err(pulse) = shared.beats.join(Pulse::new(self, side, running)) {
                    pulse.end(DownReason::ShutDown);
                }
            }
        }
    }

    /// Ends it for good. Whoever waits for it is told.
    pub(crate) fn end(self: &Arc<Self>, side: Side, reason: DownReason) {
        let error = self.lock().failed.take();
        side.ended(self, error.as_ref(), &reason);
        let peer = {
            let mut inside = self.lock();
            self.hungry.store(false, Ordering::SeqCst);
            inside.link.finish();
            inside.held = None;
            inside.intake.set_peer(None);
            inside.peer.take()
        };
        if let Some(peer) = peer {
            // These are about the peer, the others about this link.
            if matches!(reason, DownReason::Left | DownReason::Violation(_)) {
                peer.bring_down(reason.clone());
            }
            peer.link_closed(self, reason);
        }
    }

    /// Until the link is over; or until it is known to be for signs of life alone, which another thread serves.
    fn serve(self: &Arc<Self>, side: &mut Side) -> Option<DownReason> {
        let mut pace = Pace::default();
        loop {
            match self.step(side) {
                Ok(true) if self.role() == LinkRole::Beat => return None,
                Ok(true) => {}
                Ok(false) => {
                    let peer = self.lock().peer.clone();
                    self.sleep(peer.as_deref(), &mut pace);
                }
                Err(reason) => return Some(reason),
            }
        }
    }

    /// Everything that there is to do now. Whether the other end has introduced itself: then there is more.
    pub(crate) fn step(self: &Arc<Self>, side: &mut Side) -> Result<bool, DownReason> {
        self.watch.wake.clear();
        self.came_around.store(self.shared.now().as_nanos(), Ordering::Relaxed);
        if self.wish.load(Ordering::SeqCst) != Wish::Run as u8 {
            return Err(self.leave_or_stop());
        }
        let mut news = false;
        if let Some(greeting) = self.turn(&mut news)? {
            side.greeted(self, greeting)?;
            return Ok(true);
        }
        let peer = self.lock().peer.clone();
        if let Some(peer) = &peer {
            Backlog::offer(peer, None);
            peer.settle();
            if news {
                peer.kick();
            } else {
                peer.kick_for_messages();
            }
        }
        Ok(false)
    }

    /// Takes in what has arrived, looks at the time, sends what can be sent. There is news if that may give other links
    /// something to do.
    fn turn(&self, news: &mut bool) -> Result<Option<Greeting>, DownReason> {
        self.turn_of(&mut self.lock(), news, false)
    }

    /// The same by whoever has the lock, and with `peeked` for what was seen without the kernel's help alone.
    fn turn_of(&self, inside: &mut Inside, news: &mut bool, peeked: bool) -> Result<Option<Greeting>, DownReason> {
        if let Some(reason) = inside.over.take() {
            return Err(reason);
        }
        if let Some(error) = &inside.failed {
            return Err(error.into());
        }
        let polled = match peeked {
            true => inside.link.poll_peeked(&mut inside.intake),
            false => inside.link.poll(&mut inside.intake),
        };
        let now = self.shared.now();
        if std::mem::take(&mut inside.intake.heard_bytes) > 0 {
            inside.machine.heard(now);
        }
        *news = inside.intake.has_news();
        inside.worked |= inside.intake.has_work();
        let greeting = inside.take_in(now)?;
        if let Err(error) = polled {
            let reason = DownReason::from(&error);
            let _ = inside.machine.handle(Event::Lost, now);
            inside.failed = Some(error);
            // What was said before the end still counts.
            return if greeting.is_some() { Ok(greeting) } else { Err(reason) };
        }
        if let Some(at) = inside.peer.as_ref().and_then(|peer| peer.excused()) {
            inside.machine.excused(at);
        }
        while let Some(due) = inside.machine.handle_timeout(now) {
            match due {
                Due::Beat => inside.beat = true,
                Due::Suspect => tracing::debug!("{:?} is silent on link {}", inside.peer, self.id.0),
                Due::Dead(silence) => return Err(DownReason::Silent(silence)),
            }
        }
        if let Some(peer) = &inside.peer {
            let mut path = peer.path();
            *news |= inside.beat || path.poll_timeout().is_some_and(|at| at <= now);
            path.handle_timeout(now);
            if inside.beat {
                path.tick();
            }
            if path.is_overrun() {
                return Err(DownReason::Violation("it leaves too many messages unanswered".into()));
            }
        }
        self.send(inside, now, u64::MAX);
        Ok(greeting)
    }

    // Beginning and end.

    /// Both ends know each other: the link carries from now on, after `answer`.
    pub(crate) fn open(self: &Arc<Self>, peer: &Arc<Peer>, role: LinkRole, answer: Option<&Greeting>) {
        let _ = self.role.set(role);
        {
            let mut inside = self.lock();
            inside.greetings.extend(answer.map(Greeting::encode));
            match role {
                LinkRole::Beat => inside.intake.take_only_beats(),
                _ => inside.intake.set_peer(Some(Arc::clone(peer))),
            }
            inside.peer = Some(Arc::clone(peer));
            let _ = inside.machine.handle(Event::Welcomed, self.shared.now());
        }
        peer.link_opened(self);
    }

    fn leave_or_stop(&self) -> DownReason {
        if self.wish.load(Ordering::SeqCst) == Wish::Leave as u8 {
            let _ = self.lock().machine.handle(Event::Leave, self.shared.now());
            self.say_goodbye(&Greeting::Bye);
        }
        DownReason::ShutDown
    }

    /// Sends one last greeting and gives the other end a moment to read it.
    ///
    /// A connection that is closed with unread bytes in it is reset, and a reset overtakes what was sent: so what
    /// still arrives is read until the other end closes too.
    pub(crate) fn say_goodbye(&self, greeting: &Greeting) {
        let until = Instant::now() + FAREWELL;
        {
            let mut inside = self.lock();
            inside.intake.discard_all();
            inside.greetings.push_back(greeting.encode());
        }
        let mut finished = false;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let at_once = {
                let mut inside = self.lock();
                let inside = &mut *inside;
                inside.intake.messages.clear();
                self.send(inside, self.shared.now(), u64::MAX);
                let polled = inside.link.poll(&mut inside.intake);
                if !finished && inside.greetings.is_empty() && inside.held.is_none() && inside.link.is_drained() {
                    let _ = inside.machine.handle(Event::Drained, self.shared.now());
                    inside.link.finish();
                    finished = true;
                }
                if polled.is_err() {
                    return;
                }
                self.tell(inside).at_once || inside.link.rest()
            };
            if !at_once {
                _ = self.watch.wait(left);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({} over {})", self.id.0, self.backend)
    }
}
