//! Says where frames lie, and fills the ring with what can't be shown.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use xfer_transport_core::frame::FrameHeader;
use xfer_transport_core::limits::{FRAME_HEADER_BYTES, PACKET_INLINE_BYTES_MAX};
use xfer_transport_core::packet::{Packet, sum_follows};

use super::mail::Mail;
use super::mailbox::{LETTER_BYTES_MAX, Put};
use super::socket;
use crate::backend::{LinkError, Manner, Op};
use crate::grants::random_u64;
use crate::limits::{ASKING_ATTEMPTS_MAX, RING_BYTES, SEGMENTS_MAX, STREAM_BYTES_MIN};
use crate::memory::{Segment, Slice, dropped_segments};
use crate::transfer::Source;
use crate::unsummed::sums;

/// Most that is staged at once: a quarter of the ring, so that filling and emptying overlap.
const PART_BYTES: u64 = RING_BYTES / 4;

/// What is read of the peer's ring before it is told without waiting for anything else to say.
const OWED_BYTES: u64 = RING_BYTES / 4;

/// What fits into a letter with its header.
const INLINE_LETTER_BYTES_MAX: u64 = (LETTER_BYTES_MAX - 1 - FRAME_HEADER_BYTES) as u64;

/// How ordinary memory goes where it can be fetched.
const FETCHED: &str = "fetched with process_vm_readv, and from 16 MiB on through a ring";

#[derive(Default)]
pub(super) struct Sender {
    frame: Option<Sending>,
    /// A packet that the socket had no room for.
    waiting: Option<Outgoing>,
    ring: Option<Ring>,
    /// What the peer has to see before it reads the frame.
    to_show: Option<Arc<Segment>>,
    /// What the peer has mapped.
    shown: HashMap<u64, Weak<Segment>>,
    dropped: u64,
    /// Bytes of the peer's ring that were read and that it doesn't know of.
    owed_bytes: u64,
    /// What the peer is to be told of its own memory.
    answer: Option<u32>,
    reach: Reach,
    pub(super) mail: Mail,
    /// A letter lies in our box that nobody looks for.
    rings: bool,
    /// Why nothing more can be sent; said at the next advance.
    failed: Option<LinkError>,
}

/// Whether the peer fetches from this process what can't be shown.
#[derive(Default)]
enum Reach {
    #[default]
    Untried,
    /// The number that it looks for, which stays where it is.
    Asked {
        _number: Box<u64>,
    },
    Yes,
    /// What its system says.
    No(u32),
}

/// The frame that is being sent.
enum Sending {
    Message {
        header: FrameHeader,
        payload: Bytes,
        at: Option<usize>,
    },
    Lent {
        header: FrameHeader,
        source: Source,
    },
    Plain {
        header: FrameHeader,
        source: Source,
    },
    Staged {
        header: FrameHeader,
        source: Source,
        at: Option<u64>,
        crc32c: u32,
    },
    /// All of a chunk was said but its sum: of what is left from `at` on, after `crc32c`.
    Sum {
        source: Source,
        at: u64,
        crc32c: u32,
    },
}

struct Outgoing {
    head: Vec<u8>,
    inline: Bytes,
    file: Option<Arc<Segment>>,
    /// It has no place in a mailbox.
    needs_socket: bool,
}

/// Positions count bytes since the ring was made; what lies between the two is the peer's to read.
struct Ring {
    segment: Arc<Segment>,
    shown: bool,
    written: u64,
    freed: u64,
}

impl Sender {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.frame.is_none() && self.waiting.is_none() && self.failed.is_none()
    }

    pub(super) fn waits_for_socket(&self) -> bool {
        self.waiting.is_some() || self.failed.is_some()
    }

    /// Takes a frame and sends as much of it as there is room for.
    pub(super) fn submit(&mut self, socket: &OwnedFd, op: Op) -> Result<(), Op> {
        if !self.is_idle() {
            return Err(op);
        }
        self.frame = Some(match op {
            Op::Message { header, payload, shows } => {
                let seen = |segment: &Segment| self.shown.contains_key(&segment.id());
                self.to_show = shows.and_then(|slice| slice.shared().map(|(segment, _)| Arc::clone(segment)));
                self.to_show = self.to_show.take().filter(|segment| !seen(segment) && self.shown.len() < SEGMENTS_MAX);
                Sending::Message { header, payload, at: None }
            }
            Op::Chunk { header, source } => {
                match source.read().map(|reading| self.way_of(&header, reading.slice(), source.transfer_bytes())) {
                    // Nobody wants it any more, and nothing of it has left.
                    None => return Ok(()),
                    Some(Way::Inline(payload)) => Sending::Message { header, payload, at: None },
                    Some(Way::Lent) => Sending::Lent { header, source },
                    Some(Way::Plain) => Sending::Plain { header, source },
                    Some(Way::Staged) => Sending::Staged { header, source, at: None, crc32c: 0 },
                }
            }
        });
        if let Err(error) = self.advance(socket) {
            self.failed = Some(error);
        }
        Ok(())
    }

    fn way_of(&self, header: &FrameHeader, slice: &Slice, transfer_bytes: u64) -> Way {
        let shown = |segment: &Segment| self.shown.contains_key(&segment.id()) || self.shown.len() < SEGMENTS_MAX;
        let is_short = slice.len_bytes() <= PACKET_INLINE_BYTES_MAX as u64;
        // Who looks for letters sees one that says where the bytes lie sooner than the bytes themselves on the socket.
        let as_letter = slice.len_bytes() > INLINE_LETTER_BYTES_MAX && self.mail.is_looked_at();
        let may_be_fetched = matches!(self.reach, Reach::Yes) && header.attempt < ASKING_ATTEMPTS_MAX;
        match slice.shared() {
            _ if is_short && !as_letter => Way::Inline(slice.copy_to_vec().into()),
            Some((segment, _)) if shown(segment) => Way::Lent,
            // The kernel fetches nothing from where memory of a device is mapped, which says nothing of other memory.
            _ if slice.region().is_dmabuf() && !is_short => Way::Staged,
            // What is longer goes faster through the ring: its second copy is in the caches, and the first past them.
            _ if may_be_fetched && transfer_bytes < STREAM_BYTES_MIN => Way::Plain,
            _ if is_short => Way::Inline(slice.copy_to_vec().into()),
            _ => Way::Staged,
        }
    }

    /// The peer has tried whether it can fetch from this process.
    pub(super) fn probed(&mut self, errno: u32) -> Result<(), LinkError> {
        self.reach = match (&self.reach, errno) {
            (Reach::Untried, _) => return Err(LinkError::Violation("an answer without a question".into())),
            (Reach::No(_), 0) => return Ok(()),
            (_, 0) => Reach::Yes,
            (_, errno) => Reach::No(errno),
        };
        Ok(())
    }

    /// Tells the peer whether this end can fetch from its process.
    pub(super) fn tell(&mut self, socket: &OwnedFd, errno: u32) -> Result<(), LinkError> {
        self.answer = Some(errno);
        self.advance(socket)
    }

    /// How ordinary memory gets across.
    pub(super) fn manner(&self) -> Manner {
        let ring = |why: String| Manner { copies: 2, sentence: format!("through a ring ({why})") };
        match self.reach {
            Reach::Untried | Reach::Asked { .. } => ring("process_vm_readv was not needed yet".into()),
            Reach::Yes => Manner { copies: 1, sentence: FETCHED.into() },
            Reach::No(errno) => {
                let error = io::Error::from_raw_os_error(errno as i32);
                ring(format!("the peer can't use process_vm_readv on this process: {error}"))
            }
        }
    }

    /// Bytes of the peer's ring were read.
    pub(super) fn owe(&mut self, socket: &OwnedFd, len_bytes: u64) -> Result<(), LinkError> {
        self.owed_bytes += len_bytes;
        if self.owed_bytes >= OWED_BYTES { self.advance(socket) } else { Ok(()) }
    }

    /// The peer has read so much of our ring.
    pub(super) fn freed(&mut self, len_bytes: u64) -> Result<(), LinkError> {
        let ring = self.ring.as_mut().filter(|ring| len_bytes <= ring.written - ring.freed);
        let ring = ring.ok_or_else(|| LinkError::Violation("more was read than was written".into()))?;
        ring.freed += len_bytes;
        Ok(())
    }

    /// Somebody looks for letters from here on, or nobody does.
    pub(super) fn look(&mut self, socket: &OwnedFd, begins: bool) {
        self.mail.look(begins);
        if begins && self.failed.is_none() {
            // The other end has to know of the box.
            self.failed = self.advance(socket).err();
        }
    }

    /// Sends on.
    pub(super) fn advance(&mut self, socket: &OwnedFd) -> Result<(), LinkError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        loop {
            if self.waiting.is_none() {
                self.waiting = self.next_packet()?;
            }
            let Some(packet) = &self.waiting else { return Ok(()) };
            let put = if packet.needs_socket { Put::No } else { self.mail.put(&packet.head, &packet.inline)? };
            if put != Put::No {
                self.rings |= put == Put::Ring;
                self.waiting = None;
                continue;
            }
            let file = packet.file.as_ref().map(|segment| segment.as_fd());
            match socket::send(socket, &packet.head, &packet.inline, file) {
                Ok(()) => {
                    self.mail.sent += 1;
                    self.waiting = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn next_packet(&mut self) -> io::Result<Option<Outgoing>> {
        if std::mem::take(&mut self.rings) {
            return Ok(Some(Outgoing { needs_socket: true, ..Outgoing::new(&Packet::Rung) }));
        }
        if let Some(segment) = self.mail.take_unshown() {
            return Ok(Some(Outgoing::showing(&Packet::Mailbox { len_bytes: segment.len_bytes() }, segment)));
        }
        if self.owed_bytes > 0 {
            let len_bytes = std::mem::take(&mut self.owed_bytes);
            return Ok(Some(Outgoing::new(&Packet::Freed { len_bytes })));
        }
        if let Some(errno) = self.answer.take() {
            return Ok(Some(Outgoing::new(&Packet::Probed { errno })));
        }
        if let Some(id) = self.next_forgotten() {
            return Ok(Some(Outgoing::new(&Packet::Forget { id })));
        }
        if let Some(segment) = self.to_show.take() {
            return Ok(Some(self.show(&segment)));
        }
        match self.frame.take() {
            None => Ok(None),
            Some(Sending::Message { header, payload, at }) => Ok(Some(self.message(header, payload, at))),
            Some(Sending::Lent { header, source }) => Ok(self.lend(header, source)),
            // Closed: it was not sent, and needs not be.
            Some(Sending::Plain { header, source }) => Ok(self.point(header, source)),
            Some(Sending::Staged { header, source, at, crc32c }) => self.stage(header, source, at, crc32c),
            Some(Sending::Sum { source, at, crc32c }) => Ok(Some(sum(&source, at, crc32c))),
        }
    }

    /// A segment that is gone, and that the peer still has mapped.
    fn next_forgotten(&mut self) -> Option<u64> {
        let dropped = dropped_segments();
        if dropped == self.dropped {
            return None;
        }
        let gone = self.shown.iter().find(|(_, segment)| segment.strong_count() == 0).map(|(id, _)| *id);
        match gone {
            Some(id) => _ = self.shown.remove(&id),
            None => self.dropped = dropped,
        }
        gone
    }

    fn message(&mut self, header: FrameHeader, payload: Bytes, at: Option<usize>) -> Outgoing {
        let start = at.unwrap_or(0);
        let end = payload.len().min(start + PACKET_INLINE_BYTES_MAX);
        let inline = payload.slice(start..end);
        let packet = match at {
            None => Packet::Frame { header, inline: &inline },
            Some(_) => Packet::More(&inline),
        };
        let outgoing = Outgoing { inline: inline.clone(), ..Outgoing::new(&packet) };
        if end < payload.len() {
            self.frame = Some(Sending::Message { header, payload, at: Some(end) });
        }
        outgoing
    }

    fn show(&mut self, segment: &Arc<Segment>) -> Outgoing {
        self.shown.insert(segment.id(), Arc::downgrade(segment));
        let packet = Packet::Segment { id: segment.id(), len_bytes: segment.len_bytes() };
        Outgoing::showing(&packet, Arc::clone(segment))
    }

    fn lend(&mut self, header: FrameHeader, source: Source) -> Option<Outgoing> {
        let outgoing = {
            // Closed: it was not sent, and needs not be. Its transfer is over, and so is this frame.
            let reading = source.read()?;
            let (segment, at) = reading.slice().shared()?;
            if self.shown.contains_key(&segment.id()) {
                let packet = Packet::Lent { header, segment: segment.id(), at };
                drop(reading);
                self.sum_later(header, source);
                return Some(Outgoing::new(&packet));
            }
            let segment = Arc::clone(segment);
            self.show(&segment)
        };
        self.frame = Some(Sending::Lent { header, source });
        Some(outgoing)
    }

    /// Says where a chunk lies in this process; nothing of one that is closed.
    fn point(&mut self, header: FrameHeader, source: Source) -> Option<Outgoing> {
        let packet = Packet::Plain { header, at: source.read()?.slice().as_ptr() as u64 };
        self.sum_later(header, source);
        Some(Outgoing::new(&packet))
    }

    /// The other end copies from here on: the sum is taken meanwhile.
    fn sum_later(&mut self, header: FrameHeader, source: Source) {
        if sum_follows(header.len_bytes) {
            self.frame = Some(Sending::Sum { source, at: 0, crc32c: 0 });
        }
    }

    /// The next part of a chunk through the ring; nothing while the ring is full.
    fn stage(
        &mut self,
        header: FrameHeader,
        source: Source,
        at: Option<u64>,
        crc32c: u32,
    ) -> io::Result<Option<Outgoing>> {
        let Some(start) = at else {
            self.frame = Some(Sending::Staged { header, source, at: Some(0), crc32c });
            return Ok(Some(Outgoing::new(&Packet::Frame { header, inline: &[] })));
        };
        if matches!(self.reach, Reach::Untried) {
            let number = Box::new(random_u64());
            let packet = Packet::Probe { at: &raw const *number as u64, number: *number };
            self.reach = Reach::Asked { _number: number };
            self.frame = Some(Sending::Staged { header, source, at, crc32c });
            return Ok(Some(Outgoing::new(&packet)));
        }
        let ring = match &mut self.ring {
            Some(ring) => ring,
            none => none.insert(Ring::new()?),
        };
        if !std::mem::replace(&mut ring.shown, true) {
            let packet = Packet::Ring { len_bytes: ring.segment.len_bytes() };
            let packet = Outgoing::showing(&packet, Arc::clone(&ring.segment));
            self.frame = Some(Sending::Staged { header, source, at, crc32c });
            return Ok(Some(packet));
        }
        let left = u64::from(header.len_bytes) - start;
        let Some((ring_at, len_bytes)) = ring.room(left) else {
            self.frame = Some(Sending::Staged { header, source, at, crc32c });
            return Ok(None);
        };
        let crc32c = match source.read() {
            Some(reading) => {
                let (slice, start, len) = (reading.slice(), start as usize, len_bytes as usize);
                ring.segment.fill(ring_at as usize, slice, start, len);
                // Once more from where it was read, now that it is in the caches: a source that changes is noticed.
                let summed = sums() && sum_follows(header.len_bytes);
                if summed { slice.crc32c_append(crc32c, start, len) } else { crc32c }
            }
            None => return Ok(Some(Outgoing::new(&Packet::Abandon))),
        };
        ring.written += len_bytes;
        if len_bytes < left {
            self.frame = Some(Sending::Staged { header, source, at: Some(start + len_bytes), crc32c });
        } else if sum_follows(header.len_bytes) {
            self.frame = Some(Sending::Sum { source, at: start + len_bytes, crc32c });
        }
        Ok(Some(Outgoing::new(&Packet::Staged { at: ring_at, len_bytes: len_bytes as u32 })))
    }
}

/// The sum of a chunk that was said, what of it is summed already being `crc32c`.
fn sum(source: &Source, at: u64, crc32c: u32) -> Outgoing {
    let left = (source.len_bytes() - at) as usize;
    let summed = source.read().map(|reading| match sums() {
        true => reading.slice().crc32c_append(crc32c, at as usize, left),
        false => 0,
    });
    // Nobody wants it any more: what of it was copied must not count.
    Outgoing::new(&summed.map_or(Packet::Abandon, |crc32c| Packet::Sum { crc32c }))
}

/// How a chunk gets across.
enum Way {
    Inline(Bytes),
    Lent,
    Plain,
    Staged,
}

impl Outgoing {
    fn new(packet: &Packet<'_>) -> Self {
        Self { head: packet.encode_head(), inline: Bytes::new(), file: None, needs_socket: false }
    }

    /// With memory along, which only a socket can pass.
    fn showing(packet: &Packet<'_>, segment: Arc<Segment>) -> Self {
        Self { file: Some(segment), needs_socket: true, ..Self::new(packet) }
    }
}

impl Ring {
    fn new() -> io::Result<Self> {
        let segment = Segment::create(RING_BYTES)?;
        segment.reserve(0, RING_BYTES)?;
        Ok(Self { segment: Arc::new(segment), shown: false, written: 0, freed: 0 })
    }

    /// Where the next part goes and how long it is, if there is room for one that is worth a packet.
    fn room(&self, left: u64) -> Option<(u64, u64)> {
        let at = self.written % RING_BYTES;
        let len_bytes = left.min(PART_BYTES).min(RING_BYTES - at);
        let free = RING_BYTES - (self.written - self.freed);
        (free >= len_bytes).then_some((at, len_bytes))
    }
}

#[cfg(test)]
mod tests {
    use xfer_transport_core::frame::FrameKind;

    use super::*;
    use crate::memory::Region;

    #[test]
    fn a_chunk_that_comes_back_again_and_again_is_not_left_to_be_fetched() {
        let sender = Sender { reach: Reach::Yes, ..Sender::new() };
        let slice = Region::from_vec(vec![7; 1 << 20]).all();
        let way = |attempt| {
            let header = FrameHeader { attempt, ..FrameHeader::for_payload(FrameKind::Data, &[]) };
            sender.way_of(&header, &slice, slice.len_bytes())
        };
        assert!(matches!(way(0), Way::Plain) && matches!(way(ASKING_ATTEMPTS_MAX - 1), Way::Plain));
        assert!(matches!(way(ASKING_ATTEMPTS_MAX), Way::Staged));
    }
}
