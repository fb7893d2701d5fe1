//! Connecting, and connecting again what was lost.

use std::collections::HashSet;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use xfer_transport_core::message::Hello;
use xfer_transport_core::ticket::Ticket;

use crate::backend::{Backend, Link};
use crate::error::ConnectError;
use crate::greeting::{Opening, Side, role_of};
use crate::limits::REDIAL_TIMEOUT;
use crate::peer::Peer;
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
        let until = Instant::now() + timeout;
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
        let connected = self.open_link(ticket, 0, until, timeout)?;
        let _ = connected.ticket.set(ticket.clone());
        for link in 1..=self.shared.links_per_peer {
            // One link is enough to begin; the others are tried again later.
            if let Err(error) = self.open_link(ticket, link, until, timeout) {
                tracing::warn!("link {link} to {peer}: {error}");
            }
        }
        Ok(connected)
    }

    /// Opens links again that were lost while their peer was not.
    pub(crate) fn redial(&self) {
        for peer in self.peers.all() {
            let Some(ticket) = peer.ticket.get() else { continue };
            let missing = (self.shared.links_per_peer + 1).saturating_sub(peer.link_count());
            let until = Instant::now() + REDIAL_TIMEOUT;
            if missing == 0 || self.shared.is_stopping() || peer.down_reason().is_some() {
                continue;
            }
            let Some(_turn) = self.turn(peer.id().rank, until) else { continue };
            let has_control = peer.workers().iter().any(|worker| worker.role() == role_of(0));
            let link = usize::from(has_control);
            if let Err(error) = self.open_link(ticket, link, until, REDIAL_TIMEOUT) {
                tracing::debug!("a lost link to {} stays lost: {error}", peer.id());
            }
        }
    }

    fn open_link(
        &self,
        ticket: &Ticket,
        link: usize,
        until: Instant,
        timeout: Duration,
    ) -> Result<Arc<Peer>, ConnectError> {
        let peer = ticket.id;
        let timed_out = || ConnectError::TimedOut { peer, after: timeout };
        let left = || until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let connection = self.open_any(ticket, left().ok_or_else(timed_out)?)?;
        let (done, outcome) = sync_channel(1);
        let hello = Hello {
            job: self.shared.job.clone(),
            from: self.shared.id,
            nonce: self.shared.nonce,
            session: self.peers.session(peer.rank),
            to: peer,
            role: role_of(link),
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

    /// A connection over the first backend that is both here and in the ticket.
    fn open_any(&self, ticket: &Ticket, timeout: Duration) -> Result<Box<dyn Link>, ConnectError> {
        let mut failure = ConnectError::NoCommonBackend(ticket.id);
        for backend in &self.backends {
            for (_, address) in ticket.addresses.iter().filter(|(id, _)| *id == backend.id()) {
                match backend.open(address, timeout) {
                    Ok(link) => return Ok(link),
                    Err(error) => {
                        failure = ConnectError::Unreachable {
                            peer: ticket.id,
                            backend: backend.id(),
                            address: backend.describe(address),
                            error,
                        };
                    }
                }
            }
        }
        Err(failure)
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
