//! What a link sends next.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::link::State;
use xfer_transport_core::message::LinkMessage;
use xfer_transport_core::path::{Chunk, Next};
use xfer_transport_core::stream::StreamId;
use xfer_transport_core::{Lane, Time};

use super::{Inside, Worker};
use crate::backend::{Link, Op};
use crate::memory::Slice;
use crate::peer::Peer;
use crate::unsummed::sums;

impl Worker {
    /// Sends as much as the link takes, or about `budget_bytes`. `false` if there may be more than that.
    pub(super) fn send(&self, inside: &mut Inside, now: Time, budget_bytes: u64) -> bool {
        let all = self.send_all(inside, now, budget_bytes);
        inside.link.submitted();
        all
    }

    fn send_all(&self, inside: &mut Inside, now: Time, budget_bytes: u64) -> bool {
        let mut sent_bytes = 0;
        while inside.link.has_room() {
            if sent_bytes >= budget_bytes {
                // Most often that was all, and nobody has to be woken to find that out.
                return !self.has_next(inside);
            }
            let Some(op) = inside.held.take().or_else(|| self.next_op(inside, now)) else { return true };
            sent_bytes += op.len_bytes();
            match inside.link.submit(op) {
                Ok(()) => inside.machine.said(now),
                Err(op) => {
                    inside.held = Some(op);
                    break;
                }
            }
        }
        // Room comes before the next chunk's turn, whenever that was to be.
        inside.paced_until = None;
        self.hungry.store(false, Ordering::SeqCst);
        true
    }

    fn has_next(&self, inside: &Inside) -> bool {
        let waits = inside.held.is_some() || inside.beat || !inside.greetings.is_empty();
        waits || inside.peer.as_ref().is_some_and(|peer| peer.path().has_next(self.id))
    }

    fn next_op(&self, inside: &mut Inside, now: Time) -> Option<Op> {
        if let Some(payload) = inside.greetings.pop_front() {
            return Some(message(FrameKind::Greeting, 0, 0, payload));
        }
        if inside.machine.state() != State::Open {
            return None;
        }
        let peer = inside.peer.as_ref()?;
        // Said before the path is asked: what comes to the path after this finds us hungry.
        self.hungry.store(true, Ordering::SeqCst);
        inside.paced_until = None;
        loop {
            let next = {
                let mut path = peer.path();
                let report = path.report_is_due() && path.message_link() == Some(self.id);
                if std::mem::take(&mut inside.beat) || report {
                    return Some(message(FrameKind::Beat, 0, 0, path.report().encode()));
                }
                path.next(self.id, now, &mut self.shared.egress())
            };
            match next {
                Next::Message(numbered) if numbered.stream == StreamId::LINK => {
                    let shows = LinkMessage::lends(&numbered.payload).and_then(|loan| peer.loans.memory(loan));
                    let op = message(FrameKind::Link, 0, numbered.number, numbered.payload);
                    return Some(showing(op, shows));
                }
                Next::Message(numbered) => {
                    let channel = u64::from(numbered.stream.0 - 1);
                    return Some(message(FrameKind::Message, channel, numbered.number, numbered.payload));
                }
                Next::Chunk(chunk) => {
                    // A source that is closed meanwhile is not sent; the path knows.
                    if let Some(op) = self.chunk_op(peer, &chunk, &*inside.link) {
                        return Some(op);
                    }
                }
                Next::Wait(until) => {
                    inside.paced_until = Some(until);
                    return None;
                }
                Next::Idle => return None,
            }
        }
    }

    fn chunk_op(&self, peer: &Peer, chunk: &Chunk, link: &dyn Link) -> Option<Op> {
        let source = peer.source(chunk)?;
        let reading = source.read()?;
        let payload_crc32c = if sums() && !link.sums(chunk.len_bytes) { reading.slice().crc32c() } else { 0 };
        drop(reading);
        let header = chunk.header(payload_crc32c);
        self.shared.counters.sent(chunk.lane, chunk.len_bytes);
        Some(Op::Chunk { header, source })
    }
}

pub(super) fn message(kind: FrameKind, region: u64, number: u64, payload: Bytes) -> Op {
    let header =
        FrameHeader { region, transfer: number, lane: Lane::Control, ..FrameHeader::for_payload(kind, &payload) };
    Op::Message { header, payload, shows: None }
}

fn showing(op: Op, memory: Option<Slice>) -> Op {
    match op {
        Op::Message { header, payload, .. } => Op::Message { header, payload, shows: memory },
        chunk => chunk,
    }
}
