//! What becomes of the frames that arrive on a link.

use bytes::Bytes;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::inbound::{Begin, Claim};
use xfer_transport_core::integrity::{crc32c, crc32c_append};
use xfer_transport_core::limits::FRAME_HEADER_BYTES;
use xfer_transport_core::link::State;
use xfer_transport_core::message::{Ack, Greeting, LinkMessage, Received, Refusal};
use xfer_transport_core::path::{LinkId, TransferId};
use xfer_transport_core::stream::{Arrival, StreamId};
use xfer_transport_core::{DecodeError, RegionId};

use super::{Arriving, CHANNEL, Down, Endpoint, Grant, LinkEvent, News, Slot};
use crate::memory::Transfer;
use crate::outside::Outside;
use crate::step::Step;

impl Endpoint {
    /// A frame begins to arrive; of one that is `torn`, nothing more will. `true` if it is a chunk, whose second half
    /// comes later.
    pub fn begin_frame(
        &mut self,
        out: &mut Outside,
        id: LinkId,
        header: &[u8; FRAME_HEADER_BYTES],
        payload: &Bytes,
        torn: bool,
    ) -> bool {
        let now = self.local(out.now);
        let Some(link) = self.links.get_mut(&id) else { return false };
        link.machine.heard(now);
        let header = match FrameHeader::decode(header) {
            Ok(header) => header,
            Err(error) => {
                self.reject_frame(out, id, error);
                self.end_link(out, id, &Down::Violation(error.to_string()));
                return false;
            }
        };
        if header.kind != FrameKind::Data {
            // Of a message that doesn't end nothing is taken.
            if torn {
                return false;
            }
            let taken = match crc32c(payload) == header.payload_crc32c {
                true => self.take_message(out, id, &header, payload),
                false => Err(Down::Violation(format!("a damaged {:?} frame", header.kind))),
            };
            self.after(out, id, taken);
            return false;
        }
        let begun = self.begin_chunk(out, id, &header);
        let begun_well = begun.is_ok();
        self.after(out, id, begun);
        if begun_well {
            self.place(out, id, &payload[..payload.len() / 2]);
        }
        begun_well
    }

    /// The rest of a chunk arrives.
    pub fn finish_frame(&mut self, out: &mut Outside, id: LinkId, payload: &Bytes) {
        let now = self.local(out.now);
        if let Some(link) = self.links.get_mut(&id) {
            link.machine.heard(now);
            self.place(out, id, &payload[payload.len() / 2..]);
            self.finish_chunk(out, id);
            self.pump(out);
        }
    }

    /// The connection of a link is over.
    pub fn on_gone(&mut self, out: &mut Outside, id: LinkId, reset: bool) {
        let now = self.local(out.now);
        if let Some(link) = self.links.get_mut(&id) {
            let _ = link.machine.handle(LinkEvent::Lost, now);
            let reason = if reset { Down::Reset } else { Down::Lost("closed by the other end") };
            self.end_link(out, id, &reason);
        }
    }

    fn after(&mut self, out: &mut Outside, id: LinkId, taken: Result<(), Down>) {
        match taken {
            Ok(()) => {
                if let Some(rank) = self.links.get(&id).and_then(|link| link.peer) {
                    self.settle(out, rank);
                }
                self.pump(out);
            }
            Err(reason) => self.end_link(out, id, &reason),
        }
    }

    fn take_message(
        &mut self,
        out: &mut Outside,
        id: LinkId,
        header: &FrameHeader,
        payload: &Bytes,
    ) -> Result<(), Down> {
        let now = self.local(out.now);
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if header.kind == FrameKind::Greeting {
            let greeting = Greeting::decode(payload).map_err(|error| violation("greeting", &error))?;
            return match (link.machine.state(), greeting) {
                (State::Greeting, greeting) => self.greeted(out, id, greeting),
                (_, Greeting::Bye) => Err(Down::Left),
                (state, _) => Err(Down::Violation(format!("a greeting on a link that is {state:?}"))),
            };
        }
        let Some(peer) = link.peer.and_then(|rank| self.peers.get_mut(&rank)) else {
            return Err(Down::Violation(format!("a {:?} frame before the greeting", header.kind)));
        };
        match header.kind {
            FrameKind::Beat => {
                peer.path.received(&Received::decode(payload).map_err(|error| violation("beat", &error))?);
            }
            FrameKind::Link => {
                if !is_new(peer.path.arrived(StreamId::LINK, header.transfer))? {
                    return Ok(());
                }
                peer.path.taken(StreamId::LINK, payload.len());
                match LinkMessage::decode(payload).map_err(|error| violation("link message", &error))? {
                    LinkMessage::Fence(transfer) => {
                        let stop = peer.inbound.fence(transfer);
                        peer.path.reply(&LinkMessage::Fenced(transfer));
                        self.stop_writing(&stop, transfer);
                    }
                    LinkMessage::Ended(transfers) => {
                        for transfer in transfers {
                            let peer = self.links.get(&id).and_then(|link| self.peers.get_mut(&link.peer?));
                            let stop = peer.map(|peer| peer.inbound.ended(transfer)).unwrap_or_default();
                            self.stop_writing(&stop, transfer);
                        }
                    }
                    message => peer.path.handle(&message, now),
                }
            }
            FrameKind::Message => {
                let channel = u16::try_from(header.region)
                    .map_err(|_| Down::Violation(format!("a message for channel {}", header.region)))?;
                let stream = StreamId::of_channel(channel);
                if is_new(peer.path.arrived(stream, header.transfer))? {
                    peer.path.taken(stream, payload.len());
                    if channel == CHANNEL {
                        let from = peer.identity.id;
                        self.news.push_back(News::Message { from, payload: payload.clone() });
                    }
                }
            }
            FrameKind::Data | FrameKind::Greeting => {}
        }
        Ok(())
    }

    fn stop_writing(&mut self, links: &[LinkId], transfer: TransferId) {
        for link in links {
            if let Some(link) = self.links.get_mut(link) {
                link.slot.take_if(|slot| slot.transfer.id == transfer);
            }
        }
    }

    fn begin_chunk(&mut self, out: &mut Outside, id: LinkId, header: &FrameHeader) -> Result<(), Down> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Some(peer) = link.peer.and_then(|rank| self.peers.get_mut(&rank)) else {
            return Err(Down::Violation("a chunk before the greeting".to_owned()));
        };
        let transfer = TransferId(header.transfer);
        let mut wanted = false;
        let mut displaced = None;
        let claim = Claim::of(header);
        match peer.inbound.begin(id, claim) {
            Begin::Place { displaced: other } => {
                displaced = other;
                match look_up(self.grants.get(&RegionId(header.region)), peer.identity.id, header) {
                    Ok(grant) => {
                        wanted = true;
                        out.memory.landing(grant.memory, &extent(header.offset, header.len_bytes));
                        link.slot = Some(Slot {
                            transfer: Transfer { from: peer.identity.id, session: peer.identity.session, id: transfer },
                            region: RegionId(header.region),
                            memory: grant.memory,
                            epoch: out.memory.epoch(grant.memory),
                            offset: header.offset,
                        });
                    }
                    Err(refusal) => {
                        peer.inbound.abandoned(id, &claim);
                        peer.path.reply(&LinkMessage::Refused { transfer, refusal });
                    }
                }
            }
            Begin::Applied { crc32c } => {
                peer.path.acknowledge(Ack { transfer, offset: header.offset, crc32c });
            }
            Begin::Over => {}
            Begin::TooMany => return Err(Down::Violation("too many transfers at once".to_owned())),
            Begin::Twice => return Err(Down::Violation("a chunk twice at once".to_owned())),
        }
        link.arriving = Some(Arriving { claim, payload_crc32c: header.payload_crc32c, wanted, crc32c: 0, at: 0 });
        if let Some(other) = displaced.and_then(|other| self.links.get_mut(&other)) {
            other.slot.take_if(|slot| slot.transfer.id == transfer && slot.offset == header.offset);
        }
        Ok(())
    }

    /// Puts bytes where they belong, if they still belong anywhere.
    fn place(&mut self, out: &mut Outside, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (Some(chunk), Some(slot)) = (&mut link.arriving, link.slot) else { return };
        if !chunk.wanted {
            return;
        }
        out.checks.lands(slot.transfer, self.id);
        let at = slot.offset + chunk.at as u64;
        if let Err(wrong) = out.memory.land(slot.memory, slot.epoch, slot.transfer.from, at, bytes) {
            out.checks.fail("P1", wrong);
        }
        chunk.crc32c = crc32c_append(chunk.crc32c, bytes);
        chunk.at += bytes.len();
    }

    fn finish_chunk(&mut self, out: &mut Outside, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(chunk) = link.arriving.take().filter(|chunk| chunk.wanted) else { return };
        let slot = link.slot.take();
        let Some(peer) = link.peer.and_then(|rank| self.peers.get_mut(&rank)) else { return };
        let (claim, Claim { transfer, offset, .. }) = (chunk.claim, chunk.claim);
        if slot.is_none() {
            // Still claimed, so it was neither fenced nor taken over: its grant was revoked.
            if peer.inbound.abandoned(id, &claim) {
                peer.path.reply(&LinkMessage::Refused { transfer, refusal: Refusal::NotGranted });
            }
        } else if chunk.crc32c != chunk.payload_crc32c {
            if peer.inbound.abandoned(id, &claim) {
                peer.path.reply(&LinkMessage::Damaged { transfer, offset });
            }
        } else if peer.inbound.applied(id, &claim, chunk.crc32c) {
            if let Some(slot) = slot {
                out.memory.has_landed(slot.memory, extent(slot.offset, chunk.at as u32), chunk.crc32c);
            }
            peer.path.acknowledge(Ack { transfer, offset, crc32c: chunk.crc32c });
            out.reach(Step::Bulk, self.id);
        }
    }
}

fn look_up(grant: Option<&Grant>, peer: xfer_transport_core::PeerId, header: &FrameHeader) -> Result<Grant, Refusal> {
    let grant = grant.filter(|grant| grant.to == peer).ok_or(Refusal::NotGranted)?;
    let end = header.offset.checked_add(u64::from(header.len_bytes)).ok_or(Refusal::OutOfBounds)?;
    if end > grant.len_bytes {
        return Err(Refusal::OutOfBounds);
    }
    Ok(*grant)
}

/// Which bytes of a region a chunk has.
fn extent(offset: u64, len_bytes: u32) -> std::ops::Range<u64> {
    offset..offset + u64::from(len_bytes)
}

fn is_new(arrival: Arrival) -> Result<bool, Down> {
    match arrival {
        Arrival::New => Ok(true),
        Arrival::Duplicate => Ok(false),
        Arrival::Violation => Err(Down::Violation("a message out of order".to_owned())),
    }
}

fn violation(what: &str, error: &DecodeError) -> Down {
    Down::Violation(format!("malformed {what}: {error}"))
}
