//! One queue pair with its buffers: what was posted, what has completed, and the proof that a device is through with memory.
//!
//! Everything is behind one lock, under which nobody waits, so that whoever needs a proof finds it by itself: the link's own
//! thread, one that cancels, one that revokes a grant. **A read is over when its completion was found**, as done, failed or
//! flushed; a queue pair that is told to fail flushes everything, and one that was destroyed is through without saying so. **A
//! source is read no more when its registration has ended**, a call that returns only then.
#![allow(unsafe_code, reason = "a device is given memory")]

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use xfer_sys::verbs::{
    Access, Capacity, Completion, CompletionChannel, CompletionQueue, MemoryRegion, MemoryWindow, Part, Path,
    ProtectionDomain, QueuePair, Status, Timing, VerbsError, Work,
};
use xfer_transport_core::frame::FrameHeader;
use xfer_transport_core::rdma::{self, Body, Introduction, PACKET_BYTES_MAX, RdmaPacket};

use super::buffers::Buffers;
use super::rail::Rail;
use super::registrations::Registrations;
use crate::backend::LinkError;
use crate::gate::Reader;
use crate::grants::random_u64;
use crate::intake::Pulling;
use crate::limits::{
    DRAIN_TIMEOUT, EXPOSED_BYTES_ENOUGH, EXPOSED_CHUNKS_MAX, RDMA_ROOM, READER_GRACE, READER_LOOK_EVERY, READS_MAX,
};
use crate::memory::Slice;
use crate::transfer::{Exposed, Source};

/// An answer is waited for 134 ms, six times: a network that drops for half a second is survived, and one that is gone is
/// noticed before the silence of a second after which a link is given up anyway.
const TIMING: Timing = Timing { timeout_exponent: 15, retries: 5 };

/// What is left of the other end's room to packets that say that there is room here: else both ends could wait for each other.
const ROOM_FOR_RETURNS: u32 = 2;

/// Room that has come free here without being said.
const RETURN_AFTER: u16 = RDMA_ROOM / 2;

/// What was taken is said when so many chunks, or so many bytes, were: of small ones several at once, of large ones each, since the
/// other end may expose only so much.
const TAKEN_ENOUGH: u32 = 4;
const TAKEN_BYTES_ENOUGH: u64 = EXPOSED_BYTES_ENOUGH / 4;

/// Bytes that are copied into the work itself, where the device can: a sign of life, an acknowledgement, a small message.
const INLINE_BYTES: u32 = 220;

/// The kinds of work, in the highest byte of its number.
mod kind {
    pub(super) const ROOM: u64 = 1;
    pub(super) const SEND: u64 = 2;
    pub(super) const READ: u64 = 3;
    pub(super) const OPEN: u64 = 4;
    pub(super) const CLOSE: u64 = 5;

    /// What is left for the number of what it is about.
    pub(super) const NUMBER: u64 = (1 << 56) - 1;
}

/// One queue pair.
#[derive(Debug)]
pub(super) struct Wire {
    /// Before the buffers, so that it ends first.
    queue: Mutex<Queue>,
    completions: Arc<CompletionQueue>,
    domain: Arc<ProtectionDomain>,
    rail: Rail,
    psn: u32,
    /// For what arrives.
    room: Buffers,
    /// For what leaves.
    outbox: Buffers,
}

#[derive(Debug)]
struct Queue {
    pair: QueuePair,
    /// Buffers of the outbox that no device has.
    free: Vec<u16>,
    /// Packets that have arrived: which buffer, and how long.
    arrived: VecDeque<(u16, u32)>,
    /// Packets that the other end has room for.
    credits: u32,
    /// Room of ours that it doesn't know of.
    freed: u16,
    /// Chunks of its that were read, of which it doesn't know, and how many bytes they have.
    taken: u32,
    taken_bytes: u64,
    /// Reads that were posted, and those whose end is known.
    posted: u64,
    done: u64,
    /// Where they write, and what they are allowed to by.
    landing: Option<(Slice, Arc<MemoryRegion>)>,
    /// What the other end may read, in the order in which it will.
    exposures: VecDeque<Exposure>,
    exposed_bytes: u64,
    /// What was taken, and whose window is being closed.
    closing: Vec<Exposure>,
    /// Windows that are closed.
    windows: Vec<MemoryWindow>,
    failed: Option<Failure>,
    /// Work that may still be posted before the queue pair fails on purpose.
    left: Option<u64>,
    found: Vec<Completion>,
}

/// A chunk that the other end may read, until it is taken or taken back.
#[derive(Debug)]
struct Exposure {
    number: u64,
    len_bytes: u64,
    /// Before the source, so that it ends first.
    hold: Option<Hold>,
    exposed: Option<Exposed>,
}

/// What lets the other end read.
#[derive(Debug)]
enum Hold {
    /// A registration for this chunk alone.
    Registration(MemoryRegion),
    /// A window on a registration that is kept, which by itself lets nobody in.
    Window { window: MemoryWindow, key: u32, _on: Arc<MemoryRegion> },
}

/// Why nothing more goes over a queue pair.
#[derive(Debug, Clone)]
enum Failure {
    Status(Status, &'static str),
    Call(String),
    Violation(&'static str),
}

impl Wire {
    /// A queue pair on a device, with room for packets, that is not connected.
    pub(super) fn new(rail: &Rail) -> io::Result<Arc<Self>> {
        let domain = ProtectionDomain::new(&rail.context)?;
        let channel = CompletionChannel::new(&rail.context)?;
        let room = u32::from(RDMA_ROOM);
        // Windows are opened and closed by work of their own.
        let sends = room + u32::from(READS_MAX) + 2 * EXPOSED_CHUNKS_MAX as u32;
        let capacity = Capacity { sends, receives: room, inline_bytes: INLINE_BYTES };
        let entries = capacity.sends + capacity.receives;
        if rail.context.work_max() < entries {
            let name = rail.context.name();
            return Err(io::Error::other(format!(
                "{name} holds {} pieces of work, {entries} are needed",
                rail.context.work_max()
            )));
        }
        let completions = Arc::new(CompletionQueue::new(channel, entries)?);
        let pair = match QueuePair::new(&domain, &completions, capacity) {
            // Some devices refuse what they can't copy.
            Err(_) => QueuePair::new(&domain, &completions, Capacity { inline_bytes: 0, ..capacity })?,
            Ok(pair) => pair,
        };
        pair.prepare(rail.port.number, Access::REMOTE_READ)?;
        let wire = Self {
            queue: Mutex::new(Queue {
                pair,
                free: (0..RDMA_ROOM).rev().collect(),
                arrived: VecDeque::new(),
                credits: 0,
                freed: 0,
                taken: 0,
                taken_bytes: 0,
                posted: 0,
                done: 0,
                landing: None,
                exposures: VecDeque::new(),
                exposed_bytes: 0,
                closing: Vec::new(),
                windows: Vec::new(),
                failed: None,
                left: rail.fails_after,
                found: Vec::new(),
            }),
            completions,
            rail: rail.clone(),
            psn: random_u64() as u32 >> 8,
            room: Buffers::new(&domain, RDMA_ROOM, PACKET_BYTES_MAX, Access::LOCAL_WRITE)?,
            outbox: Buffers::new(&domain, RDMA_ROOM, PACKET_BYTES_MAX, Access::LOCAL_READ)?,
            domain,
        };
        {
            let queue = wire.lock();
            for buffer in 0..RDMA_ROOM {
                wire.post_room(&queue, buffer)?;
            }
        }
        Ok(Arc::new(wire))
    }

    pub(super) fn rail(&self) -> &Rail {
        &self.rail
    }

    pub(super) fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    /// How the other end finds this one.
    pub(super) fn introduction(&self, rail: u8) -> Introduction {
        Introduction {
            queue_pair: self.lock().pair.number(),
            psn: self.psn,
            gid: self.rail.gid.bytes,
            mtu_bytes: self.rail.port.mtu_bytes,
            reads: self.reads(),
            rail,
            room: RDMA_ROOM,
        }
    }

    /// Connects it with who has introduced himself.
    pub(super) fn connect(&self, other: &Introduction) -> io::Result<()> {
        let mut queue = self.lock();
        let path = Path {
            port: self.rail.port.number,
            gid_index: self.rail.gid.index,
            gid: other.gid,
            queue_pair: other.queue_pair,
            psn: other.psn,
            mtu_bytes: self.rail.port.mtu_bytes.min(other.mtu_bytes),
            reads_of_peer: self.reads(),
        };
        queue.pair.connect(&path)?;
        queue.pair.start(self.psn, self.reads().min(other.reads).max(1), TIMING)?;
        queue.credits = u32::from(other.room.min(RDMA_ROOM));
        Ok(())
    }

    fn reads(&self) -> u8 {
        self.rail.context.reads_max().min(READS_MAX)
    }

    // Completions.

    /// Takes in what has completed.
    pub(super) fn turn(&self) {
        let mut over = Vec::new();
        {
            let mut queue = self.lock();
            self.take_in(&mut queue, &mut over);
        }
        // Their memory may be somebody's whose end takes other locks.
        drop(over);
    }

    /// Has the next completion announced by the descriptor.
    pub(super) fn arm(&self) -> io::Result<()> {
        Ok(self.completions.arm()?)
    }

    /// Whether something was announced; then it has to be armed again.
    pub(super) fn take_announcements(&self) -> bool {
        self.completions.take_announcements()
    }

    /// What becomes readable when something was announced.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.completions.channel().as_fd()
    }

    /// Why nothing more goes over it, once that is so.
    pub(super) fn failure(&self) -> Option<LinkError> {
        let failed = self.lock().failed.clone()?;
        let rail = &self.rail;
        Some(match failed {
            Failure::Status(status, what) => LinkError::Io(io::Error::other(format!("{what} over {rail}: {status}"))),
            Failure::Call(sentence) => LinkError::Io(io::Error::other(format!("{rail}: {sentence}"))),
            Failure::Violation(words) => LinkError::Violation(words.to_owned()),
        })
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    fn take_in(&self, queue: &mut Queue, over: &mut Vec<Exposure>) {
        let mut found = std::mem::take(&mut queue.found);
        loop {
            match self.completions.poll(|completion| found.push(completion)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    queue.fail_with(Failure::Call(error.to_string()));
                    break;
                }
            }
        }
        for completion in found.drain(..) {
            let number = completion.id as u16;
            let what = match completion.id >> 56 {
                kind::ROOM => "receiving",
                kind::SEND => "sending",
                kind::READ => "reading the peer's memory",
                kind::OPEN => "opening a window",
                _ => "closing a window",
            };
            if completion.id >> 56 == kind::OPEN && !completion.status.is_ok() && completion.status != Status::FLUSHED {
                // The next link does without them.
                tracing::warn!("no windows over {}: {}", self.rail, completion.status);
                self.rail.has_windows.store(false, Ordering::Relaxed);
            }
            if !completion.status.is_ok() {
                queue.fail_with(Failure::Status(completion.status, what));
            }
            match completion.id >> 56 {
                kind::READ => {
                    queue.done += 1;
                    if queue.done == queue.posted {
                        queue.landing = None;
                    }
                }
                kind::SEND => queue.free.push(number),
                kind::CLOSE if completion.status.is_ok() => queue.closed(completion.id & kind::NUMBER, over),
                kind::ROOM if completion.status.is_ok() => {
                    // SAFETY: what has arrived is ours until the buffer is posted again.
                    let bytes = unsafe { self.room.bytes(number, completion.len_bytes as usize) };
                    match rdma::numbers_of(bytes) {
                        Some((taken, freed)) => {
                            queue.credits += u32::from(freed);
                            if queue.credits > u32::from(RDMA_ROOM) {
                                queue.fail_with(Failure::Violation("it has more room than there is"));
                            }
                            queue.take(taken, over);
                            queue.arrived.push_back((number, completion.len_bytes));
                        }
                        None => queue.fail_with(Failure::Violation("a packet without its head")),
                    }
                }
                _ => {}
            }
        }
        queue.found = found;
    }

    // Packets.

    /// Looks at the oldest packet that has arrived, and makes room for another.
    pub(super) fn next_packet<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, LinkError> {
        let Some((buffer, len_bytes)) = self.lock().arrived.pop_front() else { return Ok(None) };
        // SAFETY: what has arrived is ours until the buffer is posted again, below.
        let result = look(unsafe { self.room.bytes(buffer, len_bytes as usize) });
        let mut queue = self.lock();
        if queue.failed.is_none() {
            self.post_room(&queue, buffer).map_err(io::Error::from)?;
            queue.freed += 1;
        }
        Ok(Some(result))
    }

    pub(super) fn has_arrived(&self) -> bool {
        !self.lock().arrived.is_empty()
    }

    /// Whether a packet could be sent now that brings something.
    pub(super) fn has_room(&self) -> bool {
        let queue = self.lock();
        queue.failed.is_none() && queue.credits > ROOM_FOR_RETURNS && !queue.free.is_empty()
    }

    /// Whether another chunk may be exposed.
    pub(super) fn has_room_to_expose(&self) -> bool {
        let queue = self.lock();
        queue.exposures.len() + queue.closing.len() < EXPOSED_CHUNKS_MAX && queue.exposed_bytes <= EXPOSED_BYTES_ENOUGH
    }

    /// Whether all that was sent has arrived at the other end.
    pub(super) fn is_drained(&self) -> bool {
        self.lock().free.len() == usize::from(RDMA_ROOM)
    }

    /// Sends a packet, if there is room for it.
    pub(super) fn send(&self, body: &Body<'_>, payload: Payload<'_>) -> io::Result<bool> {
        let mut queue = self.lock();
        if queue.failed.is_some() || queue.credits <= ROOM_FOR_RETURNS || queue.free.is_empty() {
            return Ok(false);
        }
        self.send_now(&mut queue, body, payload).map(|()| true)
    }

    /// The chunk that was being read is through, or was not wanted.
    pub(super) fn took(&self, len_bytes: u64) {
        let mut queue = self.lock();
        queue.taken += 1;
        queue.taken_bytes += len_bytes;
    }

    /// Says what was taken and what has come free, if that can't wait for a packet that leaves anyway: `busy` is whether more
    /// is about to be taken. `false`: it has to be said again later.
    pub(super) fn send_returns(&self, busy: bool) -> io::Result<bool> {
        let mut queue = self.lock();
        let credits_due = queue.freed >= RETURN_AFTER;
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

    fn send_now(&self, queue: &mut Queue, body: &Body<'_>, payload: Payload<'_>) -> io::Result<()> {
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
        // SAFETY: the outbox outlives the queue pair, and the buffer is not touched before it is free again.
        let posted = unsafe { queue.post(kind::SEND << 56 | u64::from(buffer), &Work::Send { part, inline }) };
        if let Err(error) = posted {
            queue.free.push(buffer);
            queue.fail_with(Failure::Call(error.to_string()));
            return Err(error.into());
        }
        queue.credits -= 1;
        queue.taken -= taken;
        queue.taken_bytes = 0;
        queue.freed = 0;
        Ok(())
    }

    fn post_room(&self, queue: &Queue, buffer: u16) -> Result<(), VerbsError> {
        let part = self.room.part(buffer, self.room.len_bytes());
        // SAFETY: the room outlives the queue pair, and the buffer is not looked at before something has arrived in it.
        unsafe { queue.pair.post_room(kind::ROOM << 56 | u64::from(buffer), part) }
    }

    // Reading the other end's memory.

    /// Reads so far, and those of them whose end is known.
    pub(super) fn reads_so_far(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.posted, queue.done)
    }

    /// Whether another read may be posted.
    pub(super) fn has_room_to_read(&self) -> bool {
        let queue = self.lock();
        queue.failed.is_none() && queue.posted - queue.done < u64::from(self.reads())
    }

    /// Reads `len` bytes at `remote` of the other end to `at` of `memory`, which stays as it is until that is over.
    pub(super) fn read(
        &self,
        (memory, at, len): (&Slice, usize, usize),
        registration: &Arc<MemoryRegion>,
        (remote, remote_key): (u64, u32),
    ) -> io::Result<()> {
        let mut queue = self.lock();
        let start = memory.as_ptr() as u64 + at as u64;
        debug_assert!((at + len) as u64 <= memory.len_bytes());
        let part = Part { start, len_bytes: len as u32, key: registration.local_key() };
        queue.landing = Some((memory.clone(), Arc::clone(registration)));
        // SAFETY: the range is inside the slice, which is kept beside the queue pair until the read is known to be over, and which
        // others look at as at memory that a peer writes.
        let posted = unsafe { queue.post(kind::READ << 56, &Work::Read { part, remote, remote_key }) };
        if let Err(error) = posted {
            queue.fail_with(Failure::Call(error.to_string()));
            return Err(error.into());
        }
        queue.posted += 1;
        Ok(())
    }

    /// Waits until the first `until` reads are over, at most for `timeout`.
    fn reads_are_over(&self, until: u64, timeout: Duration) -> bool {
        let began = Instant::now();
        loop {
            self.turn();
            if self.lock().done >= until {
                return true;
            }
            if began.elapsed() >= timeout {
                return false;
            }
            thread::sleep(READER_LOOK_EVERY);
        }
    }

    /// Ends all reads by force: the proof that the device writes nothing more. `false` if there is none.
    fn stop_reading(&self) -> bool {
        let until = {
            let mut queue = self.lock();
            if queue.posted == queue.done {
                return true;
            }
            if let Err(error) = queue.pair.fail() {
                tracing::warn!("{}: {error}", self.rail);
            }
            queue.fail_with(Failure::Call("stopped, since it would not come to the end of a read".into()));
            queue.posted
        };
        if self.reads_are_over(until, DRAIN_TIMEOUT) {
            return true;
        }
        let mut queue = self.lock();
        match queue.end() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{}: {error}: memory that it may write is kept for ever", self.rail);
                std::mem::forget(queue.landing.take());
                false
            }
        }
    }

    // Letting the other end read ours.

    /// Exposes a chunk and says where it lies: through a window on what is registered already, where the device has windows. The
    /// error of the inner result: its memory can't be registered. `None`: it must not be read any more.
    pub(super) fn expose(
        self: &Arc<Self>,
        header: FrameHeader,
        source: &Source,
        windows: Option<&mut Registrations>,
    ) -> io::Result<Option<Result<(), VerbsError>>> {
        // Over all links: chunks of one source are on several.
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed) & kind::NUMBER;
        let Some(exposed) = source.expose(Arc::clone(self) as Arc<dyn Reader>, number) else { return Ok(None) };
        let (start, len_bytes) = (exposed.slice().as_ptr(), exposed.slice().len_bytes());
        let on = windows.and_then(|registrations| registrations.of(exposed.slice(), Instant::now()).ok());
        let mut alone = None;
        if on.is_none() {
            let access = Access::REMOTE_READ;
            // SAFETY: the source is kept by `exposed` until the registration has ended; devices read it as other processes would.
            let registered = unsafe { MemoryRegion::register(&self.domain, start, len_bytes as usize, access) };
            match registered {
                Ok(registration) => alone = Some(registration),
                Err(error) => return Ok(Some(Err(error))),
            }
        }
        let mut queue = self.lock();
        let hold = match (on, alone) {
            (Some(on), _) => self.open_window(&mut queue, number, on, (start as u64, len_bytes))?,
            (None, Some(registration)) => Hold::Registration(registration),
            (None, None) => return Ok(None),
        };
        let body = Body::Exposed { header, at: start as u64, key: hold.key() };
        queue.exposed_bytes += len_bytes;
        queue.exposures.push_back(Exposure { number, len_bytes, hold: Some(hold), exposed: Some(exposed) });
        // If that fails the link is over, and all that is exposed is taken back.
        self.send_now(&mut queue, &body, Payload::None)?;
        Ok(Some(Ok(())))
    }

    fn open_window(
        &self,
        queue: &mut Queue,
        number: u64,
        on: Arc<MemoryRegion>,
        (start, len_bytes): (u64, u64),
    ) -> io::Result<Hold> {
        let window = match queue.windows.pop() {
            Some(window) => window,
            None => MemoryWindow::new(&self.domain)?,
        };
        let key = window.next_key();
        let open = Work::Open { window: &window, key, on: &on, start, len_bytes };
        // SAFETY: the source is kept beside the queue pair until the window is closed, or ended by force.
        if let Err(error) = unsafe { queue.post(kind::OPEN << 56 | number, &open) } {
            queue.fail_with(Failure::Call(error.to_string()));
            return Err(error.into());
        }
        Ok(Hold::Window { window, key, _on: on })
    }

    // The end.

    /// Ends everything that a device does with memory.
    pub(super) fn halt(&self) {
        let (over, windows) = {
            let mut queue = self.lock();
            if !queue.exposures.is_empty() || !queue.closing.is_empty() {
                let _ = queue.pair.fail();
                queue.fail_with(Failure::Call("it is over".into()));
            }
            queue.exposed_bytes = 0;
            let mut over: Vec<Exposure> = queue.exposures.drain(..).collect();
            over.append(&mut queue.closing);
            (over, std::mem::take(&mut queue.windows))
        };
        over.into_iter().for_each(|exposure| self.take_back(exposure));
        // Before the queue pair, which they belong to.
        drop(windows);
        self.stop_reading();
    }

    /// Ends by force what lets the other end read a chunk; whoever waits for its source knows when this returns.
    fn take_back(&self, mut exposure: Exposure) {
        let ended = match exposure.hold.take() {
            Some(Hold::Registration(registration)) => registration.end(),
            Some(Hold::Window { window, .. }) => window.end(),
            None => Ok(()),
        };
        let Err(error) = ended else { return };
        // Nobody reaches this link's memory but through its queue pair.
        let mut queue = self.lock();
        queue.fail_with(Failure::Call(error.to_string()));
        let pair = queue.end();
        drop(queue);
        if let Err(error) = pair {
            tracing::error!("{}: {error}: memory that its peer may read is kept for ever", self.rail);
            std::mem::forget(exposure);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What follows the head of a packet.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    Source { slice: &'a Slice, from: usize, len: usize },
}

impl Queue {
    /// Posts work.
    ///
    /// # Safety
    ///
    /// As for [`QueuePair::post`].
    unsafe fn post(&mut self, id: u64, work: &Work<'_>) -> Result<(), VerbsError> {
        if let Some(left) = &mut self.left {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => self.pair.fail()?,
            }
        }
        // SAFETY: the caller's word.
        unsafe { self.pair.post(id, work) }
    }

    fn fail_with(&mut self, failure: Failure) {
        // What was flushed says only that something else had happened before.
        let says_nothing =
            |failure: &Failure| matches!(failure, Failure::Status(status, _) if *status == Status::FLUSHED);
        if self.failed.as_ref().is_none_or(|known| says_nothing(known) && !says_nothing(&failure)) {
            self.failed = Some(failure);
        }
    }

    /// The other end is through with the oldest chunks that it could read.
    fn take(&mut self, count: u8, over: &mut Vec<Exposure>) {
        for _ in 0..count {
            let Some(mut exposure) = self.exposures.pop_front() else {
                self.fail_with(Failure::Violation("it has taken more than it was shown"));
                return;
            };
            self.exposed_bytes -= exposure.len_bytes;
            let ended = match exposure.hold.take() {
                // Taken back before.
                None => Ok(()),
                Some(Hold::Registration(registration)) => registration.end(),
                Some(hold @ Hold::Window { .. }) => {
                    let (key, number) = (hold.key(), exposure.number);
                    exposure.hold = Some(hold);
                    // SAFETY: no memory is named.
                    let posted = unsafe { self.post(kind::CLOSE << 56 | number, &Work::Close { key }) };
                    self.closing.push(exposure);
                    if let Err(error) = posted {
                        self.fail_with(Failure::Call(error.to_string()));
                    }
                    continue;
                }
            };
            if let Err(error) = ended {
                self.fail_with(Failure::Call(error.to_string()));
                if self.end().is_err() {
                    std::mem::forget(exposure);
                    continue;
                }
            }
            over.push(exposure);
        }
    }

    /// A window is closed: nobody reads through it any more.
    fn closed(&mut self, number: u64, over: &mut Vec<Exposure>) {
        let Some(at) = self.closing.iter().position(|exposure| exposure.number == number) else { return };
        let mut exposure = self.closing.swap_remove(at);
        if let Some(Hold::Window { window, .. }) = exposure.hold.take() {
            self.windows.push(window);
        }
        over.push(exposure);
    }

    /// Ends the queue pair, after which the device neither reads nor writes anything through it.
    fn end(&mut self) -> Result<(), VerbsError> {
        self.pair.end()?;
        self.done = self.posted;
        self.landing = None;
        Ok(())
    }
}

impl Hold {
    /// The key under which the other end reads.
    fn key(&self) -> u32 {
        match self {
            Self::Registration(registration) => registration.remote_key(),
            Self::Window { key, .. } => *key,
        }
    }
}

impl Reader for Wire {
    fn look(&self) {
        self.turn();
    }

    fn stop(&self, number: u64) {
        let taken = {
            let mut queue = self.lock();
            let Queue { exposures, closing, .. } = &mut *queue;
            let Some(exposure) = exposures.iter_mut().chain(closing).find(|exposure| exposure.number == number) else {
                return;
            };
            // It keeps its place among what the other end takes.
            let (hold, exposed) = (exposure.hold.take(), exposure.exposed.take());
            Exposure { number, len_bytes: 0, hold, exposed }
        };
        self.take_back(taken);
    }
}

impl Pulling for Wire {
    fn stop(&self) -> bool {
        let (posted, done) = self.reads_so_far();
        done >= posted || self.reads_are_over(posted, READER_GRACE) || self.stop_reading()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.halt();
    }
}
