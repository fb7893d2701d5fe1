//! What a link sends next: the path decides, and here its frames are made.

use bytes::Bytes;
use xfer_transport_core::Lane;
use xfer_transport_core::egress::Egress;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::integrity::crc32c;
use xfer_transport_core::limits::FRAME_HEADER_BYTES;
use xfer_transport_core::link::State;
use xfer_transport_core::path::{Chunk, LinkId, Next};
use xfer_transport_core::stream::StreamId;

use super::{Endpoint, Peer};
use crate::network::WireId;
use crate::outside::Outside;

impl Endpoint {
    /// Lets every link send what it can.
    pub fn pump(&mut self, out: &mut Outside) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.pump_link(out, link);
        }
    }

    /// Lets one link send what it can.
    pub fn pump_link(&mut self, out: &mut Outside, id: LinkId) {
        let now = self.local(out.now);
        let me = self.id;
        let Some(link) = self.links.get_mut(&id) else { return };
        while out.network.has_room(link.wire, link.end) {
            let (kind, region, number, payload) = if let Some(payload) = link.greetings.pop_front() {
                (FrameKind::Greeting, 0, 0, payload)
            } else {
                let peer = link.peer.and_then(|rank| self.peers.get_mut(&rank));
                let Some(peer) = peer.filter(|_| link.machine.state() == State::Open) else { return };
                link.paced_until = None;
                let report = peer.path.report_is_due() && peer.path.message_link() == Some(id);
                if std::mem::take(&mut link.beat) || report {
                    (FrameKind::Beat, 0, 0, peer.path.report().encode())
                } else {
                    match peer.path.next(id, now, &mut Egress::default()) {
                        Next::Message(next) if next.stream == StreamId::LINK => {
                            (FrameKind::Link, 0, next.number, next.payload)
                        }
                        Next::Message(next) => {
                            (FrameKind::Message, u64::from(next.stream.0 - 1), next.number, next.payload)
                        }
                        Next::Chunk(chunk) => {
                            out.checks.posted(&peer.path, me);
                            if let Some((header, payload)) = read_chunk(out, peer, &chunk) {
                                link.machine.said(now);
                                out.send_frame(
                                    link.wire,
                                    link.end,
                                    versioned(header.encode(), self.version),
                                    payload,
                                    false,
                                );
                            }
                            continue;
                        }
                        Next::Wait(until) => {
                            link.paced_until = Some(until);
                            return;
                        }
                        Next::Idle => return,
                    }
                }
            };
            link.machine.said(now);
            let is_greeting = kind == FrameKind::Greeting;
            let header = FrameHeader {
                region,
                transfer: number,
                lane: Lane::Control,
                ..FrameHeader::for_payload(kind, &payload)
            };
            out.send_frame(link.wire, link.end, versioned(header.encode(), self.version), payload, is_greeting);
        }
    }

    /// Says one last thing on a connection that is about to be closed.
    pub(super) fn send_greeting(&self, out: &mut Outside, wire: WireId, end: usize, payload: Bytes) {
        let header = FrameHeader::for_payload(FrameKind::Greeting, &payload).encode();
        out.send_frame(wire, end, versioned(header, self.version), payload, true);
    }
}

/// A chunk's bytes, read where the path says.
fn read_chunk(out: &mut Outside, peer: &Peer, chunk: &Chunk) -> Option<(FrameHeader, Bytes)> {
    let Some(written) = peer.transfers.get(&chunk.transfer).filter(|written| !written.stopped) else {
        out.checks.fail("P1", format!("the source of transfer {} is read after its end", chunk.transfer.0));
        return None;
    };
    out.checks.source_read(&out.memory, written.source);
    let payload = out.memory.copy(written.source, written.part.0 + chunk.source_offset, chunk.len_bytes);
    let header = chunk.header(crc32c(&payload));
    Some((header, payload))
}

/// A header as a build with another wire version would send it: the version stands before everything it could change.
fn versioned(mut header: [u8; FRAME_HEADER_BYTES], version: u8) -> [u8; FRAME_HEADER_BYTES] {
    header[4] = version;
    header
}
