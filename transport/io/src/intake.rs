//! The receiving end of a link: where arriving bytes may go, what came of them, and what is answered.

mod slot;

use std::sync::Arc;

use bytes::Bytes;
use xfer_transport_core::RegionId;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::inbound::{Begin, Claim};
use xfer_transport_core::integrity::crc32c;
use xfer_transport_core::message::{Ack, LinkMessage, Refusal};
use xfer_transport_core::path::{LinkId, TransferId};

use crate::backend::LinkError;
use crate::grants::Grants;
use crate::memory::{Slice, View};
use crate::peer::Peer;
use crate::stats::{Counters, add};
use crate::unsummed::sums;

use slot::Target;
pub(crate) use slot::{Pulling, Slot};

/// Takes in what arrives on one link.
#[derive(Debug)]
pub struct Intake {
    link: LinkId,
    slot: Arc<Slot>,
    grants: Arc<Grants>,
    counters: Arc<Counters>,
    /// Who is at the other end, once that is known.
    peer: Option<Arc<Peer>>,
    /// It carries signs of life and nothing else.
    only_beats: bool,
    /// The chunk that is being dealt with.
    chunk: Option<Arriving>,
    chunks: u64,
    /// The link is about to end: chunks are read only to get at what follows them.
    discards: bool,
    pub(crate) acks: Vec<Ack>,
    pub(crate) replies: Vec<LinkMessage>,
    pub(crate) messages: Vec<(FrameHeader, Bytes)>,
    pub(crate) heard_bytes: u64,
}

/// A chunk that is under way.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// Its number among those of the link.
    number: u64,
    header: FrameHeader,
    /// Whether it was to be written when it began.
    wanted: bool,
    crc32c: u32,
}

/// Where the next bytes of a chunk go.
#[derive(Debug)]
pub enum Landing<'a> {
    /// Into the granted memory.
    Memory(&'a Slice),
    /// Nowhere: they are of a transfer or grant that is over.
    Discard,
}

impl Intake {
    pub(crate) fn new(link: LinkId, slot: Arc<Slot>, grants: Arc<Grants>, counters: Arc<Counters>) -> Self {
        grants.register(&slot);
        Self {
            link,
            slot,
            grants,
            counters,
            peer: None,
            only_beats: false,
            chunk: None,
            chunks: 0,
            discards: false,
            acks: Vec::new(),
            replies: Vec::new(),
            messages: Vec::new(),
            heard_bytes: 0,
        }
    }

    /// Who is at the other end is known; or, with `None`, not of interest any more.
    pub(crate) fn set_peer(&mut self, peer: Option<Arc<Peer>>) {
        self.peer = peer;
    }

    /// Who is at the other end is known, and nothing but signs of life is taken from it.
    pub(crate) fn take_only_beats(&mut self) {
        self.only_beats = true;
    }

    /// From here on nothing is written.
    pub(crate) fn discard_all(&mut self) {
        self.discards = true;
        self.slot.clear();
    }

    /// Whether what arrived so far has to be dealt with before anything else is taken in: what follows a greeting
    /// depends on whom it introduced.
    pub fn is_paused(&self) -> bool {
        self.peer.is_none() && !self.only_beats && !self.discards && !self.messages.is_empty()
    }

    /// Whether it is known who is at the other end, and that more than signs of life comes from there.
    pub(crate) fn knows_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// The other end has shown memory, which it may lend.
    pub(crate) fn shown(&self, id: u64, view: &Arc<View>) {
        if let Some(peer) = &self.peer {
            peer.loans.shown(id, view);
        }
    }

    /// Whether something has arrived that the path has to know of.
    pub(crate) fn has_news(&self) -> bool {
        !(self.acks.is_empty() && self.replies.is_empty() && self.messages.is_empty())
    }

    /// Whether something has arrived that is more than a sign of life, or is arriving.
    pub(crate) fn has_work(&self) -> bool {
        let works = |(header, _): &(FrameHeader, Bytes)| header.kind != FrameKind::Beat;
        self.chunk.is_some() || !(self.acks.is_empty() && self.replies.is_empty()) || self.messages.iter().any(works)
    }

    /// Bytes have arrived, of whatever kind: the other end is alive.
    pub fn heard(&mut self, bytes: usize) {
        self.heard_bytes += bytes as u64;
    }

    /// A message begins to arrive. Who has not been introduced may only greet, which takes few bytes: what a stranger
    /// can make us hold is bounded by that.
    pub fn begin_message(&self, header: &FrameHeader) -> Result<(), LinkError> {
        let kind = header.kind;
        match (&self.peer, self.only_beats) {
            (None, true) if !matches!(kind, FrameKind::Greeting | FrameKind::Beat) => {
                Err(LinkError::Violation(format!("a {kind:?} frame on a link for signs of life")))
            }
            (None, false) if !self.discards && kind != FrameKind::Greeting => {
                Err(LinkError::Violation(format!("a {kind:?} frame before the greeting")))
            }
            _ => Ok(()),
        }
    }

    /// A message has arrived whole.
    pub fn message(&mut self, header: FrameHeader, payload: Bytes) -> Result<(), LinkError> {
        if crc32c(&payload) != header.payload_crc32c {
            return Err(LinkError::Violation(format!("a damaged {:?} frame", header.kind)));
        }
        self.messages.push((header, payload));
        Ok(())
    }

    /// A chunk begins to arrive. Its bytes follow through [`Intake::place`], in order, and then
    /// [`Intake::finish_chunk`].
    pub fn begin_chunk(&mut self, header: FrameHeader) -> Result<(), LinkError> {
        self.chunks += 1;
        let number = self.chunks;
        if self.discards {
            self.chunk = Some(Arriving { number, header, wanted: false, crc32c: 0 });
            return Ok(());
        }
        let Some(peer) = self.peer.clone() else {
            return Err(LinkError::Violation("a chunk before the greeting".into()));
        };
        debug_assert_eq!(header.kind, FrameKind::Data);
        let transfer = TransferId(header.transfer);
        let mut displaced = None;
        let mut wanted = false;
        {
            // Both locks are held until the slot is filled: a fence that comes later finds it there.
            let table = self.grants.lock();
            let Some(mut arrivals) = peer.lock_arrivals() else {
                return Err(LinkError::Closed);
            };
            let inbound = &mut arrivals.inbound;
            // What was applied before its grant was revoked stays applied.
            match inbound.begin(self.link, Claim::of(&header)) {
                Begin::Place { displaced: other } => {
                    displaced = other;
                    match table.look_up(RegionId(header.region), peer.id(), header.offset, header.len_bytes) {
                        Ok((entry, memory)) => {
                            wanted = true;
                            let writing = memory.begin_to_write();
                            let (offset, pulling) = (header.offset, None);
                            self.slot.fill(Target { number, transfer, offset, memory, entry, writing, pulling });
                        }
                        Err(refusal) => {
                            inbound.abandoned(self.link, &Claim::of(&header));
                            self.replies.push(LinkMessage::Refused { transfer, refusal });
                        }
                    }
                }
                Begin::Applied { crc32c } => self.acks.push(Ack { transfer, offset: header.offset, crc32c }),
                Begin::Over => {}
                Begin::TooMany => return Err(LinkError::Violation("too many transfers or chunks at once".into())),
                Begin::Twice => return Err(LinkError::Violation("a chunk comes twice at once".into())),
            }
        }
        if let Some(slot) = displaced.and_then(|link| peer.slot(link))
            && !slot.clear_chunk(transfer, header.offset)
        {
            return Err(LinkError::Violation(
                "a device still writes an earlier copy of a chunk that comes again".into(),
            ));
        }
        self.chunk = Some(Arriving { number, header, wanted, crc32c: 0 });
        Ok(())
    }

    /// Sets the chunk that is being dealt with aside, and takes up another, or none: a device brings several at once. What ends one
    /// ends the one that is being dealt with.
    pub(crate) fn exchange(&mut self, chunk: &mut Option<Arriving>) {
        std::mem::swap(&mut self.chunk, chunk);
    }

    /// Lets `copy` put the chunk's bytes from `at` on where they belong; it returns how many it put. It must not
    /// wait: a fence waits for it.
    pub fn place<E>(&mut self, at: usize, copy: impl FnOnce(Landing<'_>) -> Result<usize, E>) -> Result<usize, E> {
        self.place_summed(|landing, crc32c| {
            let Landing::Memory(memory) = landing else { return Ok((copy(landing)?, crc32c)) };
            let copied = copy(Landing::Memory(memory))?;
            // Summed from where they landed, while they are still in the cache.
            Ok((copied, if sums() { memory.crc32c_append(crc32c, at, copied) } else { 0 }))
        })
    }

    /// The same for one who sums what it puts: it is given the sum of what came before, and returns that of all.
    pub(crate) fn place_summed<E>(
        &mut self,
        copy: impl FnOnce(Landing<'_>, u32) -> Result<(usize, u32), E>,
    ) -> Result<usize, E> {
        let Some(chunk) = &mut self.chunk else { return copy(Landing::Discard, 0).map(|(copied, _)| copied) };
        let held = self.slot.lock();
        match held.target(chunk.number) {
            Some(target) if chunk.wanted => {
                let (copied, crc32c) = copy(Landing::Memory(&target.memory), chunk.crc32c)?;
                chunk.crc32c = if sums() { crc32c } else { 0 };
                Ok(copied)
            }
            _ => {
                let (copied, _) = copy(Landing::Discard, chunk.crc32c)?;
                add(&self.counters.late_bytes, copied as u64);
                Ok(copied)
            }
        }
    }

    /// Where the chunk belongs, for a device that is to write there; nothing if it is not wanted.
    pub(crate) fn destination(&self) -> Option<Slice> {
        let chunk = self.chunk.as_ref().filter(|chunk| chunk.wanted)?;
        self.slot.lock().target(chunk.number).map(|target| target.memory.clone())
    }

    /// Lets `post` have a device write into the chunk's memory from now on; a fence will ask `pulling` to stop that. What has
    /// landed is told by [`Intake::place`], which then has nothing to copy. Nothing is posted, and `false` returned, if the chunk
    /// is not wanted any more.
    pub(crate) fn pull<E>(
        &mut self,
        pulling: &Arc<dyn Pulling>,
        post: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let Some(chunk) = self.chunk.as_ref().filter(|chunk| chunk.wanted) else { return Ok(false) };
        let mut held = self.slot.lock();
        match held.targets.iter_mut().find(|target| target.number == chunk.number) {
            Some(target) => {
                target.pulling = Some(Arc::clone(pulling));
                post().map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// The checksum of the chunk at its source, which its header didn't have.
    pub(crate) fn summed(&mut self, crc32c: u32) {
        if let Some(chunk) = &mut self.chunk {
            chunk.header.payload_crc32c = crc32c;
        }
    }

    /// The rest of the chunk doesn't come: its transfer is over at the other end.
    pub fn abandon_chunk(&mut self) {
        let Some(chunk) = self.chunk.take() else { return };
        self.slot.clear_if(|target| target.number == chunk.number);
        if let Some(mut arrivals) = self.peer.as_ref().and_then(|peer| peer.lock_arrivals()) {
            arrivals.inbound.abandoned(self.link, &Claim::of(&chunk.header));
        }
    }

    /// The chunk's bytes can't be had, this time: they are asked for again.
    pub fn spoil_chunk(&mut self) {
        let Some(chunk) = self.chunk.take() else { return };
        self.slot.clear_if(|target| target.number == chunk.number);
        let claimed = self.peer.as_ref().and_then(|peer| peer.lock_arrivals());
        if claimed.is_some_and(|mut arrivals| arrivals.inbound.abandoned(self.link, &Claim::of(&chunk.header))) {
            add(&self.counters.chunks_damaged, 1);
            let (transfer, offset) = (TransferId(chunk.header.transfer), chunk.header.offset);
            self.replies.push(LinkMessage::Damaged { transfer, offset });
        }
    }

    /// All bytes of the chunk have arrived.
    pub fn finish_chunk(&mut self) {
        let (Some(chunk), Some(peer)) = (self.chunk.take(), &self.peer) else { return };
        if !chunk.wanted {
            return;
        }
        let claim = Claim::of(&chunk.header);
        let Some(target) = self.slot.take(chunk.number) else {
            // Still claimed, so it was neither fenced nor taken over: its grant was revoked, and the sender has to
            // hear of it.
            let arrivals = peer.lock_arrivals();
            if arrivals.is_some_and(|mut arrivals| arrivals.inbound.abandoned(self.link, &claim)) {
                let (transfer, refusal) = (TransferId(chunk.header.transfer), Refusal::NotGranted);
                self.replies.push(LinkMessage::Refused { transfer, refusal });
            }
            return;
        };
        let (transfer, offset) = (target.transfer, target.offset);
        let intact = chunk.crc32c == chunk.header.payload_crc32c;
        let Some(mut arrivals) = peer.lock_arrivals() else { return };
        let inbound = &mut arrivals.inbound;
        if !intact {
            add(&self.counters.chunks_damaged, 1);
            if inbound.abandoned(self.link, &claim) {
                self.replies.push(LinkMessage::Damaged { transfer, offset });
            }
        } else if inbound.applied(self.link, &claim, chunk.crc32c) {
            target.entry.add_received(chunk.header.len_bytes);
            target.writing.finish(chunk.crc32c);
            self.counters.received(chunk.header.lane, chunk.header.len_bytes);
            self.acks.push(Ack { transfer, offset, crc32c: chunk.crc32c });
        }
    }
}
