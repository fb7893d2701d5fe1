//! Who is connected, and who may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xfer_transport_core::PeerId;
use xfer_transport_core::limits::LINKS_PER_PEER_MAX;
use xfer_transport_core::message::{Hello, RejectReason};

use crate::error::DownReason;
use crate::grants::random_u64;
use crate::hub::PeerEvent;
use crate::peer::{Identity, Peer};
use crate::shared::Shared;
use crate::stats::add;
use crate::worker::Worker;

/// All peers of an endpoint, by rank.
#[derive(Debug)]
pub(crate) struct Peers {
    shared: Arc<Shared>,
    ranks: Mutex<HashMap<u32, Rank>>,
}

#[derive(Debug)]
struct Rank {
    connected: Option<Arc<Peer>>,
    /// The highest incarnation that was ever connected: what is lower is of the past.
    incarnation: u32,
    /// Our number for the connection to it; a new one after each end, so that links of before join nothing.
    session: u64,
}

/// A link that is refused, with the sentence for the other end.
pub(crate) type Rejection = (RejectReason, String);

impl Peers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ranks: Mutex::default() }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn connected(&self, rank: u32) -> Option<Arc<Peer>> {
        self.lock().get(&rank)?.connected.clone()
    }

    /// The peer with exactly this identity.
    pub(crate) fn find(&self, id: PeerId) -> Option<Arc<Peer>> {
        self.connected(id.rank).filter(|peer| peer.id() == id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.lock().values().filter_map(|rank| rank.connected.clone()).collect()
    }

    /// Our number for the connection to `rank`.
    pub(crate) fn session(&self, rank: u32) -> u64 {
        self.lock().entry(rank).or_insert_with(Rank::new).session
    }

    /// Judges who opens a link to us.
    pub(crate) fn judge(&self, hello: &Hello) -> Result<Identity, Rejection> {
        let ours = self.shared.id;
        if hello.job != self.shared.job {
            let sentence = format!("{ours} is in job {:?}, not in {:?}", self.shared.job, hello.job);
            return Err((RejectReason::Job, sentence));
        }
        if hello.from.rank == ours.rank {
            return Err((RejectReason::Claimed, format!("rank {} is already claimed", ours.rank)));
        }
        if hello.to != ours {
            return Err((RejectReason::NotMe, format!("this is {ours}, not {}", hello.to)));
        }
        Ok(Identity { id: hello.from, nonce: hello.nonce, session: hello.session })
    }

    /// Makes `worker` a link of the peer with this identity, who may be new or take an earlier life's place.
    pub(crate) fn admit(
        self: &Arc<Self>,
        identity: Identity,
        worker: &Arc<Worker>,
        opened_by: OpenedBy,
    ) -> Result<Arc<Peer>, Rejection> {
        // One turn to find out who must go first, one to come in.
        loop {
            match self.try_admit(identity, worker, opened_by)? {
                Admission::Joined(peer) => return Ok(peer),
                Admission::New(peer) => {
                    add(&self.shared.counters.peers_up, 1);
                    tracing::info!("{} is connected over {}", peer.id(), worker.backend());
                    self.shared.hub.tell(&PeerEvent::Up(peer.id()));
                    return Ok(peer);
                }
                Admission::After(earlier) => {
                    earlier.bring_down(DownReason::Replaced(identity.id));
                    // Our hello was for the connection that just ended, so the next one has to be said anew.
                    if matches!(opened_by, OpenedBy::Us { .. }) {
                        return Err(began_anew());
                    }
                    std::thread::yield_now();
                }
            }
        }
    }

    fn try_admit(
        self: &Arc<Self>,
        identity: Identity,
        worker: &Arc<Worker>,
        opened_by: OpenedBy,
    ) -> Result<Admission, Rejection> {
        let PeerId { rank, incarnation } = identity.id;
        if self.shared.is_stopping() {
            return Err((RejectReason::Leaving, format!("{} is shutting down", self.shared.id)));
        }
        let mut ranks = self.lock();
        let entry = ranks.entry(rank).or_insert_with(Rank::new);
        // The answer to a hello of before an end must not begin anything: the other end takes it for the same
        // connection, whose messages are counted already.
        if matches!(opened_by, OpenedBy::Us { session } if session != entry.session) {
            return Err(began_anew());
        }
        if incarnation < entry.incarnation {
            let sentence =
                format!("rank {rank} (life {incarnation}) is of the past: life {} was here", entry.incarnation);
            return Err((RejectReason::Superseded, sentence));
        }
        if let Some(peer) = &entry.connected {
            let there = peer.identity();
            if there == identity {
                if peer.link_count() >= LINKS_PER_PEER_MAX {
                    return Err((RejectReason::Busy, format!("{LINKS_PER_PEER_MAX} links are open already")));
                }
                if peer.adopt(worker) {
                    return Ok(Admission::Joined(Arc::clone(peer)));
                }
            } else if there.id == identity.id && there.nonce != identity.nonce {
                return Err((RejectReason::Claimed, format!("rank {rank} is already claimed")));
            }
            return Ok(Admission::After(Arc::clone(peer)));
        }
        let peer = Arc::new(Peer::new(identity, Arc::clone(&self.shared), Arc::downgrade(self)));
        peer.adopt(worker);
        entry.incarnation = incarnation;
        entry.connected = Some(Arc::clone(&peer));
        Ok(Admission::New(peer))
    }

    /// `peer` is gone.
    pub(crate) fn forget(&self, peer: &Arc<Peer>) {
        let mut ranks = self.lock();
        if let Some(entry) = ranks.get_mut(&peer.id().rank)
            && entry.connected.as_ref().is_some_and(|connected| Arc::ptr_eq(connected, peer))
        {
            entry.connected = None;
            entry.session = random_u64();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Rank>> {
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which end opened a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenedBy {
    /// And said so under this number for the connection.
    Us {
        session: u64,
    },
    Them,
}

enum Admission {
    /// The peer was here already.
    Joined(Arc<Peer>),
    /// The peer is new.
    New(Arc<Peer>),
    /// Somebody is in its place and has to go first.
    After(Arc<Peer>),
}

fn began_anew() -> Rejection {
    (RejectReason::Superseded, "the connection began anew meanwhile".into())
}

impl Rank {
    fn new() -> Self {
        Self { connected: None, incarnation: 0, session: random_u64() }
    }
}
