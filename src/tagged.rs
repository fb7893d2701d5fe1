//! Tagged sends and receives: a tensor from one rank to another, matched by tag, over granted writes.
//!
//! The receiver announces where the bytes may land (a grant), the sender writes them straight there. Neither side needs to
//! be first, nothing is buffered on the way, and sends and receives of one (peer, tag) match in posting order.

pub(crate) mod wire;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use xfer_transport::{
    Cancelled, Channel, Endpoint, Grant, Incoming, PeerEvent, Region, TransferError, TransferHandle, Transferred,
};
use xfer_transport_core::{Lane, PeerId, Place, RemoteRegion};

use wire::{Gone, Message};
use xfer_migrate::Bell;

/// The channel of tagged messages on every endpoint.
const CHANNEL: Channel = Channel(1);

/// Longest tag in bytes: a tag names a tensor of a step, a longer one is a mistake.
pub const TAG_LEN_MAX_BYTES: usize = 256;

/// How many receives one peer may announce before a send matches them. A pipeline posts a few per microbatch; a peer
/// beyond this has lost count, and its announcements must not grow our memory.
pub const WANTS_MAX_PER_PEER: usize = 65_536;

/// Why a tagged send or receive ended without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TaggedError {
    /// The other rank is not connected, or died on the way.
    #[error("rank {rank} is lost while `{tag}` was to move ({reason}); a migration or a restart must replace it")]
    PeerLost {
        /// The other rank.
        rank: u32,
        /// The tag.
        tag: String,
        /// What the transport saw.
        reason: String,
    },
    /// The two sides posted different sizes.
    #[error("`{tag}`: rank {rank} posted {theirs} bytes, this rank {ours}; both must post the same shape and dtype")]
    SizeMismatch {
        /// The other rank.
        rank: u32,
        /// The tag.
        tag: String,
        /// Bytes posted there.
        theirs: u64,
        /// Bytes posted here.
        ours: u64,
    },
    /// Cancelled, here or at the other side.
    #[error("`{tag}` with rank {rank} was cancelled")]
    Cancelled {
        /// The other rank.
        rank: u32,
        /// The tag.
        tag: String,
    },
    /// Its deadline passed first.
    #[error("`{tag}` with rank {rank} did not move before its deadline")]
    Expired {
        /// The other rank.
        rank: u32,
        /// The tag.
        tag: String,
    },
    /// It could not be posted.
    #[error("`{tag}` with rank {rank} was not posted: {reason}")]
    Refused {
        /// The other rank.
        rank: u32,
        /// The tag.
        tag: String,
        /// Why.
        reason: String,
    },
}

/// Tagged sends and receives over one endpoint.
#[derive(Clone)]
pub struct Tagged {
    inner: Arc<Inner>,
}

/// How a tagged operation ended when it was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Neither side touches its memory any more.
    Fenced,
    /// It was complete before.
    Completed,
    /// The other side did not confirm in time: the memory is kept alive, and must not be used again.
    Quarantined,
}

/// One send or receive under way. Dropping it cancels nothing.
#[derive(Clone)]
pub struct Operation {
    shared: Arc<OperationShared>,
    owner: Weak<Inner>,
}

struct OperationShared {
    rank: u32,
    tag: String,
    id: u64,
    bell: Arc<Bell>,
    result: Mutex<Option<Result<u64, TaggedError>>>,
}

struct Inner {
    endpoint: Endpoint,
    bell: Arc<Bell>,
    state: Mutex<State>,
}

type Key = (u32, String);

#[derive(Default)]
struct State {
    next_id: u64,
    /// Sends that no receive has matched yet, in posting order.
    sends: HashMap<Key, VecDeque<PendingSend>>,
    /// Receives that peers announced and no send has matched yet, in posting order.
    wants: HashMap<Key, VecDeque<Want>>,
    wants_of: HashMap<u32, usize>,
    /// Our own receives, by id.
    recvs: HashMap<u64, PendingRecv>,
    /// Sends whose bytes are moving, by our id.
    moving: HashMap<u64, TransferHandle>,
}

struct PendingSend {
    operation: Arc<OperationShared>,
    peer: PeerId,
    region: Region,
    lane: Lane,
}

struct Want {
    id: u64,
    from: PeerId,
    remote: RemoteRegion,
}

struct PendingRecv {
    operation: Arc<OperationShared>,
    peer: PeerId,
    len_bytes: u64,
    grant: Grant,
}

impl Tagged {
    /// Serves tagged messages of `endpoint`; waiters are woken through `bell`.
    pub fn new(endpoint: &Endpoint, bell: Arc<Bell>) -> std::io::Result<Self> {
        let inner = Arc::new(Inner { endpoint: endpoint.clone(), bell, state: Mutex::new(State::default()) });
        let incoming = endpoint.subscribe(CHANNEL);
        let weak = Arc::downgrade(&inner);
        thread::Builder::new().name("xfer-tagged".into()).spawn(move || {
            for Incoming { from, payload } in incoming {
                let Some(inner) = weak.upgrade() else { return };
                match Message::decode(&payload) {
                    Ok(message) => inner.receive(from, message),
                    Err(error) => tracing::warn!(peer = %from, %error, "dropped a message"),
                }
            }
        })?;
        let events = endpoint.events();
        let weak = Arc::downgrade(&inner);
        thread::Builder::new().name("xfer-tagged-peers".into()).spawn(move || {
            for event in events {
                let Some(inner) = weak.upgrade() else { return };
                if let PeerEvent::Down { peer, reason } = event {
                    inner.peer_down(peer, &reason.to_string());
                }
            }
        })?;
        Ok(Self { inner })
    }

    /// Sends all of `region` to rank `to`. Complete once the receiver has it, verified.
    pub fn send(&self, region: Region, to: u32, tag: &str, lane: Lane) -> Operation {
        let operation = self.operation(to, tag);
        let Some(peer) = self.admit(&operation) else {
            return self.handle(operation);
        };
        let mut state = self.inner.state();
        let key = (to, tag.to_owned());
        let send = PendingSend { operation: Arc::clone(&operation), peer, region, lane };
        match state.take_want(&key) {
            Some(want) => self.inner.start(state, send, want),
            None => state.sends.entry(key).or_default().push_back(send),
        }
        self.handle(operation)
    }

    /// Receives into all of `region` from rank `source`. Complete once every byte is there and verified.
    pub fn recv(&self, region: &Region, source: u32, tag: &str) -> Operation {
        let operation = self.operation(source, tag);
        let Some(peer) = self.admit(&operation) else {
            return self.handle(operation);
        };
        let grant = match self.inner.endpoint.grant(region, peer) {
            Ok(grant) => grant,
            Err(error) => {
                operation.finish(Err(operation.refused(error.to_string())));
                return self.handle(operation);
            }
        };
        let want = Message::Want {
            id: operation.id,
            region: grant.remote().id,
            len_bytes: region.len_bytes(),
            tag: tag.to_owned(),
        };
        self.inner.state().recvs.insert(
            operation.id,
            PendingRecv { operation: Arc::clone(&operation), peer, len_bytes: region.len_bytes(), grant },
        );
        if let Err(error) = self.inner.endpoint.send(peer, CHANNEL, want.encode()) {
            self.inner.state().recvs.remove(&operation.id);
            operation.finish(Err(operation.peer_lost(error.to_string())));
        }
        self.handle(operation)
    }

    fn operation(&self, rank: u32, tag: &str) -> Arc<OperationShared> {
        let mut state = self.inner.state();
        state.next_id += 1;
        Arc::new(OperationShared {
            rank,
            tag: tag.to_owned(),
            id: state.next_id,
            bell: Arc::clone(&self.inner.bell),
            result: Mutex::new(None),
        })
    }

    /// The peer an operation is with, or `None` after failing it.
    fn admit(&self, operation: &OperationShared) -> Option<PeerId> {
        if operation.tag.len() > TAG_LEN_MAX_BYTES {
            let reason = format!("its tag has {} bytes, at most {TAG_LEN_MAX_BYTES} are allowed", operation.tag.len());
            operation.finish(Err(operation.refused(reason)));
            return None;
        }
        let peer = self.inner.endpoint.peer(operation.rank);
        if peer.is_none() {
            operation.finish(Err(operation.peer_lost("not connected".into())));
        }
        peer
    }

    fn handle(&self, shared: Arc<OperationShared>) -> Operation {
        Operation { shared, owner: Arc::downgrade(&self.inner) }
    }
}

impl fmt::Debug for Tagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.state();
        f.debug_struct("Tagged")
            .field("sends", &state.sends.len())
            .field("recvs", &state.recvs.len())
            .field("moving", &state.moving.len())
            .finish()
    }
}

impl Operation {
    /// How it ended, if it has: the bytes moved, or why not.
    pub fn result(&self) -> Option<Result<u64, TaggedError>> {
        self.shared.lock().clone()
    }

    /// Waits at most `timeout` (`None`: for ever); `None` when it has not ended by then.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Result<u64, TaggedError>> {
        self.shared.bell.wait_for(timeout, || self.result())
    }

    /// Stops it for sure.
    pub fn cancel(&self) -> Stopped {
        match self.owner.upgrade() {
            Some(inner) => inner.cancel(&self.shared),
            None => Stopped::Fenced,
        }
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("rank", &self.shared.rank)
            .field("tag", &self.shared.tag)
            .field("result", &*self.shared.lock())
            .finish()
    }
}

impl OperationShared {
    fn lock(&self) -> MutexGuard<'_, Option<Result<u64, TaggedError>>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the operation; the first end stays.
    fn finish(&self, result: Result<u64, TaggedError>) {
        self.lock().get_or_insert(result);
        self.bell.ring();
    }

    fn peer_lost(&self, reason: String) -> TaggedError {
        TaggedError::PeerLost { rank: self.rank, tag: self.tag.clone(), reason }
    }

    fn refused(&self, reason: String) -> TaggedError {
        TaggedError::Refused { rank: self.rank, tag: self.tag.clone(), reason }
    }

    fn cancelled(&self) -> TaggedError {
        TaggedError::Cancelled { rank: self.rank, tag: self.tag.clone() }
    }

    fn size_mismatch(&self, ours: u64, theirs: u64) -> TaggedError {
        TaggedError::SizeMismatch { rank: self.rank, tag: self.tag.clone(), theirs, ours }
    }
}

impl State {
    fn take_want(&mut self, key: &Key) -> Option<Want> {
        let queue = self.wants.get_mut(key)?;
        let want = queue.pop_front();
        if queue.is_empty() {
            self.wants.remove(key);
        }
        if want.is_some() {
            self.forget_want(key.0);
        }
        want
    }

    fn take_send(&mut self, key: &Key) -> Option<PendingSend> {
        let queue = self.sends.get_mut(key)?;
        let send = queue.pop_front();
        if queue.is_empty() {
            self.sends.remove(key);
        }
        send
    }

    fn forget_want(&mut self, rank: u32) {
        if let Some(count) = self.wants_of.get_mut(&rank) {
            *count -= 1;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(self: &Arc<Self>, from: PeerId, message: Message) {
        match message {
            Message::Want { id, region, len_bytes, tag } => {
                let want = Want { id, from, remote: RemoteRegion { id: region, len_bytes, place: Place::Host } };
                self.wanted((from.rank, tag), want);
            }
            Message::Unwant { id } => {
                let mut state = self.state();
                let mut forgotten = 0;
                state.wants.retain(|(rank, _), queue| {
                    if *rank == from.rank {
                        let before = queue.len();
                        queue.retain(|want| want.id != id);
                        forgotten += before - queue.len();
                    }
                    !queue.is_empty()
                });
                (0..forgotten).for_each(|_| state.forget_want(from.rank));
            }
            Message::Done { id } => {
                if let Some(recv) = self.take_recv(id, from) {
                    recv.grant.revoke();
                    recv.operation.finish(Ok(recv.len_bytes));
                }
            }
            Message::Gone { id, reason } => {
                if let Some(recv) = self.take_recv(id, from) {
                    recv.grant.revoke();
                    let error = match reason {
                        Gone::Size { sender_bytes } => recv.operation.size_mismatch(recv.len_bytes, sender_bytes),
                        Gone::Stopped => recv.operation.cancelled(),
                    };
                    recv.operation.finish(Err(error));
                }
            }
        }
    }

    fn wanted(self: &Arc<Self>, key: Key, want: Want) {
        let mut state = self.state();
        if let Some(send) = state.take_send(&key) {
            self.start(state, send, want);
            return;
        }
        let count = state.wants_of.entry(key.0).or_default();
        if *count >= WANTS_MAX_PER_PEER {
            tracing::warn!(peer = %want.from, limit = WANTS_MAX_PER_PEER, "dropped a receive beyond the limit");
            return;
        }
        *count += 1;
        state.wants.entry(key).or_default().push_back(want);
    }

    fn take_recv(&self, id: u64, from: PeerId) -> Option<PendingRecv> {
        let mut state = self.state();
        // Only the peer it waits for may end a receive.
        if state.recvs.get(&id)?.peer != from {
            return None;
        }
        state.recvs.remove(&id)
    }

    /// Moves the bytes of a matched pair.
    ///
    /// Takes the lock it was matched under, so that a cancel finds the send either waiting or moving, never between.
    fn start(self: &Arc<Self>, mut state: MutexGuard<'_, State>, send: PendingSend, want: Want) {
        let ours = send.region.len_bytes();
        if want.remote.len_bytes != ours {
            drop(state);
            let gone = Message::Gone { id: want.id, reason: Gone::Size { sender_bytes: ours } };
            // If the peer is gone, its receive ends by that.
            let _ = self.endpoint.send(want.from, CHANNEL, gone.encode());
            send.operation.finish(Err(send.operation.size_mismatch(ours, want.remote.len_bytes)));
            return;
        }
        let handle = self.endpoint.write(want.from, send.region.all(), want.remote.all(), send.lane, None);
        state.moving.insert(send.operation.id, handle.clone());
        drop(state);
        let weak = Arc::downgrade(self);
        handle.on_done(Box::new(move |result| {
            if let Some(inner) = weak.upgrade() {
                inner.moved(send, &want, result);
            }
        }));
    }

    /// A write of a matched pair has ended.
    fn moved(self: &Arc<Self>, send: PendingSend, want: &Want, result: &Result<Transferred, TransferError>) {
        let operation = &send.operation;
        let mut state = self.state();
        state.moving.remove(&operation.id);
        if matches!(result, Err(TransferError::Revoked { .. })) {
            // The receive was cancelled as the bytes left: the send is as it was before they met.
            let key = (operation.rank, operation.tag.clone());
            match state.take_want(&key) {
                Some(next) => self.start(state, send, next),
                None => state.sends.entry(key).or_default().push_front(send),
            }
            return;
        }
        drop(state);
        let (message, result) = match result {
            Ok(moved) => (Message::Done { id: want.id }, Ok(moved.bytes)),
            Err(error) => {
                let error = match error {
                    TransferError::Cancelled => operation.cancelled(),
                    TransferError::Expired => TaggedError::Expired { rank: operation.rank, tag: operation.tag.clone() },
                    other => operation.peer_lost(other.to_string()),
                };
                (Message::Gone { id: want.id, reason: Gone::Stopped }, Err(error))
            }
        };
        let _ = self.endpoint.send(want.from, CHANNEL, message.encode());
        operation.finish(result);
    }

    fn cancel(&self, operation: &OperationShared) -> Stopped {
        let mut state = self.state();
        if let Some(recv) = state.recvs.remove(&operation.id) {
            drop(state);
            recv.grant.revoke();
            let _ = self.endpoint.send(recv.peer, CHANNEL, Message::Unwant { id: operation.id }.encode());
            operation.finish(Err(operation.cancelled()));
            return Stopped::Fenced;
        }
        let key = (operation.rank, operation.tag.clone());
        if let Some(queue) = state.sends.get_mut(&key) {
            let before = queue.len();
            queue.retain(|send| send.operation.id != operation.id);
            if queue.len() < before {
                if queue.is_empty() {
                    state.sends.remove(&key);
                }
                drop(state);
                operation.finish(Err(operation.cancelled()));
                return Stopped::Fenced;
            }
        }
        let moving = state.moving.get(&operation.id).cloned();
        drop(state);
        match moving {
            Some(handle) => match handle.cancel() {
                Cancelled::Fenced => Stopped::Fenced,
                Cancelled::Completed(_) => Stopped::Completed,
                Cancelled::Quarantined => Stopped::Quarantined,
            },
            None => match &*operation.lock() {
                Some(Ok(_)) => Stopped::Completed,
                _ => Stopped::Fenced,
            },
        }
    }

    /// Everything with one life of a rank ends when that life does.
    fn peer_down(&self, peer: PeerId, reason: &str) {
        let mut ended = Vec::new();
        let mut grants = Vec::new();
        {
            let mut state = self.state();
            for (_, queue) in state.sends.iter_mut().filter(|((rank, _), _)| *rank == peer.rank) {
                let (gone, kept) = std::mem::take(queue).into_iter().partition(|send| send.peer == peer);
                *queue = kept;
                let gone: VecDeque<PendingSend> = gone;
                ended.extend(gone.into_iter().map(|send| send.operation));
            }
            state.sends.retain(|_, queue| !queue.is_empty());
            let mut forgotten = 0;
            state.wants.retain(|_, queue| {
                let before = queue.len();
                queue.retain(|want| want.from != peer);
                forgotten += before - queue.len();
                !queue.is_empty()
            });
            (0..forgotten).for_each(|_| state.forget_want(peer.rank));
            let lost: Vec<u64> = state.recvs.iter().filter(|(_, recv)| recv.peer == peer).map(|(id, _)| *id).collect();
            for id in lost {
                if let Some(recv) = state.recvs.remove(&id) {
                    ended.push(recv.operation);
                    grants.push(recv.grant);
                }
            }
        }
        drop(grants);
        for operation in ended {
            operation.finish(Err(operation.peer_lost(reason.to_owned())));
        }
        // Sends that are moving end through their own transfer.
    }
}
