//! The thread that says for the whole process that it is alive, and listens for who else is.
//!
//! Each peer has one link for signs of life alone, and one thread an endpoint serves them all. It copies nothing, runs
//! nobody's callbacks, writes no log and waits for no lock that a busy thread may hold: so it is on time while the
//! threads of all other links are held up, and the peers know that the process lives. What it finds to be over is
//! brought to its end on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::DownReason;
use crate::limits::IDLE_BEATS_WAIT;
use crate::shared::Shared;
use crate::wake::Wake;
use crate::worker::pulse::Pulse;

/// How much sooner than others the thread gets a processor, where the system lets us ask for it: it needs it for
/// microseconds, ten times a second.
const NICE: i32 = -10;

/// The links for signs of life that wait to be served.
#[derive(Debug)]
pub(crate) struct Beats {
    wake: Wake,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    pulses: Vec<Pulse>,
    /// The thread has ended.
    closed: bool,
}

impl Beats {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { wake: Wake::new()?, waiting: Mutex::default() })
    }

    /// Hands a link over to the thread. It comes back if the thread has ended.
    pub(crate) fn join(&self, pulse: Pulse) -> Result<(), Pulse> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(pulse);
        }
        waiting.pulses.push(pulse);
        drop(waiting);
        self.wake.wake();
        Ok(())
    }

    /// Makes the thread look whether the endpoint is shutting down.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It ends when the endpoint shuts down and the last of its links has been let go.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let running = shared.threads.enter();
    let shared = Arc::clone(shared);
    thread::Builder::new().name("xfer-beat".into()).spawn(move || {
        let _running = running;
        // On Linux this is about the calling thread alone. Most processes may not, and are on time all the same.
        let _ = rustix::process::setpriority_process(None, NICE);
        serve(&shared);
    })?;
    Ok(())
}

fn serve(shared: &Shared) {
    let beats = &shared.beats;
    let mut pulses: Vec<Pulse> = Vec::new();
    loop {
        beats.wake.clear();
        {
            let mut waiting = beats.lock();
            pulses.append(&mut waiting.pulses);
            if pulses.is_empty() && shared.is_stopping() {
                waiting.closed = true;
                return;
            }
        }
        let mut at = 0;
        while let Some(pulse) = pulses.get_mut(at) {
            let attended = catch_unwind(AssertUnwindSafe(|| pulse.attend()));
            let attended = attended.unwrap_or_else(|_| Err(DownReason::Lost("its thread panicked".into())));
            match attended {
                Ok(()) => at += 1,
                Err(reason) => end(pulses.swap_remove(at), reason),
            }
        }
        // When the last one has gone there may be nothing to wait for.
        if !pulses.is_empty() || !shared.is_stopping() {
            sleep(beats, &pulses, shared);
        }
    }
}

fn sleep(beats: &Beats, pulses: &[Pulse], shared: &Shared) {
    let mut timeout = IDLE_BEATS_WAIT;
    let mut descriptors = Vec::with_capacity(1 + 2 * pulses.len());
    descriptors.push(PollFd::new(&beats.wake, PollFlags::IN));
    for pulse in pulses {
        let (interest, due, links_own) = pulse.waits_for();
        let due = due.map(|at| shared.until(at));
        let links_own = links_own.map(|at| at.saturating_duration_since(Instant::now()));
        let at_once = interest.at_once.then_some(Duration::ZERO);
        timeout = [Some(timeout), due, links_own, at_once].into_iter().flatten().min().unwrap_or_default();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.readable);
        flags.set(PollFlags::OUT, interest.writable);
        let [link, wake] = pulse.descriptors();
        descriptors.push(PollFd::from_borrowed_fd(link, flags));
        descriptors.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
    }
    // Interrupted or failed, the next turn finds out what there is to do.
    let _ = poll(&mut descriptors, Timespec::try_from(timeout).ok().as_ref());
}

/// Ends run strangers' callbacks and say goodbye: not on the thread that all peers listen to.
fn end(pulse: Pulse, reason: DownReason) {
    let name = format!("xfer-link-{}", pulse.id().0);
    let held = Arc::new(Mutex::new(Some((pulse, reason))));
    let taken = Arc::clone(&held);
    let ending = move || {
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((pulse, reason)) = taken {
            pulse.end(reason);
        }
    };
    if thread::Builder::new().name(name).spawn(ending).is_err() {
        // No thread to be had: late for the others is better than never for this one.
        let left = held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((pulse, reason)) = left {
            pulse.end(reason);
        }
    }
}
