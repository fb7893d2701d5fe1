//! Packets: room for those that arrive, and what leaves with those that are sent.
#![allow(unsafe_code, reason = "a device is given memory")]

use std::io;

use xfer_sys::verbs::{VerbsError, Work};
use xfer_transport_core::rdma::{Body, RdmaPacket};

use super::{Failure, Queue, Wire, kind};
use crate::backend::LinkError;
use crate::limits::{EXPOSED_BYTES_ENOUGH, RDMA_ROOM, RDMA_ROOM_AT_FIRST};
use crate::memory::Slice;

/// What is left of the other end's room to packets that say that there is room here: else both ends could wait for each other.
const ROOM_FOR_RETURNS: u32 = 2;

/// What was taken is said when so many chunks, or so many bytes, were: of small ones several at once, of large ones each, since the
/// other end may expose only so much.
const TAKEN_ENOUGH: u32 = 4;
const TAKEN_BYTES_ENOUGH: u64 = EXPOSED_BYTES_ENOUGH / 4;

/// A packet that is ready to be sent.
pub(super) struct Packed {
    buffer: u16,
    taken: u32,
    work: Work<'static>,
}

/// What follows the head of a packet.
pub(in crate::backend::verbs) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    Source { slice: &'a Slice, from: usize, len: usize },
}

impl Wire {
    /// The other end is known, and may have as much room here as any. Where so much memory may not be registered, it goes with what
    /// there is.
    pub(in crate::backend::verbs) fn grow(&self) {
        let more = RDMA_ROOM - RDMA_ROOM_AT_FIRST;
        let grown = self.outbox.grow(more).and_then(|()| self.room.grow(more));
        let mut queue = self.lock();
        let grown = grown.and_then(|()| {
            for buffer in RDMA_ROOM_AT_FIRST..RDMA_ROOM {
                self.post_room(&mut queue, buffer)?;
                queue.freed += 1;
                queue.free.push(buffer);
                queue.room += 1;
            }
            Ok(())
        });
        if let Err(error) = grown {
            tracing::warn!("room for {} packets at a time over {}: {error}", queue.room, self.rail);
        }
    }

    /// Looks at the oldest packet that has arrived, and makes room for another.
    pub(in crate::backend::verbs) fn next_packet<R>(
        &self,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, LinkError> {
        let Some((buffer, len_bytes)) = self.lock().arrived.pop_front() else { return Ok(None) };
        // SAFETY: what has arrived is ours until the buffer is posted again, below.
        let result = look(unsafe { self.room.bytes(buffer, len_bytes as usize) });
        let mut queue = self.lock();
        if queue.failed.is_none() {
            self.post_room(&mut queue, buffer).map_err(io::Error::from)?;
            queue.freed += 1;
        }
        Ok(Some(result))
    }

    pub(in crate::backend::verbs) fn has_arrived(&self) -> bool {
        !self.lock().arrived.is_empty()
    }

    /// Whether a packet could be sent now that brings something.
    pub(in crate::backend::verbs) fn has_room(&self) -> bool {
        let queue = self.lock();
        queue.failed.is_none() && queue.credits > ROOM_FOR_RETURNS && !queue.free.is_empty()
    }

    /// Whether all that was sent has arrived at the other end.
    pub(in crate::backend::verbs) fn is_drained(&self) -> bool {
        let queue = self.lock();
        queue.free.len() == usize::from(queue.room)
    }

    /// Sends a packet, if there is room for it.
    pub(in crate::backend::verbs) fn send(&self, body: &Body<'_>, payload: Payload<'_>) -> io::Result<bool> {
        let mut queue = self.lock();
        if queue.failed.is_some() || queue.credits <= ROOM_FOR_RETURNS || queue.free.is_empty() {
            return Ok(false);
        }
        self.send_now(&mut queue, body, payload).map(|()| true)
    }

    /// The chunk that was being read is through, or was not wanted.
    pub(in crate::backend::verbs) fn took(&self, len_bytes: u64) {
        let mut queue = self.lock();
        queue.taken += 1;
        queue.taken_bytes += len_bytes;
    }

    /// Says what was taken and what has come free, if that can't wait for a packet that leaves anyway: `busy` is whether more
    /// is about to be taken. `false`: it has to be said again later.
    pub(in crate::backend::verbs) fn send_returns(&self, busy: bool) -> io::Result<bool> {
        let mut queue = self.lock();
        let credits_due = queue.freed >= queue.room / 2;
        let enough = queue.taken >= TAKEN_ENOUGH || queue.taken_bytes >= TAKEN_BYTES_ENOUGH;
        let taken_due = queue.taken > 0 && (enough || !busy);
        if !credits_due && !taken_due || queue.failed.is_some() {
            return Ok(true);
        }
        // The last of the other end's room is for saying that there is room here.
        let least = if credits_due { 1 } else { 2 };
        if queue.credits < least || queue.free.is_empty() {
            return Ok(false);
        }
        self.send_now(&mut queue, &Body::Nothing, Payload::None).map(|()| true)
    }

    pub(super) fn send_now(&self, queue: &mut Queue, body: &Body<'_>, payload: Payload<'_>) -> io::Result<()> {
        let packet = self.pack(queue, body, payload)?;
        // SAFETY: the outbox outlives the queue pair, and the buffer is not touched before it is free again.
        let posted = unsafe { queue.post([packet.piece()]) };
        queue.sent(packet, posted)
    }

    /// Puts a packet into a buffer of the outbox, with what there is to return.
    pub(super) fn pack(&self, queue: &mut Queue, body: &Body<'_>, payload: Payload<'_>) -> io::Result<Packed> {
        let Some(buffer) = queue.free.pop() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let taken = queue.taken.min(u32::from(u8::MAX));
        let head = RdmaPacket { taken: taken as u8, freed: queue.freed, body: *body }.encode_head();
        // SAFETY: a buffer that is free is nobody's but ours.
        let len = unsafe {
            let at = self.outbox.fill(buffer, 0, &head);
            at + match payload {
                Payload::None => 0,
                Payload::Bytes(bytes) => self.outbox.fill(buffer, at, bytes),
                Payload::Source { slice, from, len } => self.outbox.fill_from(buffer, at, slice, from, len),
            }
        };
        let part = self.outbox.part(buffer, len);
        let inline = part.len_bytes <= queue.pair.capacity().inline_bytes;
        Ok(Packed { buffer, taken, work: Work::Send { part, inline } })
    }

    pub(super) fn post_room(&self, queue: &mut Queue, buffer: u16) -> Result<(), VerbsError> {
        let (id, part) = (kind::ROOM << 56 | u64::from(buffer), self.room.part(buffer, self.room.len_bytes()));
        queue.order.room_posted(id);
        // SAFETY: the room outlives the queue pair, and the buffer is not looked at before something has arrived in it.
        unsafe { queue.pair.post_room(id, part) }
    }
}

impl Packed {
    pub(super) fn piece(&self) -> (u64, &Work<'_>) {
        (kind::SEND << 56 | u64::from(self.buffer), &self.work)
    }
}

impl Queue {
    /// What has become of a packet that was to be sent.
    pub(super) fn sent(&mut self, packet: Packed, posted: Result<(), VerbsError>) -> io::Result<()> {
        if let Err(error) = posted {
            self.free.push(packet.buffer);
            self.fail_with(Failure::Call(error.to_string()));
            return Err(error.into());
        }
        self.credits -= 1;
        self.taken -= packet.taken;
        self.taken_bytes = 0;
        self.freed = 0;
        Ok(())
    }
}
