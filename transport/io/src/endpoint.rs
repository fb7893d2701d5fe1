//! The endpoint: one process's end of all its connections.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io, thread};

use bytes::Bytes;
use xfer_transport_core::frame;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::message::LinkRole;
use xfer_transport_core::path::Request;
use xfer_transport_core::ticket::Ticket;
use xfer_transport_core::{BackendId, Deadline, Forecast, Lane, Measured, PeerId, RateInterval, RemoteSlice, Time};

use crate::backend::{Backend, Manner};
use crate::backlog::Backlog;
use crate::beats::{self, Beats};
use crate::config::EndpointConfig;
use crate::dial::Dialer;
use crate::error::{ConnectError, DownReason, GrantError, LendError, SendError, StartError, TransferError};
use crate::flight::FlightRecord;
use crate::grants::{Grant, random_u64};
use crate::greeting::{Accepting, Pending, Side};
use crate::hub::{Channel, Incoming, PeerEvent};
use crate::limits::{ACCEPT_WAIT, FAREWELL, LINGER, LOOK_AHEAD, LOOKED_AT_MAX, REDIAL_EVERY, SHUTDOWN_REST};
use crate::loans::{Borrowed, Loan};
use crate::memory::{Region, Slice};
use crate::peer::Peer;
use crate::peers::Peers;
use crate::shared::Shared;
use crate::stats::{Stats, add};
use crate::transfer::{Transfer, TransferHandle};
use crate::worker::{Looking, Pace, Seen, Worker};

/// Why a way is not taken that could be.
const UNSTEADY: &str =
    "its links broke again and again, each time with what was under way: it is left alone until the next connect";

/// How a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// What carries its bytes.
    pub over: BackendId,
    /// By how many links.
    pub links: usize,
    /// How it moves memory that peers can't read where it lies ([`Region::shared`]), if there is more than one way.
    pub ordinary: Option<Manner>,
    /// How this end moves memory of devices ([`Region::from_dmabuf`]), if there is more than one way, and it has moved some.
    pub dmabufs: Option<Manner>,
    /// What would carry them if that broke.
    pub standing_by: Vec<BackendId>,
    /// What would be better, and why it can't be used. Known only to the end that connected.
    pub unused: Vec<(BackendId, String)>,
}

/// One process's end of all its connections. Clones are the same endpoint; dropping the last one shuts it down.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    dialer: Arc<Dialer>,
    backends: Vec<Arc<dyn Backend>>,
    /// Of those who wait for messages.
    pace: Mutex<Pace>,
    /// Dropping it ends the thread that tends to lost links.
    tend: Mutex<Option<SyncSender<()>>>,
}

impl Endpoint {
    /// Listens, and serves whoever connects, from now on.
    pub fn start(config: EndpointConfig) -> Result<Self, StartError> {
        config.check()?;
        let backends = config.open_backends()?;
        let shared = Arc::new(Shared::new(&config, random_u64(), Beats::new()?));
        {
            let mut egress = shared.egress();
            egress.set(config.egress_bytes_per_s, shared.now());
            for (lane, bytes_per_s) in Lane::ALL.into_iter().zip(config.lane_bytes_per_s) {
                egress.set_lane(lane, bytes_per_s, shared.now());
            }
        }
        let peers = Arc::new(Peers::new(Arc::clone(&shared)));
        let dialer = Arc::new(Dialer::new(Arc::clone(&shared), Arc::clone(&peers), backends.clone()));
        let (tend, ended) = sync_channel(1);
        let inner = Inner { shared, peers, dialer, backends, pace: Mutex::default(), tend: Mutex::new(Some(tend)) };
        inner.start_threads(ended)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Who this process is.
    pub fn id(&self) -> PeerId {
        self.0.shared.id
    }

    /// The endpoint's clock: monotonic, and nobody else's.
    pub fn now(&self) -> Time {
        self.0.shared.now()
    }

    /// The deadline that is `left` from now.
    pub fn deadline_in(&self, left: Duration) -> Deadline {
        Deadline::after(self.now(), left)
    }

    /// How peers reach this process: opaque bytes, for any store to carry.
    pub fn ticket(&self) -> Bytes {
        let shared = &self.0.shared;
        let addresses = self.0.backends.iter().map(|backend| (backend.id(), backend.address())).collect();
        let ticket =
            Ticket { version: frame::VERSION, job: shared.job.clone(), id: shared.id, nonce: shared.nonce, addresses };
        ticket.encode()
    }

    /// Connects to the process that a ticket names, within `timeout`. Nothing happens if it is connected already,
    /// whoever began.
    pub fn connect(&self, ticket: &[u8], timeout: Duration) -> Result<PeerId, ConnectError> {
        if self.0.shared.is_stopping() {
            return Err(ConnectError::ShutDown);
        }
        let ticket = Ticket::decode(ticket)?;
        Ok(self.0.dialer.connect(&ticket, timeout)?.id())
    }

    /// The life of `rank` that is connected now.
    pub fn peer(&self, rank: u32) -> Option<PeerId> {
        self.0.peers.connected(rank).map(|peer| peer.id())
    }

    /// Lets `to`, and nobody else, write into `region` until the grant is revoked or dropped.
    pub fn grant(&self, region: &Region, to: PeerId) -> Result<Grant, GrantError> {
        if self.0.shared.is_stopping() {
            return Err(GrantError::ShutDown);
        }
        self.0.shared.grants.grant(region, to)
    }

    /// Copies `from` into memory that `peer` has granted. Never blocks; errors come through the handle.
    ///
    /// The transfer is done once every byte is at its destination and was verified there. Without a deadline it goes
    /// on until the peer is gone.
    pub fn write(
        &self,
        peer: PeerId,
        from: Slice,
        to: RemoteSlice,
        lane: Lane,
        deadline: Option<Deadline>,
    ) -> TransferHandle {
        add(&self.0.shared.counters.transfers_started, 1);
        self.try_write(peer, from, to, lane, deadline).unwrap_or_else(|error| {
            add(&self.0.shared.counters.transfers_failed, 1);
            TransferHandle::failed(lane, error)
        })
    }

    /// Writes what of `from` isn't there yet, as `landed` says, which is what the other end knows of its
    /// [`crate::Region::landed`] memory: after this process, or another that wrote the same bytes, was gone in the middle of it. What is
    /// said to be there is believed only as far as its checksums are those of `from`, which is read for that.
    ///
    /// One handle for each range that is missing; all bytes are there when all are done.
    pub fn write_rest(
        &self,
        peer: PeerId,
        from: &Slice,
        to: RemoteSlice,
        landed: &Landed,
        lane: Lane,
        deadline: Option<Deadline>,
    ) -> Vec<TransferHandle> {
        if from.len_bytes() != to.len_bytes() {
            return vec![self.write(peer, from.clone(), to, lane, deadline)];
        }
        let missing = from.missing(landed, to.offset()).into_iter();
        let parts = missing.filter_map(|range| {
            let at = to.offset().checked_add(range.start)?;
            Some((from.slice(range.clone())?, to.region().slice(at, range.end - range.start)?))
        });
        parts.map(|(from, to)| self.write(peer, from, to, lane, deadline)).collect()
    }

    fn try_write(
        &self,
        peer: PeerId,
        from: Slice,
        to: RemoteSlice,
        lane: Lane,
        deadline: Option<Deadline>,
    ) -> Result<TransferHandle, TransferError> {
        if self.0.shared.is_stopping() {
            return Err(TransferError::ShutDown);
        }
        let len_bytes = from.len_bytes();
        if len_bytes != to.len_bytes() {
            return Err(TransferError::LengthMismatch { source_bytes: len_bytes, destination_bytes: to.len_bytes() });
        }
        let connected = self.0.peers.find(peer).ok_or(TransferError::NotConnected(peer))?;
        let transfer = Arc::new(Transfer::new(lane, len_bytes, Some(from)));
        let (region, offset, order) = (to.region().id, to.offset(), self.0.shared.next_order());
        let request = Request { lane, region, offset, len_bytes, deadline, order };
        connected.write(transfer, request)
    }

    /// Sends a message: it arrives once, and in order with the others of its channel to that peer, unless the peer
    /// goes first. Never blocks; when the peer doesn't take its messages the queue is full.
    pub fn send(&self, peer: PeerId, channel: Channel, payload: Bytes) -> Result<(), SendError> {
        if self.0.shared.is_stopping() {
            return Err(SendError::ShutDown);
        }
        self.0.peers.find(peer).ok_or(SendError::NotConnected(peer))?.send(channel, payload)
    }

    /// The messages of a channel from all peers, including those that came before anybody asked. One subscriber a
    /// channel: a later one takes its place.
    pub fn subscribe(&self, channel: Channel) -> Receiver<Incoming> {
        let receiver = self.0.shared.hub.subscribe(channel);
        for peer in self.0.peers.all() {
            Backlog::offer(&peer, Some(channel));
            peer.kick();
        }
        receiver
    }

    /// The next message of a subscription; nothing at the end of all, or if there is none within `timeout`.
    ///
    /// The calling thread looks for it before it sleeps, and takes in by itself what peers send meanwhile, so that no other thread
    /// has to run between a message and its receiver: with [`EndpointConfig::busy_poll`] for that long; else for a moment, as
    /// long as that has paid and there are few peers.
    pub fn next(&self, messages: &Receiver<Incoming>, timeout: Option<Duration>) -> Option<Incoming> {
        let started = Instant::now();
        let most = timeout.unwrap_or(Duration::MAX);
        let busy_poll = self.0.shared.busy_poll.min(most);
        let mut received = messages.try_recv();
        if received == Err(TryRecvError::Empty) && !most.is_zero() {
            if !busy_poll.is_zero() {
                let _ = self.look_for(messages, &mut received, busy_poll, self.0.peers.all());
            } else if let Ok(mut pace) = self.0.pace.try_lock() {
                let peers =
                    || Some(self.0.peers.all()).filter(|peers| peers.len() <= LOOKED_AT_MAX).unwrap_or_default();
                let _ = pace.look(|| self.look_for(messages, &mut received, LOOK_AHEAD.min(most), peers()));
            }
        }
        match received {
            Ok(message) => return Some(message),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        match timeout {
            None => messages.recv().ok(),
            Some(timeout) => messages.recv_timeout(timeout.saturating_sub(started.elapsed())).ok(),
        }
    }

    fn look_for(
        &self,
        messages: &Receiver<Incoming>,
        received: &mut Result<Incoming, TryRecvError>,
        least: Duration,
        peers: Vec<Arc<Peer>>,
    ) -> Seen {
        let looking: Vec<Looking> = peers.iter().filter_map(Peer::look).collect();
        if looking.is_empty() && self.0.shared.busy_poll.is_zero() {
            return Seen::No;
        }
        let looks = looking.iter().map(Looking::looks).min().unwrap_or(1);
        let seen = self.0.shared.look_for(least, looks, || {
            looking.iter().for_each(Looking::once);
            *received = messages.try_recv();
            !matches!(received, Err(TryRecvError::Empty))
        });
        looking.iter().filter(|_| seen != Seen::Yes).for_each(Looking::give_up);
        seen
    }

    /// Lets `peer` read `from` where it lies, without a copy and however long it is, until it gives it back; whoever
    /// [borrows](Endpoint::borrow) on `channel` there gets it. The memory must come from [`Region::shared`], and must be left
    /// as it is meanwhile. With the CRC-32C of the bytes ([`Slice::crc32c`]) the borrower can tell whether it was.
    pub fn lend(&self, peer: PeerId, channel: Channel, from: Slice, crc32c: Option<u32>) -> Result<Loan, LendError> {
        if self.0.shared.is_stopping() {
            return Err(LendError::ShutDown);
        }
        self.0.peers.find(peer).ok_or(LendError::NotConnected(peer))?.lend(channel, from, crc32c)
    }

    /// What peers lend on `channel` from now on. A later call takes an earlier one's place.
    pub fn borrow(&self, channel: Channel) -> Receiver<Borrowed> {
        self.0.shared.hub.borrow(channel)
    }

    /// Who comes and goes from now on. Each call is a new subscriber.
    pub fn events(&self) -> Receiver<PeerEvent> {
        self.0.shared.hub.subscribe_events()
    }

    /// What the path to `peer` carries, as measured while it was busy.
    pub fn rate(&self, peer: PeerId) -> Option<RateInterval> {
        self.0.peers.find(peer)?.rate()
    }

    /// The same, with the number of samples that it is from: a few say little of what comes.
    pub fn measured(&self, peer: PeerId) -> Option<Measured> {
        self.0.peers.find(peer)?.measured()
    }

    /// When a transfer of `len_bytes` would be done that is asked for in `lane` now: what is under way to `peer` before it,
    /// at the rate that was measured, under the limits that are set. Nothing before the path was busy for 50 ms.
    pub fn forecast(&self, peer: PeerId, lane: Lane, len_bytes: u64) -> Option<Forecast> {
        self.0.peers.find(peer)?.forecast(lane, len_bytes)
    }

    /// How `peer` is reached just now; nothing if it is not connected.
    pub fn route(&self, peer: PeerId) -> Option<Route> {
        let peer = self.0.peers.find(peer)?;
        let carrying: Vec<_> = {
            let path = peer.path();
            path.data_links().collect()
        };
        let mut workers = peer.workers();
        workers.retain(|worker| worker.role() != LinkRole::Beat);
        let mut carries = workers.iter().filter(|worker| carrying.contains(&worker.id()));
        // The one that has moved some knows best.
        let ordinary = carries.clone().filter_map(|worker| worker.manner()).min_by_key(|manner| manner.copies);
        let dmabufs = carries.clone().find_map(|worker| worker.dmabuf_manner());
        let over = carries.next().map(|worker| worker.backend());
        let mut standing_by: Vec<BackendId> = workers.iter().map(|worker| worker.backend()).collect();
        standing_by.sort_unstable();
        standing_by.dedup();
        standing_by.retain(|backend| Some(*backend) != over);
        let mut unused = peer.reach.get().map(|reach| reach.unused.clone()).unwrap_or_default();
        let unsteady = peer.unsteady().into_iter().filter(|backend| Some(*backend) != over);
        unused.extend(unsteady.map(|backend| (backend, UNSTEADY.to_owned())));
        Some(Route { over: over?, links: carrying.len(), ordinary, dmabufs, standing_by, unused })
    }

    /// Limits the payload bytes that leave per second, all peers together; `None` is no limit.
    ///
    /// While it binds, chunks leave by lane, and within a lane in the order in which their transfers were asked for,
    /// whichever peers they are for.
    pub fn set_egress_limit(&self, bytes_per_s: Option<u64>) {
        self.0.shared.egress().set(bytes_per_s, self.now());
        self.look_again();
    }

    /// Limits the payload bytes of one lane that leave per second, all peers together; `None` is no limit.
    pub fn set_lane_limit(&self, lane: Lane, bytes_per_s: Option<u64>) {
        self.0.shared.egress().set_lane(lane, bytes_per_s, self.now());
        self.look_again();
    }

    /// Lets all links look at what they may send.
    fn look_again(&self) {
        for peer in self.0.peers.all() {
            peer.workers().iter().for_each(|worker| worker.wake());
        }
    }

    /// The limit set so.
    pub fn egress_limit(&self) -> Option<u64> {
        self.0.shared.egress().limit()
    }

    /// The limit of one lane.
    pub fn lane_limit(&self, lane: Lane) -> Option<u64> {
        self.0.shared.egress().lane_limit(lane)
    }

    /// What has been done since the start.
    pub fn stats(&self) -> Stats {
        self.0.shared.counters.snapshot()
    }

    /// The latest transfers from this process, for whoever asks what went wrong: the last thousand that ended, then those
    /// under way.
    pub fn flights(&self) -> Vec<FlightRecord> {
        let mut flights = self.0.shared.flights.records();
        flights.extend(self.0.peers.all().iter().flat_map(|peer| peer.flights()));
        flights
    }

    /// What the calendar says at a time of this endpoint's clock, if nobody has set it since the start: for people and for
    /// putting traces of several processes side by side. Nothing is decided by it.
    pub fn on_calendar(&self, at: Time) -> SystemTime {
        self.0.shared.on_calendar(at)
    }

    /// Says goodbye to all peers and ends everything: within two seconds, whatever they do. Queued messages get half
    /// a second to leave; transfers end with [`TransferError::ShutDown`].
    pub fn shutdown(&self) {
        self.0.shutdown();
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} of job {:?})", self.0.shared.id, self.0.shared.job)
    }
}

impl Inner {
    fn start_threads(&self, ended: Receiver<()>) -> io::Result<()> {
        let handshakes = Arc::<AtomicUsize>::default();
        for backend in &self.backends {
            let (backend, peers) = (Arc::clone(backend), Arc::clone(&self.peers));
            let handshakes = Arc::clone(&handshakes);
            let running = self.shared.threads.enter();
            thread::Builder::new().name(format!("xfer-accept-{}", backend.id())).spawn(move || {
                let _running = running;
                accept(&*backend, &peers, &handshakes);
            })?;
        }
        beats::start(&self.shared)?;
        let (dialer, shared) = (Arc::clone(&self.dialer), Arc::clone(&self.shared));
        let running = self.shared.threads.enter();
        thread::Builder::new().name("xfer-tend".into()).spawn(move || {
            let _running = running;
            while ended.recv_timeout(REDIAL_EVERY) == Err(RecvTimeoutError::Timeout) {
                dialer.redial();
                shared.held.look(&shared.counters);
            }
        })?;
        Ok(())
    }

    fn shutdown(&self) {
        if !self.shared.stop() {
            return;
        }
        self.tend.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.beats.wake();
        let peers = self.peers.all();
        let until = Instant::now() + LINGER;
        while Instant::now() < until
            && peers.iter().any(|peer| peer.down_reason().is_none() && !peer.path().is_flushed())
        {
            thread::sleep(Duration::from_millis(1));
        }
        for peer in &peers {
            // Goodbye says that nothing more is written here, so that has to be true by then.
            peer.stop_landing();
            peer.workers().iter().for_each(|worker| worker.leave());
        }
        self.backends.iter().for_each(|backend| backend.close());
        if !self.shared.threads.wait(SHUTDOWN_REST) {
            tracing::warn!("threads of {} are still running after the shutdown", self.shared.id);
        }
        // Those whose threads are held up; not here, since their transfers' ends run strangers' callbacks.
        let left: Vec<_> = peers.into_iter().filter(|peer| peer.down_reason().is_none()).collect();
        if !left.is_empty() {
            let ending = thread::spawn(move || left.iter().for_each(|peer| peer.bring_down(DownReason::ShutDown)));
            let until = Instant::now() + FAREWELL;
            while !ending.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.shared.hub.close();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Gives whoever connects a thread, as long as not too many are still unknown.
fn accept(backend: &dyn Backend, peers: &Arc<Peers>, handshakes: &Arc<AtomicUsize>) {
    let shared = peers.shared();
    while !shared.is_stopping() {
        let link = match backend.accept(ACCEPT_WAIT) {
            Ok(Some(link)) => link,
            Ok(None) => continue,
            // Closed while it waited.
            Err(_) if shared.is_stopping() => return,
            Err(error) => {
                tracing::warn!("can't accept over {}: {error}", backend.id());
                // Out of descriptors, most likely: some may be free again soon.
                thread::sleep(ACCEPT_WAIT);
                continue;
            }
        };
        let Some(pending) = Pending::enter(handshakes) else {
            add(&shared.counters.handshakes_refused, 1);
            continue;
        };
        let accepting = Accepting { peers: Arc::clone(peers), pending: Some(pending) };
        if let Err(error) = Worker::start(link, Side::Accepting(accepting), shared) {
            tracing::warn!("no thread for a new connection: {error}");
        }
    }
}
