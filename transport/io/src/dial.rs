//! Connecting, and connecting again what was lost.

use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use xfer_transport_core::PeerId;
use xfer_transport_core::message::{Hello, LinkRole};
use xfer_transport_core::ticket::Ticket;

use crate::backend::{Backend, Link};
use crate::error::ConnectError;
use crate::greeting::{Opening, Side, role_of};
use crate::limits::{CONNECTED_ANEW_MAX, REDIAL_TIMEOUT, TIMEOUT_MAX};
use crate::peer::{Peer, Reach};
use crate::peers::Peers;
use crate::shared::Shared;
use crate::worker::Worker;

/// Opens links to peers.
pub(crate) struct Dialer {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    backends: Vec<Arc<dyn Backend>>,
    /// Ranks that somebody is connecting to just now: two at once would open all links twice.
    busy: Mutex<HashSet<u32>>,
    free: Condvar,
}

impl Dialer {
    pub(crate) fn new(shared: Arc<Shared>, peers: Arc<Peers>, backends: Vec<Arc<dyn Backend>>) -> Self {
        Self { shared, peers, backends, busy: Mutex::default(), free: Condvar::new() }
    }

    /// Connects to the process that the ticket names, unless it is connected.
    pub(crate) fn connect(&self, ticket: &Ticket, timeout: Duration) -> Result<Arc<Peer>, ConnectError> {
        let until = Instant::now() + timeout.min(TIMEOUT_MAX);
        let peer = ticket.id;
        if ticket.job != self.shared.job {
            return Err(ConnectError::OtherJob { theirs: ticket.job.clone(), ours: self.shared.job.clone() });
        }
        if peer.rank == self.shared.id.rank {
            return Err(ConnectError::Myself(self.shared.id));
        }
        let timed_out = ConnectError::TimedOut { peer, after: timeout };
        let Some(_turn) = self.turn(peer.rank, until) else { return Err(timed_out) };
        if let Some(connected) = self.peers.connected(peer.rank) {
            if connected.id() == peer && connected.identity().nonce == ticket.nonce {
                return Ok(connected);
            }
            if connected.id().incarnation > peer.incarnation {
                return Err(ConnectError::Superseded { peer, later: connected.id() });
            }
        }
        let mut ways = self.ways(ticket);
        let mut connected = Err(ConnectError::NoCommonBackend(peer));
        let mut unused = Vec::new();
        while let Some(way) = ways.first() {
            connected = self.open_first_link(ticket, way, until, timeout);
            // One that broke before anything was said may be broken for good, like a network that carries only small packets.
            let Err(error @ (ConnectError::Unreachable { .. } | ConnectError::Lost { .. })) = &connected else { break };
            unused.push((way.backend.id(), error.to_string()));
            ways.remove(0);
        }
        let connected = connected?;
        let reach = Reach { ticket: ticket.clone(), over: ways.iter().map(|way| way.backend.id()).collect(), unused };
        let reach = connected.reach.get_or_init(|| reach);
        // One link is enough to begin; the others are tried again later.
        for Wanted { way, role, count } in self.wanted(&ways) {
            for _ in usize::from(role == role_of(0))..count {
                if let Err(error) = self.open_link(&reach.ticket, Some(&connected), way, role, until, timeout) {
                    tracing::warn!("a further link to {peer}: {error}");
                }
            }
        }
        Ok(connected)
    }

    /// The link that makes a peer connected. If an earlier life of it, or an earlier connection, had to end for this one, that has
    /// happened by the time we are told, and the next hello is for what begins.
    fn open_first_link(
        &self,
        ticket: &Ticket,
        way: &Way<'_>,
        until: Instant,
        timeout: Duration,
    ) -> Result<Arc<Peer>, ConnectError> {
        let mut again = 0;
        loop {
            match self.open_link(ticket, None, way, role_of(0), until, timeout) {
                Err(ConnectError::BeganAnew(_)) if again < CONNECTED_ANEW_MAX => again += 1,
                opened => return opened,
            }
        }
    }

    /// How the process behind a ticket may be reached from here, the best way first.
    fn ways<'a>(&'a self, ticket: &'a Ticket) -> Vec<Way<'a>> {
        let of = |backend: &'a Arc<dyn Backend>| {
            let addresses = ticket.addresses.iter().filter(|(id, _)| *id == backend.id());
            addresses.map(move |(_, address)| Way { backend, address })
        };
        self.backends.iter().flat_map(of).collect()
    }

    /// How many links of each role belong on each way: the best carries, the others stand by with one each, so that what
    /// is under way goes on when the best breaks.
    fn wanted<'a>(&self, ways: &'a [Way<'a>]) -> Vec<Wanted<'a>> {
        let Some((best, others)) = ways.split_first() else { return Vec::new() };
        let best = [(role_of(0), 1), (role_of(1), self.shared.links_per_peer), (LinkRole::Beat, 1)]
            .map(|(role, count)| (best, role, count));
        let others = others.iter().map(|other| (other, role_of(1), 1));
        best.into_iter().chain(others).map(|(way, role, count)| Wanted { way, role, count }).collect()
    }

    /// Opens links again that were lost while their peer was not; each peer's on a thread of its own, since a way that is closed
    /// takes its time to say so, and nobody else has to wait for that.
    pub(crate) fn redial(self: &Arc<Self>) {
        for peer in self.peers.all() {
            let Some(reach) = peer.reach.get() else { continue };
            let ways = self.ways_again(&peer, reach);
            if !self.wanted(&ways).iter().any(|wanted| is_missing(&peer, wanted)) {
                continue;
            }
            let Some(turn) = peer.begin_redial() else { continue };
            let running = self.shared.threads.enter();
            let (dialer, dialled) = (Arc::clone(self), Arc::clone(&peer));
            let started = thread::Builder::new().name("xfer-dial".into()).spawn(move || {
                let _held = (running, turn);
                dialer.dial_again(&dialled);
            });
            if let Err(error) = started {
                tracing::warn!("no thread to open links to {} again: {error}", peer.id());
            }
        }
    }

    /// The surest way comes first: it is there at once, where a better one that is closed may take a second to say so. One that
    /// didn't open isn't asked for a further link.
    fn dial_again(&self, peer: &Arc<Peer>) {
        let Some(reach) = peer.reach.get() else { return };
        let ways = self.ways_again(peer, reach);
        let (mut opened, mut closed) = (BTreeSet::new(), BTreeSet::new());
        for wanted in self.wanted(&ways).iter().rev() {
            let backend = wanted.way.backend.id();
            if closed.contains(&backend) || !is_missing(peer, wanted) {
                continue;
            }
            if self.shared.is_stopping() || peer.down_reason().is_some() {
                break;
            }
            let until = Instant::now() + REDIAL_TIMEOUT;
            let Some(_turn) = self.turn(peer.id().rank, until) else { continue };
            // Who had the turn before may have been opening that very link.
            if !is_missing(peer, wanted) {
                continue;
            }
            match self.open_link(&reach.ticket, Some(peer), wanted.way, wanted.role, until, REDIAL_TIMEOUT) {
                Ok(_) => _ = opened.insert(backend),
                Err(error) => {
                    tracing::debug!("a lost link to {} stays lost: {error}", peer.id());
                    closed.insert(backend);
                }
            }
        }
        opened.into_iter().for_each(|backend| peer.opened_again(backend));
    }

    /// How a peer is reached that is connected. What was not reached at first isn't reached later: another machine, another user. Nor
    /// is what breaks again and again, if there is something else.
    fn ways_again<'a>(&'a self, peer: &Peer, reach: &'a Reach) -> Vec<Way<'a>> {
        let mut ways = self.ways(&reach.ticket);
        ways.retain(|way| reach.over.contains(&way.backend.id()));
        let unsteady = peer.unsteady();
        let last = ways.last().map(|way| way.backend.id());
        ways.retain(|way| Some(way.backend.id()) == last || !unsteady.contains(&way.backend.id()));
        ways
    }

    /// Opens a link, the first one or a further one of a peer that is connected.
    fn open_link(
        &self,
        ticket: &Ticket,
        of: Option<&Arc<Peer>>,
        way: &Way<'_>,
        role: LinkRole,
        until: Instant,
        timeout: Duration,
    ) -> Result<Arc<Peer>, ConnectError> {
        let peer = ticket.id;
        let timed_out = || ConnectError::TimedOut { peer, after: timeout };
        let left = || until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let connection = way.open(peer, left().ok_or_else(timed_out)?)?;
        // That may have taken a while. A further link of a peer that is gone by now would connect it anew, unasked.
        if let Some(reason) = of.and_then(|of| of.down_reason()) {
            return Err(ConnectError::Lost { peer, reason: reason.to_string() });
        }
        let (done, outcome) = sync_channel(1);
        let hello = Hello {
            job: self.shared.job.clone(),
            from: self.shared.id,
            nonce: self.shared.nonce,
            session: self.peers.session(peer.rank),
            to: peer,
            role,
        };
        let opening = Opening { peers: Arc::clone(&self.peers), hello, nonce: ticket.nonce, done: Some(done) };
        let worker = Worker::start(connection, Side::Opening(opening), &self.shared)
            .map_err(|error| ConnectError::Lost { peer, reason: error.to_string() })?;
        match outcome.recv_timeout(left().unwrap_or_default()) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                // An answer that comes later would connect what nobody waits for any more.
                worker.stop();
                Err(timed_out())
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(ConnectError::Lost { peer, reason: "the thread of the link ended".into() })
            }
        }
    }

    fn turn(&self, rank: u32, until: Instant) -> Option<TurnGuard<'_>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(&rank) {
            let left = until.checked_duration_since(Instant::now())?;
            busy = self.free.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        busy.insert(rank);
        Some(TurnGuard { dialer: self, rank })
    }
}

/// One address of a peer, and what it is for.
struct Way<'a> {
    backend: &'a Arc<dyn Backend>,
    address: &'a [u8],
}

impl Way<'_> {
    fn open(&self, peer: PeerId, timeout: Duration) -> Result<Box<dyn Link>, ConnectError> {
        self.backend.open(self.address, timeout).map_err(|error| ConnectError::Unreachable {
            peer,
            backend: self.backend.id(),
            address: self.backend.describe(self.address),
            error,
        })
    }
}

/// Links that belong on one way.
struct Wanted<'a> {
    way: &'a Way<'a>,
    role: LinkRole,
    count: usize,
}

fn is_missing(peer: &Peer, wanted: &Wanted<'_>) -> bool {
    let workers = peer.workers();
    let of_role = workers.iter().filter(|worker| worker.role() == wanted.role);
    // The other end may have opened the one for control, and the one for signs of life.
    match wanted.role == role_of(1) {
        true => of_role.filter(|worker| worker.backend() == wanted.way.backend.id()).count() < wanted.count,
        false => of_role.count() == 0,
    }
}

/// The right to connect to one rank.
struct TurnGuard<'a> {
    dialer: &'a Dialer,
    rank: u32,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.dialer.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.rank);
        self.dialer.free.notify_all();
    }
}
