//! SIGTERM as a notice.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use signal_hook::consts::SIGTERM;
use signal_hook::iterator::{Handle, Signals};

use super::{Notice, Origin, Shared};

/// A watcher's share in the signal. When the last one is dropped, SIGTERM does what it did before.
pub(super) struct Registration {
    signals: Handle,
}

/// How many watchers there are, for the whole process: so is the signal.
static WATCHERS: Mutex<usize> = Mutex::new(0);

/// Set while nobody watches: the signal then ends the process, as it did before the first watcher.
static UNWATCHED: OnceLock<Option<Arc<AtomicBool>>> = OnceLock::new();

/// Starts to receive the signal.
pub(super) fn register() -> io::Result<(Registration, Signals)> {
    let unwatched = match UNWATCHED.get() {
        Some(unwatched) => unwatched,
        None => {
            let unwatched = default_again()?;
            UNWATCHED.get_or_init(|| unwatched)
        }
    };
    let signals = Signals::new([SIGTERM])?;
    *WATCHERS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    if let Some(unwatched) = unwatched {
        unwatched.store(false, Ordering::SeqCst);
    }
    Ok((Registration { signals: signals.handle() }, signals))
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.signals.close();
        let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
        *watchers -= 1;
        if let (0, Some(Some(unwatched))) = (*watchers, UNWATCHED.get()) {
            unwatched.store(true, Ordering::SeqCst);
        }
    }
}

/// Raises a notice at the first signal, until the registration is dropped.
pub(super) fn watch(shared: &Shared, mut signals: Signals, grace: Duration) {
    for _ in signals.forever() {
        let mut board = shared.board();
        // A second signal is impatience, not a new deadline: the process is killed when it would have been anyway.
        match board.of(Origin::Signal) {
            Some(notice) => tracing::info!("SIGTERM again; {:.1} s are left", notice.left().as_secs_f64()),
            None => board.replace(Notice::new(Origin::Signal, "signal", grace)),
        }
    }
}

/// Once a handler is installed it stays, so the default has to be put back by hand, if it was the default.
fn default_again() -> io::Result<Option<Arc<AtomicBool>>> {
    if !ends_the_process() {
        return Ok(None);
    }
    let unwatched = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_default(SIGTERM, Arc::clone(&unwatched))?;
    Ok(Some(unwatched))
}

/// Whether nobody catches or ignores the signal so far. Without /proc, the default is the best guess.
fn ends_the_process() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    !["SigCgt:", "SigIgn:"].into_iter().any(|name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & (1 << (SIGTERM - 1)) != 0)
    })
}
