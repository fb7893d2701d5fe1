//! Holds processes at named moments: the parent's side of the debug hook in the migration driver.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{Outcome, WAIT};

type Moment = (u32, String);

/// Which processes are held, and where.
pub struct Pauses {
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Moments at which whoever reaches them is to be held.
    wanted: HashSet<Moment>,
    /// Moments at which the next thread that reaches them panics.
    broken: HashSet<Moment>,
    held: HashMap<Moment, Vec<UnixStream>>,
}

impl Pauses {
    pub fn start(folder: &std::path::Path) -> Outcome<Self> {
        let path = folder.join("pauses");
        let listener = UnixListener::bind(&path)?;
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(|stream| serving.arrived(stream)));
        Ok(Self { path, shared })
    }

    /// What a process needs to know to be held: a variable of its environment.
    pub fn variable(&self) -> (&'static str, &std::path::Path) {
        ("PAUSES_OF_XFER", &self.path)
    }

    /// From now on, `rank` stops at `moment`.
    pub fn hold(&self, rank: u32, moment: &str) {
        self.shared.lock().wanted.insert((rank, moment.to_owned()));
    }

    /// The next thread of `rank` that comes to `moment` panics there; whoever is held there does so now.
    pub fn break_at(&self, rank: u32, moment: &str) {
        let key = (rank, moment.to_owned());
        let mut state = self.shared.lock();
        state.wanted.remove(&key);
        match state.held.remove(&key).and_then(|mut held| held.pop()) {
            Some(stream) => answer(&stream, PANIC),
            None => _ = state.broken.insert(key),
        }
    }

    /// Waits until `rank` is held at `moment`.
    pub fn reached(&self, rank: u32, moment: &str) -> Outcome<()> {
        let key = (rank, moment.to_owned());
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), WAIT, |s| !s.held.contains_key(&key));
        let (_state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() { Err(format!("rank {rank} did not come to `{moment}`").into()) } else { Ok(()) }
    }

    /// Lets everybody go, and holds nobody any more.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        state.wanted.clear();
        // Dropping a stream ends the read on which its process waits.
        state.held.clear();
    }
}

/// What a process is answered.
const GO_ON: &[u8] = b"\n";
const PANIC: &[u8] = b"p";

fn answer(mut stream: &UnixStream, words: &[u8]) {
    // A process that has died meanwhile needs no answer.
    let _ = stream.write_all(words);
}

impl Shared {
    fn arrived(&self, stream: UnixStream) {
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            return;
        }
        let Some((rank, moment)) = line.trim().split_once(' ') else { return };
        let Ok(rank) = rank.parse() else { return };
        let key = (rank, moment.to_owned());
        let mut state = self.lock();
        if state.broken.remove(&key) {
            answer(&stream, PANIC);
        } else if state.wanted.contains(&key) {
            state.held.entry(key).or_default().push(stream);
            self.changed.notify_all();
        } else {
            answer(&stream, GO_ON);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
