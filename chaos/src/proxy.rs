//! The proxy itself: who connects is connected on, and what was told to it can be changed while it runs.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use xfer_transport_core::frame::FrameKind;

use crate::chance::Chance;
use crate::faults::{Action, Callers, Faults, Way};
use crate::limits::{CONNECT_TIMEOUT, LOOK};
use crate::pump;

/// Stands between a process and whoever connects to it, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The address can't be listened on.
    #[error("a proxy can't listen on {address}: {error}; choose another port, or 0 for a free one")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// What a proxy's threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    told: Mutex<Told>,
    changed: Condvar,
    stopped: AtomicBool,
    passed_bytes: AtomicU64,
    spoiled_frames: AtomicU64,
}

#[derive(Debug)]
struct Told {
    faults: HashMap<(Callers, Way), Faults>,
    chance: Chance,
    connections: Vec<std::sync::Weak<Connection>>,
}

/// One connection through the proxy.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) caller: TcpStream,
    pub(crate) behind: TcpStream,
    /// Who called, once it has said so.
    pub(crate) rank: OnceLock<u32>,
    pub(crate) over: AtomicBool,
    /// Whether what passed last is to pass again: in, and out.
    again: [AtomicBool; 2],
}

impl Proxy {
    /// Listens on `listen` and passes everything on to `to`; `seed` decides what is left to chance.
    pub fn start(listen: SocketAddr, to: SocketAddr, seed: u64) -> Result<Self, ProxyError> {
        let failed = |error| ProxyError::Bind { address: listen, error };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let told = Told { faults: HashMap::new(), chance: Chance::new(seed), connections: Vec::new() };
        let shared = Arc::new(Shared {
            told: Mutex::new(told),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            passed_bytes: AtomicU64::new(0),
            spoiled_frames: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        thread::Builder::new()
            .name("chaos-accept".into())
            .spawn(move || serve(&listener, to, &serving))
            .map_err(failed)?;
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, `faults` are done to what passes `way` on connections of `callers`; what was told before of these is over.
    pub fn set(&self, callers: Callers, way: Way, faults: Faults) {
        self.shared.told().faults.insert((callers, way), faults);
        self.shared.changed.notify_all();
    }

    /// From now on everything passes.
    pub fn heal(&self) {
        self.shared.told().faults.clear();
        self.shared.changed.notify_all();
    }

    /// On each open connection of `callers`, the chunk that passed `way` last passes once more, however long ago that was: what a network
    /// would do that had kept it. Returns on how many connections.
    pub fn replay(&self, callers: Callers, way: Way) -> usize {
        let open: Vec<_> = self.shared.told().connections.iter().filter_map(std::sync::Weak::upgrade).collect();
        let meant = |connection: &&Arc<Connection>| match callers {
            Callers::All => true,
            Callers::Rank(rank) => connection.rank.get() == Some(&rank),
        };
        open.iter().filter(meant).map(|connection| connection.again[way as usize].store(true, Ordering::SeqCst)).count()
    }

    /// Resets all connections that are open now.
    pub fn reset(&self) {
        let open = std::mem::take(&mut self.shared.told().connections);
        open.iter().filter_map(std::sync::Weak::upgrade).for_each(|connection| connection.reset());
    }

    /// Bytes that have passed, both ways.
    pub fn passed_bytes(&self) -> u64 {
        self.shared.passed_bytes.load(Ordering::Relaxed)
    }

    /// Frames that a rule was applied to.
    pub fn spoiled_frames(&self) -> u64 {
        self.shared.spoiled_frames.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        self.reset();
        // Wakes the thread that accepts; that nobody answers is the point.
        let _ = TcpStream::connect_timeout(&self.address, LOOK);
    }
}

fn serve(listener: &TcpListener, to: SocketAddr, shared: &Arc<Shared>) {
    for caller in listener.incoming() {
        if shared.is_stopped() {
            return;
        }
        let Ok(caller) = caller else {
            // Out of descriptors, most likely: some may be free again soon.
            thread::sleep(LOOK);
            continue;
        };
        let shared = Arc::clone(shared);
        // Connecting on may take long, and the next caller must not wait for it. Without a thread the caller is turned away.
        let _ = thread::Builder::new().name("chaos-connect".into()).spawn(move || {
            if let Ok(behind) = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT) {
                pump::start(shared.connection(caller, behind));
            }
        });
    }
}

impl Shared {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn connection(self: &Arc<Self>, caller: TcpStream, behind: TcpStream) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            shared: Arc::clone(self),
            caller,
            behind,
            rank: OnceLock::new(),
            over: AtomicBool::new(false),
            again: Default::default(),
        });
        let mut told = self.told();
        told.connections.retain(|connection| connection.strong_count() > 0);
        told.connections.push(Arc::downgrade(&connection));
        connection
    }

    pub(crate) fn passed(&self, bytes: usize) {
        self.passed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn faults(&mut self, rank: Option<u32>, way: Way) -> Option<&mut Faults> {
        let own = rank.map(|rank| (Callers::Rank(rank), way)).filter(|key| self.faults.contains_key(key));
        self.faults.get_mut(&own.unwrap_or((Callers::All, way)))
    }
}

impl Connection {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || self.shared.is_stopped()
    }

    /// Whether what passed last is to pass again now; asks once.
    pub(crate) fn is_again(&self, way: Way) -> bool {
        self.again[way as usize].swap(false, Ordering::SeqCst)
    }

    /// What is to be done to a frame that passes now, with a number that chance gives for it.
    pub(crate) fn judge(&self, way: Way, kind: FrameKind) -> Option<(Action, u64)> {
        let mut told = self.shared.told();
        let mut chance = told.chance.clone();
        let rules = &mut told.faults(self.rank.get().copied(), way)?.rules;
        let action = rules.iter_mut().find_map(|rule| rule.applies(kind, &mut chance).then_some(rule.action));
        let drawn = chance.next();
        told.chance = chance;
        let action = action?;
        self.shared.spoiled_frames.fetch_add(1, Ordering::Relaxed);
        Some((action, drawn))
    }

    /// How much later something arrives that comes now.
    pub(crate) fn delay(&self, way: Way) -> Duration {
        let mut told = self.shared.told();
        let share = told.chance.share();
        let faults = told.faults(self.rank.get().copied(), way);
        faults.map_or(Duration::ZERO, |faults| faults.delay + faults.jitter.mul_f64(share))
    }

    /// Waits while nothing may pass; then how fast it may, in bytes per second.
    pub(crate) fn may_pass(&self, way: Way) -> Option<u64> {
        let mut told = self.shared.told();
        loop {
            let faults = told.faults(self.rank.get().copied(), way).map(|faults| (faults.stalled, faults.bytes_per_s));
            let (stalled, bytes_per_s) = faults.unwrap_or_default();
            if !stalled || self.is_over() {
                return bytes_per_s;
            }
            told = self.shared.changed.wait_timeout(told, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends both halves at once, with a reset for either side.
    pub(crate) fn reset(&self) {
        self.over.store(true, Ordering::SeqCst);
        for stream in [&self.caller, &self.behind] {
            // The reset leaves when the last thread lets go of the connection.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
