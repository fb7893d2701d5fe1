//! Takes packets off the socket, and pulls what they tell of to its place.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::Pid;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::limits::{FRAME_HEADER_BYTES, PACKET_INLINE_BYTES_MAX};
use xfer_transport_core::packet::{Packet, sum_follows};

use super::mailbox::{LETTER_BYTES_MAX, Taken};
use super::send::Sender;
use super::socket;
use crate::backend::LinkError;
use crate::backend::frame::{Frame, violation};
use crate::intake::{Intake, Landing};
use crate::limits::{READ_BUDGET_BYTES, RING_BYTES, SEGMENTS_MAX};
use crate::memory::{Region, View, Views, fetch};

/// Most that is copied at once: it is still in the second-level cache when it is summed, and a fence waits for it. Of what
/// the kernel copies, four times as much cost the receiver a fifth more.
const PART_BYTES: usize = 128 << 10;

/// A packet is on the socket before a letter says that it comes after it.
const TOO_EARLY: &str = "a letter that comes after packets which were not sent";

/// The longest packet: a kind, a header, and what may be inline.
const PACKET_BYTES_MAX: usize = 1 + FRAME_HEADER_BYTES + PACKET_INLINE_BYTES_MAX;

pub(super) struct Receiver {
    views: Arc<Views>,
    buffer: Box<[u8; PACKET_BYTES_MAX]>,
    letter: [u8; LETTER_BYTES_MAX],
    /// A packet in the buffer, with what came along, which letters come before.
    received: Option<(usize, Option<OwnedFd>)>,
    /// The other end's process, if bytes may be fetched from it.
    pid: Option<Pid>,
    pull: Pull,
    /// The budget was used up before the socket was empty.
    more: bool,
}

/// What packets mean, which depends on those before.
struct Pull {
    frame: Frame,
    ring: Option<Arc<View>>,
    segments: HashMap<u64, Arc<View>>,
    /// The chunk's sum comes after its bytes.
    awaits_sum: bool,
}

/// Where the next packet lies.
enum Next {
    Letter(usize),
    Packet(usize, Option<OwnedFd>),
}

impl Receiver {
    pub(super) fn new(views: Arc<Views>, pid: Option<Pid>) -> Self {
        let pull = Pull { frame: Frame::None, ring: None, segments: HashMap::new(), awaits_sum: false };
        let (buffer, letter) = (Box::new([0; PACKET_BYTES_MAX]), [0; LETTER_BYTES_MAX]);
        Self { views, buffer, letter, received: None, pid, pull, more: false }
    }

    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// The next packet, in the order in which they were sent: a letter, with nothing along, or one of the socket.
    fn next(&mut self, socket: &OwnedFd, sender: &mut Sender, letters_only: bool) -> Result<Option<Next>, LinkError> {
        loop {
            let taken = sender.mail.take(&mut self.letter)?;
            if let Taken::Letter(len) = taken {
                return Ok(Some(Next::Letter(len)));
            }
            match self.received.take() {
                Some((0, _)) if taken == Taken::Later => return Err(violation(TOO_EARLY)),
                // What follows it doesn't come any more.
                Some((0, _)) => return Err(LinkError::Closed),
                Some((len, file)) => {
                    sender.mail.received += 1;
                    return Ok(Some(Next::Packet(len, file)));
                }
                None if letters_only && taken == Taken::Nothing => return Ok(None),
                None => {}
            }
            match socket::receive(socket, &mut self.buffer[..]) {
                // Letters that were written before it was sent can be seen from here on.
                Ok(received) => self.received = Some(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken == Taken::Later => {
                    return Err(violation(TOO_EARLY));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives until nothing is left, the budget is used up, or somebody has to look at what arrived; or until there is no
    /// letter.
    pub(super) fn receive(
        &mut self,
        socket: &OwnedFd,
        sender: &mut Sender,
        intake: &mut Intake,
        letters_only: bool,
    ) -> Result<(), LinkError> {
        let mut budget = READ_BUDGET_BYTES;
        loop {
            self.more = budget == 0 || intake.is_paused();
            if self.more {
                return Ok(());
            }
            let (packet, file) = match self.next(socket, sender, letters_only)? {
                None => return Ok(()),
                Some(Next::Letter(len)) => (&self.letter[..len], None),
                Some(Next::Packet(len, file)) => (&self.buffer[..len], file),
            };
            let got = packet.len();
            intake.heard(got);
            let packet = Packet::decode(packet).map_err(|error| violation(&error.to_string()))?;
            let moved = match packet {
                Packet::Segment { id, len_bytes } => {
                    let view = self.map(file, len_bytes)?;
                    intake.shown(id, &view);
                    self.pull.show(id, view)?;
                    0
                }
                Packet::Ring { len_bytes } => {
                    if self.pull.ring.is_some() || len_bytes > RING_BYTES {
                        return Err(violation("a second ring, or a larger one than there is"));
                    }
                    self.pull.ring = Some(self.map(file, len_bytes)?);
                    0
                }
                Packet::Mailbox { len_bytes } => {
                    if !sender.mail.admits(len_bytes) {
                        return Err(violation("a second mailbox, or one of another size"));
                    }
                    sender.mail.shown(self.map(file, len_bytes)?);
                    0
                }
                Packet::Freed { len_bytes } => {
                    sender.freed(len_bytes)?;
                    // What waited for it is what the other end waits for.
                    sender.advance(socket)?;
                    0
                }
                Packet::Staged { at, len_bytes } => {
                    self.pull.staged(at, len_bytes, intake)?;
                    sender.owe(socket, u64::from(len_bytes))?;
                    len_bytes as usize
                }
                Packet::Probe { at, number } => {
                    sender.tell(socket, probe(self.pid, at, number).err().map_or(0, errno_of))?;
                    0
                }
                Packet::Probed { errno } => {
                    sender.probed(errno)?;
                    0
                }
                Packet::Plain { header, at } => match self.pull.fetch(self.pid, header, at, intake)? {
                    Ok(moved) => moved,
                    // It has to come another way then, and so does all else.
                    Err(error) => {
                        sender.tell(socket, errno_of(error))?;
                        0
                    }
                },
                packet => self.pull.take(&packet, intake)?,
            };
            budget = budget.saturating_sub(got.max(moved));
        }
    }

    fn map(&self, file: Option<OwnedFd>, len_bytes: u64) -> Result<Arc<View>, LinkError> {
        let file = file.ok_or_else(|| violation("memory was shown without its descriptor"))?;
        Ok(self.views.map(&file, len_bytes)?)
    }
}

impl Pull {
    /// A packet that brings bytes, or ends some: how many it moved.
    fn take(&mut self, packet: &Packet<'_>, intake: &mut Intake) -> Result<usize, LinkError> {
        match *packet {
            Packet::Frame { header, inline } => {
                self.begin(header, intake)?;
                self.bytes(inline, intake)
            }
            Packet::More(inline) => self.bytes(inline, intake),
            Packet::Lent { header, segment, at } => {
                let view = self.segments.get(&segment).cloned();
                let view = view.ok_or_else(|| violation("bytes of a segment that was not shown"))?;
                if header.kind != FrameKind::Data {
                    return Err(violation("a message in a segment"));
                }
                self.begin(header, intake)?;
                self.pull(&view, at, header.len_bytes, intake)
            }
            Packet::Sum { crc32c } => {
                let awaited = std::mem::take(&mut self.awaits_sum) && self.frame.rest() == 0;
                if !awaited || !matches!(self.frame, Frame::Chunk { .. }) {
                    return Err(violation("the sum of no chunk"));
                }
                intake.summed(crc32c);
                self.end_if_whole(intake).map(|()| 0)
            }
            Packet::Abandon => self.frame.abandon(intake).map(|()| 0),
            Packet::Forget { id } => {
                self.segments.remove(&id);
                Ok(0)
            }
            Packet::Staged { .. }
            | Packet::Segment { .. }
            | Packet::Ring { .. }
            | Packet::Mailbox { .. }
            | Packet::Rung
            | Packet::Freed { .. }
            | Packet::Plain { .. }
            | Packet::Probe { .. }
            | Packet::Probed { .. } => Ok(0),
        }
    }

    fn show(&mut self, id: u64, view: Arc<View>) -> Result<(), LinkError> {
        if self.segments.len() >= SEGMENTS_MAX || self.segments.insert(id, view).is_some() {
            return Err(violation("too many segments, or one of them twice"));
        }
        Ok(())
    }

    fn begin(&mut self, header: FrameHeader, intake: &mut Intake) -> Result<(), LinkError> {
        self.frame.begin(header, intake)?;
        self.awaits_sum = header.kind == FrameKind::Data && sum_follows(header.len_bytes);
        Ok(())
    }

    fn end_if_whole(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        if self.awaits_sum { Ok(()) } else { self.frame.end_if_whole(intake) }
    }

    /// Payload that came in a packet.
    fn bytes(&mut self, bytes: &[u8], intake: &mut Intake) -> Result<usize, LinkError> {
        self.frame.bytes(bytes, intake).map(|()| bytes.len())
    }

    /// Payload that lies in the ring.
    fn staged(&mut self, at: u64, len_bytes: u32, intake: &mut Intake) -> Result<(), LinkError> {
        let ring = self.ring.clone().ok_or_else(|| violation("bytes in a ring that was not shown"))?;
        self.pull(&ring, at, len_bytes, intake).map(drop)
    }

    /// Copies a part of the peer's memory to its place.
    fn pull(&mut self, view: &View, from: u64, len_bytes: u32, intake: &mut Intake) -> Result<usize, LinkError> {
        if from.checked_add(u64::from(len_bytes)).is_none_or(|end| end > view.len_bytes()) {
            return Err(violation("bytes beyond the end of a segment"));
        }
        let Frame::Chunk { len, at } = &mut self.frame else { return Err(violation("a range for no chunk")) };
        let wanted = len_bytes as usize;
        if wanted > *len - *at {
            return Err(violation("more bytes than the chunk has"));
        }
        let mut done = 0;
        while done < wanted {
            let part = (wanted - done).min(PART_BYTES);
            // What is not wanted any more is not read either: its owner may use it for something else by now.
            intake.place_summed(|landing, crc32c| {
                let summed = match landing {
                    Landing::Memory(memory) => view.copy_to(from as usize + done, part, memory, *at, crc32c),
                    Landing::Discard => crc32c,
                };
                Ok::<_, LinkError>((part, summed))
            })?;
            done += part;
            *at += part;
        }
        self.end_if_whole(intake)?;
        Ok(wanted)
    }

    /// Copies a chunk from where it lies in the other process. The inner error: it can't be read there.
    fn fetch(
        &mut self,
        pid: Option<Pid>,
        header: FrameHeader,
        from: u64,
        intake: &mut Intake,
    ) -> Result<io::Result<usize>, LinkError> {
        if header.kind != FrameKind::Data {
            return Err(violation("a message in another process"));
        }
        self.begin(header, intake)?;
        let len = header.len_bytes as usize;
        let mut done = 0;
        while done < len {
            let part = (len - done).min(PART_BYTES);
            // What is not wanted any more is not read either.
            let fetched = intake.place(done, |landing| match landing {
                Landing::Memory(memory) => {
                    fetch(pid, from.saturating_add(done as u64), memory, done, part).map(|()| part)
                }
                Landing::Discard => Ok(part),
            });
            if let Err(error) = fetched {
                intake.spoil_chunk();
                self.frame = Frame::Chunk { len, at: len };
                // Its sum may still come.
                self.end_if_whole(intake)?;
                return Ok(Err(error));
            }
            done += part;
        }
        self.frame = Frame::Chunk { len, at: len };
        self.end_if_whole(intake)?;
        Ok(Ok(len))
    }
}

/// Whether `number` lies at the address `at` of the process `pid`, and can be fetched from there.
pub(super) fn probe(pid: Option<Pid>, at: u64, number: u64) -> io::Result<()> {
    let into = Region::from_vec(vec![0; size_of::<u64>()]);
    fetch(pid, at, &into.all(), 0, size_of::<u64>())?;
    // Another process has the number that the kernel gave us, as seen from this container.
    let found = into.copy_to_vec() == number.to_ne_bytes();
    if found { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

fn errno_of(error: io::Error) -> u32 {
    error.raw_os_error().and_then(|errno| u32::try_from(errno).ok()).unwrap_or(libc::EIO as u32)
}
