//! A process's end of all its connections: the production path, link machines and inbound book, with modelled memory.
//!
//! What `xfer-transport` does with threads, locks and sockets is done here in one thread and in virtual time; every
//! decision is the core's.

mod greet;
mod receive;
mod send;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use xfer_transport_core::inbound::{Claim, Inbound};
use xfer_transport_core::link::{Due, Event as LinkEvent, LinkMachine};
use xfer_transport_core::message::{Hello, LinkRole};
use xfer_transport_core::path::{Cause, End as TransferEnd, LinkId, Path, PathConfig, PathEvent, Request, TransferId};
use xfer_transport_core::{Deadline, Lane, Measured, PeerId, Place, RegionId, RemoteRegion, Time};

use crate::memory::{MemoryId, Transfer, Use};
use crate::network::WireId;
use crate::outside::{Address, Outside};

/// The channel of session messages on every endpoint.
pub const CHANNEL: u16 = 2;

/// How often a process looks for peers that it is not connected to, and for links that it has lost.
const DIAL_EVERY: Duration = Duration::from_millis(200);

/// How long a call may take.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1000);

/// Why a peer or a link is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// It said goodbye.
    Left,
    /// The other end closed the connection.
    Lost(&'static str),
    /// The connection was reset: by the other end, or by somebody on the way there.
    Reset,
    /// It said nothing for so long.
    Silent(Duration),
    /// It broke the protocol.
    Violation(String),
    /// A later life of it, or another connection, is here.
    Replaced,
}

impl Down {
    /// Whether the other end is known to read nothing more of what was sent to it.
    fn proves_fence(&self) -> bool {
        matches!(self, Self::Left | Self::Lost(_))
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("it left"),
            Self::Lost(how) => f.write_str(how),
            Self::Reset => f.write_str("connection reset"),
            Self::Silent(time) => write!(f, "no byte for {time:?}"),
            Self::Violation(what) => write!(f, "it broke the protocol: {what}"),
            Self::Replaced => f.write_str("a later life of it is here"),
        }
    }
}

/// What the endpoint's user has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A message came.
    Message {
        /// From whom.
        from: PeerId,
        /// What it says.
        payload: Bytes,
    },
    /// A peer is gone.
    Down {
        /// Which.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// A write is over.
    Written {
        /// The number that its owner gave it.
        write: u64,
        /// CRC-32C of what was written, or why it wasn't.
        result: Result<u32, WriteFailure>,
    },
    /// A write's memory was held back, and is free now.
    Released {
        /// The number that its owner gave it.
        write: u64,
    },
}

/// Why a write did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFailure {
    /// Why.
    pub cause: Cause,
    /// Whether it is proven that nothing more of it will be written.
    pub fenced: bool,
}

/// A process's end of all its connections.
#[derive(Debug)]
pub struct Endpoint {
    /// Who this process is.
    pub id: PeerId,
    /// Tells it from others that claim to be it.
    pub nonce: u64,
    /// The job that it belongs to.
    pub job: String,
    /// What is added to virtual time to read this process's clock: no two processes share an origin.
    pub clock: Duration,
    /// The wire version that it speaks.
    pub version: u8,
    /// Whether it can open or accept connections.
    pub has_descriptors: bool,
    config: PathConfig,
    data_links: usize,
    peers: BTreeMap<u32, Peer>,
    ranks: BTreeMap<u32, Rank>,
    links: BTreeMap<LinkId, Link>,
    grants: BTreeMap<RegionId, Grant>,
    next_link: u32,
    next_dial: Time,
    /// What its user has not looked at yet.
    pub news: VecDeque<News>,
}

#[derive(Debug, Clone, Copy)]
struct Rank {
    incarnation: u32,
    session: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    id: PeerId,
    nonce: u64,
    session: u64,
}

#[derive(Debug)]
struct Peer {
    identity: Identity,
    our_session: u64,
    path: Path,
    inbound: Inbound,
    links: BTreeSet<LinkId>,
    transfers: BTreeMap<TransferId, Written>,
    quarantine: BTreeMap<TransferId, u64>,
    /// Whether a link ended in a way that doesn't prove that the peer reads from it no more.
    unproven: bool,
    dialled: bool,
}

#[derive(Debug, Clone, Copy)]
struct Written {
    write: u64,
    source: MemoryId,
    /// Which bytes of it: where they begin and end.
    part: (u64, u64),
    region: RegionId,
    /// The source must not be read any more.
    stopped: bool,
    begun: Time,
    deadline: Option<Deadline>,
}

#[derive(Debug, Clone, Copy)]
struct Grant {
    memory: MemoryId,
    to: PeerId,
    len_bytes: u64,
}

#[derive(Debug)]
struct Link {
    wire: WireId,
    end: usize,
    machine: LinkMachine,
    opening: Option<Opening>,
    peer: Option<u32>,
    role: LinkRole,
    greetings: VecDeque<Bytes>,
    beat: bool,
    arriving: Option<Arriving>,
    slot: Option<Slot>,
    paced_until: Option<Time>,
}

#[derive(Debug)]
struct Opening {
    hello: Hello,
    nonce: u64,
    until: Time,
}

/// A chunk that has begun to arrive.
#[derive(Debug, Clone, Copy)]
struct Arriving {
    claim: Claim,
    payload_crc32c: u32,
    /// Whether it was to be written when it began.
    wanted: bool,
    crc32c: u32,
    at: usize,
}

/// The one place through which a link writes granted memory.
#[derive(Debug, Clone, Copy)]
struct Slot {
    transfer: Transfer,
    region: RegionId,
    memory: MemoryId,
    epoch: u32,
    offset: u64,
}

impl Endpoint {
    /// An endpoint that is connected to nobody.
    pub fn new(id: PeerId, nonce: u64, clock: Duration, config: PathConfig, data_links: usize) -> Self {
        Self {
            id,
            nonce,
            job: "job".to_owned(),
            clock,
            version: xfer_transport_core::frame::VERSION,
            has_descriptors: true,
            config,
            data_links,
            peers: BTreeMap::new(),
            ranks: BTreeMap::new(),
            links: BTreeMap::new(),
            grants: BTreeMap::new(),
            next_link: 0,
            next_dial: Time::ZERO,
            news: VecDeque::new(),
        }
    }

    /// This process's clock.
    pub fn local(&self, now: Time) -> Time {
        now.after(self.clock)
    }

    /// The life of `rank` that is connected now.
    pub fn peer(&self, rank: u32) -> Option<PeerId> {
        self.peers.get(&rank).map(|peer| peer.identity.id)
    }

    /// What the path to `rank` carries, as measured.
    pub fn measured(&self, rank: u32) -> Option<Measured> {
        self.peers.get(&rank)?.path.measured()
    }

    /// Transfers that are not over, and those whose memory is held back.
    pub fn unfinished(&self) -> (usize, usize) {
        let peers = self.peers.values();
        peers.fold((0, 0), |(running, held), peer| (running + peer.transfers.len(), held + peer.quarantine.len()))
    }

    /// Links to `rank` that carry something.
    pub fn links_to(&self, rank: u32) -> usize {
        self.peers.get(&rank).map_or(0, |peer| peer.links.len())
    }

    // What its user asks for.

    /// Queues a message; what can't be sent is dropped, as its peer is gone.
    pub fn send(&mut self, out: &mut Outside, to: PeerId, payload: Bytes) {
        if let Some(peer) = self.peers.get_mut(&to.rank).filter(|peer| peer.identity.id == to) {
            // A full queue is a peer that takes nothing for so long that it is found dead.
            let _ = peer.path.send(CHANNEL, payload);
            self.pump(out);
        }
    }

    /// Begins to copy a part of `source` to the same place of granted memory; its end comes as [`News::Written`]. `false` if
    /// the peer is not connected.
    pub fn write(
        &mut self,
        out: &mut Outside,
        to: PeerId,
        (source, part): (MemoryId, (u64, u64)),
        remote: RemoteRegion,
        deadline: Option<Deadline>,
        write: u64,
    ) -> bool {
        let now = self.local(out.now);
        let Some(peer) = self.peers.get_mut(&to.rank).filter(|peer| peer.identity.id == to) else { return false };
        let (lane, region, offset, len_bytes) = (Lane::Rescue, remote.id, part.0, part.1 - part.0);
        let request = Request { lane, region, offset, len_bytes, deadline, order: 0 };
        let Ok(id) = peer.path.write(request, now) else { return false };
        let written = Written { write, source, part, region: remote.id, stopped: false, begun: out.now, deadline };
        peer.transfers.insert(id, written);
        peer.path.handle_timeout(now);
        self.settle(out, to.rank);
        self.pump(out);
        true
    }

    /// Ends a write early. Nothing if it is over.
    pub fn cancel(&mut self, out: &mut Outside, write: u64) {
        let now = self.local(out.now);
        let mut found = None;
        for (rank, peer) in &mut self.peers {
            if let Some((id, written)) = peer.transfers.iter_mut().find(|(_, written)| written.write == write) {
                written.stopped = true;
                peer.path.cancel(*id, now);
                found = Some(*rank);
            }
        }
        if let Some(rank) = found {
            self.settle(out, rank);
            self.pump(out);
        }
    }

    /// Lets `to`, and nobody else, write into `memory`.
    pub fn grant(&mut self, out: &mut Outside, memory: MemoryId, to: PeerId) -> RemoteRegion {
        let id = RegionId(out.random.number());
        let len_bytes = out.memory.bytes(memory).len() as u64;
        out.memory.set_use(memory, Use::Granted(to));
        out.checks.granted(id, memory);
        self.grants.insert(id, Grant { memory, to, len_bytes });
        RemoteRegion { id, len_bytes, place: Place::Host }
    }

    /// Ends a grant. When this returns, no byte of the memory is written by its peer any more.
    pub fn revoke(&mut self, out: &mut Outside, region: RegionId) {
        let Some(grant) = self.grants.remove(&region) else { return };
        for link in self.links.values_mut() {
            link.slot.take_if(|slot| slot.region == region);
        }
        out.memory.set_use(grant.memory, Use::Fenced);
    }

    // Time.

    /// When to call [`Endpoint::on_timers`], in virtual time.
    pub fn poll_timeout(&self) -> Option<Time> {
        let links = self.links.values().flat_map(|link| {
            let opening = link.opening.as_ref().map(|opening| opening.until);
            [link.machine.poll_timeout().map(|at| self.world(at)), link.paced_until.map(|at| self.world(at)), opening]
        });
        let paths = self.peers.values().map(|peer| peer.path.poll_timeout().map(|at| self.world(at)));
        links.chain(paths).flatten().min().into_iter().chain([self.next_dial]).min()
    }

    fn world(&self, local: Time) -> Time {
        Time::from_nanos(local.as_nanos().saturating_sub(self.clock.as_nanos() as u64))
    }

    /// Does what is due.
    pub fn on_timers(&mut self, out: &mut Outside) {
        let now = self.local(out.now);
        let mut dead = Vec::new();
        for (id, link) in &mut self.links {
            while let Some(due) = link.machine.handle_timeout(now) {
                match due {
                    Due::Beat => {
                        link.beat = true;
                        if let Some(peer) = link.peer.and_then(|rank| self.peers.get_mut(&rank)) {
                            peer.path.tick();
                        }
                    }
                    Due::Suspect => {}
                    Due::Dead(silence) => dead.push((*id, Down::Silent(silence))),
                }
            }
            if link.opening.as_ref().is_some_and(|opening| opening.until <= out.now) {
                dead.push((*id, Down::Lost("the call timed out")));
            }
        }
        for (id, reason) in dead {
            self.end_link(out, id, &reason);
        }
        let ranks: Vec<u32> = self.peers.keys().copied().collect();
        for rank in ranks {
            if let Some(peer) = self.peers.get_mut(&rank) {
                peer.path.handle_timeout(now);
                if peer.path.is_overrun() {
                    let reason = Down::Violation("it leaves too many messages unanswered".to_owned());
                    self.bring_down(out, rank, &reason);
                }
            }
            self.settle(out, rank);
        }
        if self.next_dial <= out.now {
            self.next_dial = out.now.after(DIAL_EVERY + out.random.within(DIAL_EVERY / 4));
            self.dial(out);
        }
        self.pump(out);
    }

    /// Calls whoever is in the directory and not connected, and opens again what links were lost.
    fn dial(&mut self, out: &mut Outside) {
        if !self.has_descriptors {
            return;
        }
        for rank in 0..out.directory.len() as u32 {
            let Some(address) = out.directory[rank as usize].filter(|_| rank != self.id.rank) else { continue };
            if self.links.values().any(|link| is_call_to(link, rank)) {
                continue;
            }
            match self.peers.get(&rank) {
                // The lower rank calls, so that usually nobody calls twice.
                None if self.id.rank < rank || out.random.per_mille(300) => {
                    self.call(out, address, LinkRole::Control);
                }
                None => {}
                // Whoever hears of a later life calls it.
                Some(peer) if peer.identity.id.incarnation < address.id.incarnation => {
                    self.call(out, address, LinkRole::Control);
                }
                Some(peer) if peer.dialled && peer.links.len() <= self.data_links => {
                    let has_control = peer.links.iter().any(|link| self.links[link].role == LinkRole::Control);
                    let role = if has_control { LinkRole::Data } else { LinkRole::Control };
                    let address = Address { id: peer.identity.id, nonce: peer.identity.nonce };
                    self.call(out, address, role);
                }
                Some(_) => {}
            }
        }
    }

    // The end of links and peers.

    /// A link is over.
    fn end_link(&mut self, out: &mut Outside, id: LinkId, reason: &Down) {
        let Some(link) = self.links.remove(&id) else { return };
        // What was sent before the end may be lost with it, or arrive all the same.
        let reset = !matches!(reason, Down::Left) && out.random.per_mille(500);
        out.close_wire(link.wire, link.end, reset);
        let Some(rank) = link.peer else { return };
        out.note(self.id, "link", || format!("link {} to rank {rank} is over: {reason}", id.0));
        let now = self.local(out.now);
        if let Some(peer) = self.peers.get_mut(&rank) {
            peer.links.remove(&id);
            peer.unproven |= !reason.proves_fence();
            peer.inbound.link_lost(id);
            if peer.links.is_empty() || matches!(reason, Down::Left | Down::Violation(_)) {
                self.bring_down(out, rank, reason);
            } else {
                peer.path.link_lost(id, now);
                self.settle(out, rank);
                self.pump(out);
            }
        }
    }

    /// A peer is gone: its links stop, its transfers end, and nothing of it lands any more.
    fn bring_down(&mut self, out: &mut Outside, rank: u32, reason: &Down) {
        let now = self.local(out.now);
        let Some(peer) = self.peers.get_mut(&rank) else { return };
        let proven = reason.proves_fence() && !peer.unproven;
        peer.path.close(proven, now);
        self.settle(out, rank);
        let Some(peer) = self.peers.remove(&rank) else { return };
        for write in peer.quarantine.into_values() {
            self.news.push_back(News::Released { write });
        }
        for id in peer.links {
            if let Some(link) = self.links.remove(&id) {
                let reset = out.random.per_mille(500);
                out.close_wire(link.wire, link.end, reset);
            }
        }
        let session = out.random.number();
        self.ranks.insert(rank, Rank { incarnation: peer.identity.id.incarnation, session });
        let (id, reason) = (peer.identity.id, reason.to_string());
        out.note(self.id, "link", || format!("{id} is gone: {reason}"));
        self.news.push_back(News::Down { peer: id, reason });
    }

    /// The process ends: its kernel closes what it had open, or its machine is gone and says nothing.
    pub fn die(&mut self, out: &mut Outside, silently: bool) {
        for link in std::mem::take(&mut self.links).into_values() {
            if silently {
                out.network.wire(link.wire).ends[link.end] = crate::network::End::Closed;
            } else {
                let reset = out.random.per_mille(500);
                out.close_wire(link.wire, link.end, reset);
            }
        }
        for grant in std::mem::take(&mut self.grants).into_values() {
            out.memory.set_use(grant.memory, Use::Free);
        }
    }

    /// Takes in what a path has to say.
    fn settle(&mut self, out: &mut Outside, rank: u32) {
        let me = self.id;
        let Some(peer) = self.peers.get_mut(&rank) else { return };
        while let Some(event) = peer.path.poll_event() {
            match event {
                PathEvent::Stop(id) => {
                    if let Some(written) = peer.transfers.get_mut(&id) {
                        written.stopped = true;
                    }
                }
                PathEvent::Ended(id, end) => {
                    let key = Transfer { from: me, session: peer.our_session, id };
                    let Some(written) = peer.transfers.remove(&id) else {
                        out.checks.fail("P2", format!("transfer {} of {me} ended twice", id.0));
                        continue;
                    };
                    out.note(me, "xfer", || format!("write {} to rank {rank}: {}", written.write, in_words(&end)));
                    let (source, part, region) = (written.source, written.part, written.region);
                    let about = crate::check::Ended { source, part, region, end: &end };
                    out.checks.transfer_ended(
                        out.now,
                        &out.memory,
                        key,
                        &about,
                        written.begun,
                        written
                            .deadline
                            .map(|at| Time::from_nanos(at.0.as_nanos().saturating_sub(self.clock.as_nanos() as u64))),
                    );
                    let result = match end {
                        TransferEnd::Done { crc32c, .. } => Ok(crc32c),
                        TransferEnd::Failed { cause, fenced } => {
                            if !fenced {
                                peer.quarantine.insert(id, written.write);
                            }
                            Err(WriteFailure { cause, fenced })
                        }
                    };
                    self.news.push_back(News::Written { write: written.write, result });
                }
                PathEvent::Released(id) => {
                    if let Some(write) = peer.quarantine.remove(&id) {
                        out.note(me, "xfer", || format!("write {write} to rank {rank}: released"));
                        self.news.push_back(News::Released { write });
                    }
                }
            }
        }
    }
}

/// Whether a link is a call to `rank` that was not answered yet.
fn is_call_to(link: &Link, rank: u32) -> bool {
    link.opening.as_ref().is_some_and(|opening| opening.hello.to.rank == rank)
}

fn in_words(end: &TransferEnd) -> String {
    match end {
        TransferEnd::Done { len_bytes, retried_chunks, .. } => {
            format!("done, {len_bytes} bytes, {retried_chunks} chunks sent again")
        }
        TransferEnd::Failed { cause, fenced: true } => format!("{cause:?}, fenced"),
        TransferEnd::Failed { cause, fenced: false } => format!("{cause:?}, in quarantine"),
    }
}
