//! Who says that this machine goes away, when, and how sure that is.
//!
//! A notice is served without the training thread and without Python: every source has a native thread of its own.
//!
//! | source | how it is heard | lead time |
//! |---|---|---|
//! | SIGTERM | the process is told to end: Kubernetes, SLURM, torchrun, an operator | a grace, 30 s unless configured |
//! | a file | appears with a duration in it; removed, it is withdrawn | what it says |
//! | EC2 metadata | the interruption notice, polled every second; a rebalance recommendation as a hint | 2 minutes |
//! | `xfer drain RANK` | through the job's store | what the operator says |
//! | a call | [`NoticeWatcher::raise`], from the program itself | what the program says |
//!
//! Several may speak at once: what is certain counts before what is not, and then the earliest deadline. A notice may
//! be taken back, and the next one then counts. Deadlines are kept on the monotonic clock; the wall clock is only
//! used to turn the moment that a cloud names into the time that is left.

mod board;
mod drain;
mod ec2;
mod file;
pub(crate) mod fuzzing;
mod http;
pub mod limits;
mod signal;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use xfer_migrate::store::Store;
use xfer_transport_core::PeerId;

use board::Board;
pub use drain::{DrainError, order_drain, withdraw_drain};
pub use ec2::is_ec2;

/// Word that this process has to leave its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who says so.
    pub source: Origin,
    /// Tells this notice apart from others, and withdraws it.
    pub id: String,
    /// Whether the machine goes away for sure. If not, the deadline is the earliest moment at which it may.
    pub certain: bool,
    /// What its source says of it, for people.
    pub reason: String,
    deadline: Instant,
}

impl Notice {
    /// A certain notice that leaves `left` from now on.
    pub fn new(source: Origin, id: impl Into<String>, left: Duration) -> Self {
        let deadline = Instant::now() + left.min(limits::LEFT_MAX);
        Self { source, id: id.into(), certain: true, reason: String::new(), deadline }
    }

    /// The same notice with a reason for people.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// The same notice as a hint: the machine may go away, and not before the deadline.
    #[must_use]
    pub fn uncertain(self) -> Self {
        Self { certain: false, ..self }
    }

    /// The deadline on this process's monotonic clock.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is left now; zero once the deadline has passed.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.certain {
            true => write!(f, "{}: {:.1} s left", self.source, self.left().as_secs_f64())?,
            false => write!(f, "{}: at least {:.1} s left", self.source, self.left().as_secs_f64())?,
        }
        match self.reason.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", self.reason),
        }
    }
}

/// Where a notice comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The process received SIGTERM.
    Signal,
    /// The notice file is there.
    File,
    /// The program itself said so.
    Call,
    /// An operator said so, by `xfer drain`.
    Drain,
    /// EC2 takes the instance back.
    Ec2Interruption,
    /// EC2 recommends to leave the instance.
    Ec2Rebalance,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "SIGTERM",
            Self::File => "notice file",
            Self::Call => "call",
            Self::Drain => "xfer drain",
            Self::Ec2Interruption => "EC2 interruption notice",
            Self::Ec2Rebalance => "EC2 rebalance recommendation",
        })
    }
}

/// A change of the notice that counts. Each event is the whole truth: what came before no longer matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticeEvent {
    /// From now on this notice counts: it is the first, or its deadline is not the one that counted before.
    Raised(Notice),
    /// No notice counts any more; this one did last.
    Withdrawn(Notice),
}

/// Something to listen to.
#[derive(Clone)]
#[non_exhaustive]
pub enum Source {
    /// SIGTERM leaves `grace`. A second one changes nothing. While a watcher lives, SIGTERM doesn't end the process by
    /// itself; handlers that were installed before still run.
    Signal {
        /// How long after the signal the process is killed.
        grace: Duration,
    },
    /// A file that appears leaves what it says: `30s`, `30`, or JSON as `{"seconds": 30, "reason": "..."}`. If it is
    /// empty or says something else, it leaves `grace`. Removed, it is withdrawn.
    File {
        /// The file.
        path: PathBuf,
        /// What is left when it doesn't say.
        grace: Duration,
    },
    /// The instance metadata service of EC2, or one that speaks like it.
    Ec2 {
        /// Where it is; see [`limits::EC2_METADATA_URL`].
        url: String,
    },
    /// What `xfer drain` writes to the job's store.
    Drain {
        /// The store.
        store: Arc<dyn Store>,
        /// Who this process is: orders for an earlier life don't concern it.
        peer: PeerId,
    },
}

/// Why a watcher can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoticeError {
    /// The signal can't be received.
    #[error("SIGTERM can't be watched: {0}")]
    Signal(#[source] io::Error),
    /// A thread can't be started.
    #[error("the thread `{name}` can't be started: {cause}; raise the limit of processes (ulimit -u)")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system says.
        cause: io::Error,
    },
    /// The address of a metadata service isn't one.
    #[error("`{url}` is not the address of a metadata service; it is written http://HOST or http://HOST:PORT")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// There are as many notices as there may be.
    #[error("there are {} notices already; withdraw one first", limits::NOTICES_MAX)]
    TooMany,
}

/// Listens to all sources and says which notice counts. Dropped, it stops listening.
pub struct NoticeWatcher {
    shared: Arc<Shared>,
    signal: Option<signal::Registration>,
    threads: Vec<JoinHandle<()>>,
}

impl NoticeWatcher {
    /// Starts listening.
    pub fn start(sources: Vec<Source>) -> Result<Self, NoticeError> {
        let shared = Arc::new(Shared::default());
        // From here on an early return stops what was started.
        let mut watcher = Self { shared, signal: None, threads: Vec::new() };
        for source in sources {
            watcher.watch(source)?;
        }
        Ok(watcher)
    }

    /// Listens to one more source.
    pub fn watch(&mut self, source: Source) -> Result<(), NoticeError> {
        match source {
            Source::Signal { grace } => {
                let (registration, signals) = signal::register().map_err(NoticeError::Signal)?;
                self.signal = Some(registration);
                self.spawn("xfer-notice-sig", move |shared| signal::watch(shared, signals, grace))
            }
            Source::File { path, grace } => {
                self.spawn("xfer-notice-file", move |shared| file::watch(shared, &path, grace))
            }
            Source::Ec2 { url } => {
                let metadata = ec2::Metadata::new(&url).ok_or(NoticeError::BadUrl { url })?;
                self.spawn("xfer-notice-ec2", move |shared| ec2::watch(shared, metadata))
            }
            Source::Drain { store, peer } => {
                self.spawn("xfer-notice-drn", move |shared| drain::watch(shared, &*store, peer))
            }
        }
    }

    /// The notice that counts now, if there is one.
    pub fn current(&self) -> Option<Notice> {
        self.shared.board().counts().cloned()
    }

    /// Every change from now on; the notice that counts now, if there is one, comes first.
    ///
    /// Events are few. A receiver that leaves [`limits::EVENTS_MAX`] of them unread is given no more: it ends.
    pub fn subscribe(&self) -> Receiver<NoticeEvent> {
        self.shared.board().subscribe()
    }

    /// Adds a notice, or replaces the one of the same source and id.
    pub fn raise(&self, notice: Notice) -> Result<(), NoticeError> {
        match self.shared.board().raise(notice) {
            true => Ok(()),
            false => Err(NoticeError::TooMany),
        }
    }

    /// Takes back the notices with this id, whichever source they come from; false if there is none.
    ///
    /// A source that still says the same doesn't say it again.
    pub fn withdraw(&self, id: &str) -> bool {
        self.shared.board().withdraw(id)
    }

    fn spawn(&mut self, name: &'static str, watch: impl FnOnce(&Shared) + Send + 'static) -> Result<(), NoticeError> {
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || watch(&shared));
        self.threads.push(spawned.map_err(|cause| NoticeError::Thread { name, cause })?);
        Ok(())
    }
}

impl Drop for NoticeWatcher {
    fn drop(&mut self) {
        self.shared.stop();
        self.signal = None;
        // A thread may be inside a call that has a bound of its own; it ends after that, with nobody listening.
        let end = Instant::now() + limits::STOP_TIMEOUT;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < end {
                thread::sleep(limits::STOP_POLL);
            }
        }
    }
}

/// What the sources' threads share.
#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    stopped: Mutex<bool>,
    stop: Condvar,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        // The board has no step between two consistent ones at which it could panic.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.sleep(Duration::ZERO)
    }

    /// Sleeps, and says whether to stop: then at once.
    fn sleep(&self, duration: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.stop.wait_timeout_while(stopped, duration, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests;
