//! One connected peer: its path, its links, and what wakes them. Its transfers are in `transfers`.

mod transfers;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use xfer_transport_core::inbound::Inbound;
use xfer_transport_core::limits::MESSAGE_BYTES_MAX;
use xfer_transport_core::message::LinkRole;
use xfer_transport_core::path::{LinkId, Path, PathConfig, TransferId};
use xfer_transport_core::schedule::Windows;
use xfer_transport_core::steadiness::Steadiness;
use xfer_transport_core::stream::PushError;
use xfer_transport_core::ticket::Ticket;
use xfer_transport_core::{BackendId, Forecast, Lane, Measured, PeerId, RateInterval, Time};

use crate::backlog::Backlog;
use crate::error::{DownReason, LoanError, SendError};
use crate::hub::{Channel, PeerEvent};
use crate::intake::Slot;
use crate::limits::{INLINE_SEEN_BYTES_MAX, LOOK_AHEAD, LOOK_BYTES_PER_US, LOOKS_BEFORE_YIELD};
use crate::loans::Loans;
use crate::peers::Peers;
use crate::shared::Shared;
use crate::stats::add;
use crate::transfer::Transfer;
use crate::worker::{Looking, Pace, Worker};

use transfers::Written;

/// Who is at the other end, as it introduced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: PeerId,
    /// Which process that is.
    pub(crate) nonce: u64,
    /// Its number for this connection of the two.
    pub(crate) session: u64,
}

/// One connected peer.
pub(crate) struct Peer {
    identity: Identity,
    pub(crate) shared: Arc<Shared>,
    path: Mutex<Path>,
    arrivals: Mutex<Arrivals>,
    links: Mutex<BTreeMap<LinkId, Arc<Worker>>>,
    transfers: Mutex<HashMap<TransferId, Written>>,
    /// Transfers that have ended without proof.
    quarantine: Mutex<HashMap<TransferId, Arc<Transfer>>>,
    pub(crate) loans: Loans,
    /// Messages that nobody has taken yet.
    pub(crate) backlog: Backlog,
    /// Whether a link ended in a way that doesn't prove that the peer reads from it no more.
    unproven: AtomicBool,
    /// When the peer last said that threads of its links are held up, in nanoseconds of our clock; 0 if never.
    excused: AtomicU64,
    down: OnceLock<DownReason>,
    /// Of those who wait for short transfers.
    pace: Mutex<Pace>,
    /// Of links that send what comes one by one.
    turns: AtomicUsize,
    /// How to reach it again, if it was we who connected.
    pub(crate) reach: OnceLock<Reach>,
    /// Its lost links are being opened again.
    redialling: Arc<AtomicBool>,
    /// How its ways have held so far, those that had to be opened again.
    steadiness: Mutex<BTreeMap<BackendId, Steadiness>>,
    peers: Weak<Peers>,
}

/// How a peer is reached.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) ticket: Ticket,
    /// Over what, the best first.
    pub(crate) over: Vec<BackendId>,
    /// What is better, and why it can't be used.
    pub(crate) unused: Vec<(BackendId, String)>,
}

/// The right to open a peer's lost links again.
#[derive(Debug)]
pub(crate) struct Redialling(Arc<AtomicBool>);

impl Drop for Redialling {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Which chunks links are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    Any,
    /// One, which one link will send.
    One,
    /// One that the caller's own thread may send.
    Small,
}

/// What arrives from a peer.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    pub(crate) inbound: Inbound,
    /// The peer is gone: no chunk of it begins any more.
    closed: bool,
}

impl Peer {
    pub(crate) fn new(identity: Identity, shared: Arc<Shared>, peers: Weak<Peers>) -> Self {
        let config = PathConfig { chunk_bytes: shared.chunk_bytes, windows: Windows::default() };
        Self {
            identity,
            shared,
            path: Mutex::new(Path::new(config)),
            arrivals: Mutex::default(),
            links: Mutex::default(),
            transfers: Mutex::default(),
            quarantine: Mutex::default(),
            loans: Loans::default(),
            backlog: Backlog::default(),
            unproven: AtomicBool::new(false),
            excused: AtomicU64::new(0),
            down: OnceLock::new(),
            pace: Mutex::default(),
            turns: AtomicUsize::new(0),
            reach: OnceLock::new(),
            redialling: Arc::default(),
            steadiness: Mutex::default(),
            peers,
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.identity.id
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    pub(crate) fn down_reason(&self) -> Option<&DownReason> {
        self.down.get()
    }

    pub(crate) fn path(&self) -> MutexGuard<'_, Path> {
        lock(&self.path)
    }

    /// What is known of its transfers, until it is gone.
    pub(crate) fn lock_arrivals(&self) -> Option<MutexGuard<'_, Arrivals>> {
        Some(lock(&self.arrivals)).filter(|arrivals| !arrivals.closed)
    }

    /// The receiving end of one of its links.
    pub(crate) fn slot(&self, link: LinkId) -> Option<Arc<Slot>> {
        lock(&self.links).get(&link).map(|worker| Arc::clone(worker.slot()))
    }

    pub(crate) fn rate(&self) -> Option<RateInterval> {
        self.path().rate()
    }

    pub(crate) fn measured(&self) -> Option<Measured> {
        self.path().measured()
    }

    pub(crate) fn forecast(&self, lane: Lane, len_bytes: u64) -> Option<Forecast> {
        self.forecast_on(&self.path(), lane, len_bytes, self.shared.now())
    }

    fn forecast_on(&self, path: &Path, lane: Lane, len_bytes: u64, now: Time) -> Option<Forecast> {
        path.forecast(lane, len_bytes, now, &self.shared.egress())
    }

    // Links.

    /// Counts a link as one of this peer's, before it carries anything. `false` if the peer is gone.
    pub(crate) fn adopt(&self, worker: &Arc<Worker>) -> bool {
        let mut links = lock(&self.links);
        if self.down.get().is_some() {
            return false;
        }
        links.insert(worker.id(), Arc::clone(worker));
        true
    }

    pub(crate) fn link_count(&self) -> usize {
        lock(&self.links).len()
    }

    pub(crate) fn workers(&self) -> Vec<Arc<Worker>> {
        lock(&self.links).values().cloned().collect()
    }

    /// Whether messages go over a link on which memory can be shown.
    pub(crate) fn sees_memory(&self) -> bool {
        let link = self.path().message_link();
        link.and_then(|link| lock(&self.links).get(&link).map(|worker| worker.backend())) == Some(BackendId::Shm)
    }

    /// Looks for messages of it, for a thread that waits for one; nothing where they can't be seen before the kernel says so.
    pub(crate) fn look(self: &Arc<Self>) -> Option<Looking> {
        Looking::at(self.message_worker()?, Arc::clone(self))
    }

    /// Looks for the end of a transfer, for a thread that waits for it: as long as it was told to; or for a moment, if the transfer
    /// is one that such a thread sends by itself, nobody else looks, and this has paid.
    pub(crate) fn look_for_end(self: &Arc<Self>, transfer: &Transfer, timeout: Option<Duration>) {
        let busy_poll = self.shared.busy_poll.min(timeout.unwrap_or(Duration::MAX));
        let is_short = transfer.len_bytes <= INLINE_SEEN_BYTES_MAX;
        if !busy_poll.is_zero() {
            let looking = self.look();
            let looks = looking.as_ref().map_or(1, Looking::looks);
            let _ = self.shared.look_for(busy_poll, looks, || {
                looking.iter().for_each(Looking::once);
                transfer.is_over()
            });
            looking.iter().filter(|_| !transfer.is_over()).for_each(Looking::give_up);
            return;
        }
        // Whoever else waits for this peer looks for its end too.
        let Ok(mut pace) = self.pace.try_lock() else { return };
        let Some(worker) = is_short.then(|| self.message_worker()).flatten() else { return };
        let least = LOOK_AHEAD + Duration::from_micros(transfer.len_bytes / LOOK_BYTES_PER_US);
        let least = least.min(timeout.unwrap_or(Duration::MAX));
        let _ = pace.look(|| {
            let looking = Looking::alone_at(worker, Arc::clone(self));
            let looks = looking.as_ref().map_or(LOOKS_BEFORE_YIELD, Looking::looks);
            self.shared.look_for(least, looks, || {
                looking.iter().for_each(Looking::once);
                transfer.is_over()
            })
        });
    }

    fn message_worker(&self) -> Option<Arc<Worker>> {
        let link = self.path().message_link()?;
        lock(&self.links).get(&link).cloned()
    }

    /// An adopted link begins to carry.
    pub(crate) fn link_opened(self: &Arc<Self>, worker: &Worker) {
        // It may have been gone again by then, and a path without the peer has no use for links; nor for those that carry
        // nothing but signs of life.
        if self.down.get().is_none() && worker.role() != LinkRole::Beat {
            self.path().add_link(worker.id(), worker.backend(), worker.role());
        }
        self.kick();
    }

    /// A link is gone and carries nothing any more; the last one takes the peer with it.
    pub(crate) fn link_closed(self: &Arc<Self>, worker: &Worker, reason: DownReason) {
        let left = {
            let mut links = lock(&self.links);
            links.remove(&worker.id());
            links.len()
        };
        worker.slot().clear();
        // What is for signs of life alone has carried no chunk.
        if !reason.proves_fence() && worker.role() != LinkRole::Beat {
            self.unproven.store(true, Ordering::SeqCst);
        }
        if let Some(mut arrivals) = self.lock_arrivals() {
            arrivals.inbound.link_lost(worker.id());
        }
        if left == 0 {
            // The other end closes all links as soon as one of them has brought our goodbye, and that is heard here on some before
            // their threads have come to say theirs: whoever waits for a transfer is told why all the same.
            let reason = if self.shared.is_stopping() { DownReason::ShutDown } else { reason };
            self.bring_down(reason);
            return;
        }
        // Who shuts down loses links to those who have heard it on another one.
        if self.down.get().is_none() && reason != DownReason::ShutDown && !self.shared.is_stopping() {
            add(&self.shared.counters.links_lost, 1);
            tracing::warn!("lost one link to {}: {reason}; {left} left", self.id());
        }
        self.path().link_lost(worker.id(), self.shared.now());
        self.settle();
        self.kick();
    }

    /// The right to open its lost links again, which one at a time has.
    pub(crate) fn begin_redial(&self) -> Option<Redialling> {
        let taken = self.redialling.swap(true, Ordering::SeqCst);
        (!taken).then(|| Redialling(Arc::clone(&self.redialling)))
    }

    /// Links over `backend` that were lost have been opened again.
    pub(crate) fn opened_again(&self, backend: BackendId) {
        lock(&self.steadiness).entry(backend).or_default().opened_again(self.shared.now());
    }

    /// The ways that broke too often.
    pub(crate) fn unsteady(&self) -> Vec<BackendId> {
        lock(&self.steadiness).iter().filter(|(_, way)| way.is_unsteady()).map(|(backend, _)| *backend).collect()
    }

    // Signs of life. None of these waits.

    /// The peer is alive, and says that threads of its links are held up.
    pub(crate) fn excuse(&self, now: Time) {
        self.excused.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// When it last said so.
    pub(crate) fn excused(&self) -> Option<Time> {
        Some(Time::from_nanos(self.excused.load(Ordering::Relaxed))).filter(|at| *at > Time::ZERO)
    }

    /// Whether a thread of a link to it is held up here; nothing if that can't be seen just now.
    pub(crate) fn is_held_up(&self, now: Time) -> Option<bool> {
        let links = self.links.try_lock().ok()?;
        Some(links.values().any(|worker| worker.is_held_up(now)))
    }

    /// Whether it has had no link that carries anything for too long.
    pub(crate) fn is_stranded(&self, now: Time) -> bool {
        self.path.try_lock().is_ok_and(|mut path| path.is_stranded(now))
    }

    /// The peer is gone: its links stop, its transfers end, and nothing of it lands any more. Only the first reason
    /// counts.
    pub(crate) fn bring_down(self: &Arc<Self>, reason: DownReason) {
        let workers: Vec<Arc<Worker>> = {
            let links = lock(&self.links);
            if self.down.set(reason.clone()).is_err() {
                return;
            }
            links.values().cloned().collect()
        };
        if let Some(peers) = self.peers.upgrade() {
            peers.forget(self);
        }
        self.stop_landing();
        for worker in &workers {
            worker.stop();
        }
        let proven = reason.proves_fence() && !self.unproven.load(Ordering::SeqCst);
        self.path().close(proven, self.shared.now());
        self.settle();
        let gone = LoanError::PeerGone { peer: self.id(), reason: reason.clone() };
        let process = workers.iter().find_map(|worker| worker.process());
        self.loans.close(&gone, process.as_ref(), &self.shared.held);
        let held: Vec<Arc<Transfer>> = lock(&self.quarantine).drain().map(|(_, transfer)| transfer).collect();
        for transfer in held {
            self.let_go(&transfer, proven);
        }
        add(&self.shared.counters.peers_down, 1);
        tracing::info!("{} is gone: {reason}", self.id());
        self.shared.hub.tell(&PeerEvent::Down { peer: self.id(), reason });
    }

    /// Nothing of the peer is written here any more when this returns.
    pub(crate) fn stop_landing(&self) {
        lock(&self.arrivals).closed = true;
        for worker in self.workers() {
            worker.slot().clear();
        }
    }

    /// Wakes the links for which there is something to do. After everything that changes the path.
    pub(crate) fn kick(self: &Arc<Self>) {
        self.kick_some(Some(Chunks::Any));
    }

    /// The same where nothing has changed for chunks: whoever may send some has been told already, and would tell others
    /// again, as they would us.
    pub(crate) fn kick_for_messages(self: &Arc<Self>) {
        self.kick_some(None);
    }

    fn kick_some(self: &Arc<Self>, chunks: Option<Chunks>) {
        let (events, messages, data): (Option<LinkId>, Option<LinkId>, Vec<LinkId>) = {
            let mut path = self.path();
            let events = path.message_link().filter(|_| path.has_events());
            let messages = path.message_link().filter(|_| path.has_messages());
            let mut data = Vec::new();
            if chunks.is_some() {
                data.extend(path.express_link().filter(|_| path.has_express()));
                if path.has_chunks() {
                    let express = data.first().copied();
                    data.extend(path.data_links().filter(|link| Some(*link) != express));
                }
            }
            (events, messages, data)
        };
        if events.is_none() && messages.is_none() && data.is_empty() {
            return;
        }
        let (events, messages, data) = {
            let links = lock(&self.links);
            let worker = |link: LinkId| links.get(&link).cloned();
            let mut data: Vec<Arc<Worker>> = data.into_iter().filter_map(worker).collect();
            if chunks == Some(Chunks::Small) {
                self.spread(&mut data);
            }
            (events.and_then(worker), messages.and_then(worker), data)
        };
        if let Some(worker) = events {
            worker.wake();
        }
        if let Some(worker) = messages {
            worker.poke(true);
        }
        let told = match chunks {
            Some(Chunks::Small) => data.iter().any(|worker| worker.poke(true)),
            // The others would only wake up to find nothing.
            Some(Chunks::One) => data.iter().any(|worker| worker.wake_if_idle()),
            _ => false,
        };
        if !told {
            data.iter().for_each(|worker| _ = worker.poke(false));
        }
    }

    /// Over queue pairs each link's chunks are read one after the other, by what serves that link at the other end. Short ones that come
    /// one by one would all go to the first link: they take turns, so that links read side by side.
    fn spread(&self, workers: &mut [Arc<Worker>]) {
        let reads = |worker: &Arc<Worker>| worker.backend() == BackendId::Verbs && worker.role() == LinkRole::Data;
        let first = workers.iter().position(reads).unwrap_or(workers.len());
        let workers = &mut workers[first..];
        if workers.len() > 1 {
            workers.rotate_left(self.turns.fetch_add(1, Ordering::Relaxed) % workers.len());
        }
    }

    pub(crate) fn send(self: &Arc<Self>, channel: Channel, payload: Bytes) -> Result<(), SendError> {
        if payload.len() > MESSAGE_BYTES_MAX as usize {
            return Err(SendError::TooLong(payload.len()));
        }
        if self.down.get().is_some() {
            return Err(SendError::NotConnected(self.id()));
        }
        self.path().send(channel.0, payload).map_err(|error| match error {
            PushError::Full => SendError::Full(self.id()),
            PushError::TooManyStreams => SendError::TooManyChannels(self.id()),
        })?;
        add(&self.shared.counters.messages_sent, 1);
        self.kick();
        Ok(())
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peer({})", self.identity.id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
