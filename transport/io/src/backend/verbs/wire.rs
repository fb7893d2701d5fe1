//! One queue pair with its buffers: what was posted, what has completed, and the proof that a device is through with memory.
//!
//! Everything is behind one lock, under which nobody waits, so that whoever needs a proof finds it by itself: the link's own
//! thread, one that cancels, one that revokes a grant. **A read is over when its completion was found**, as done, failed or
//! flushed; a queue pair that is told to fail flushes everything, and one that was destroyed is through without saying so. **A
//! source is read no more when its window is closed**, which has a completion, **or its registration has ended**, a call that returns
//! only then.
#![allow(unsafe_code, reason = "a device is given memory")]

mod completions;
mod exposures;
mod order;
mod packets;
mod reads;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xfer_sys::verbs::{
    Access, Capacity, Completion, CompletionChannel, CompletionQueue, MemoryRegion, MemoryWindow, Path,
    ProtectionDomain, QueuePair, Status, Timing, VerbsError, Work,
};
use xfer_transport_core::rdma::{Introduction, PACKET_BYTES_MAX};

use self::exposures::Exposure;
use self::order::Order;
pub(super) use self::packets::Payload;
pub(super) use self::reads::Reads;
use super::buffers::Buffers;
use super::rail::{Mishaps, Rail};
use super::watch::next_owner;
use crate::backend::LinkError;
use crate::grants::random_u64;
use crate::limits::{EXPOSED_CHUNKS_MAX, RDMA_ROOM, RDMA_ROOM_AT_FIRST, READS_MAX};
use crate::memory::Slice;
use crate::wake::Wake;

/// An answer is waited for 134 ms, six times: a network that drops for half a second is survived, and one that is gone is
/// noticed before the silence of a second after which a link is given up anyway.
const TIMING: Timing = Timing { timeout_exponent: 15, retries: 5 };

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

    /// What work of this number does.
    pub(super) fn words(id: u64) -> &'static str {
        match id >> 56 {
            ROOM => "receiving",
            SEND => "sending",
            READ => "reading the peer's memory",
            OPEN => "opening a window",
            _ => "closing a window",
        }
    }
}

/// One queue pair.
#[derive(Debug)]
pub(super) struct Wire {
    /// Before the buffers, so that it ends first.
    queue: Mutex<Queue>,
    completions: Arc<CompletionQueue>,
    /// Wakes the link's thread for what another one has taken in.
    nudge: Wake,
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
    /// How many there are, and as many for what arrives.
    room: u16,
    /// Packets that have arrived: which buffer, and how long.
    arrived: VecDeque<(u16, u32)>,
    /// Packets that the other end has room for.
    credits: u32,
    /// Room of ours that it doesn't know of.
    freed: u16,
    /// Chunks of its that were read, of which it doesn't know, and how many bytes they have.
    taken: u32,
    taken_bytes: u64,
    /// Reads that were posted, and those whose end is known: they come to it in this order.
    posted: u64,
    done: u64,
    /// Where they write, and what they are allowed to by, each until so many are done.
    landing: VecDeque<(u64, Slice, Arc<MemoryRegion>)>,
    /// Something has completed that the link's thread has not seen, and that gives it something to do.
    news: bool,
    /// What the other end may read, in the order in which it will.
    exposures: VecDeque<Exposure>,
    exposed_bytes: u64,
    /// What was taken, and whose window is being closed.
    closing: Vec<Exposure>,
    /// Windows that are closed.
    windows: Vec<MemoryWindow>,
    failed: Option<Failure>,
    order: Order,
    /// Something that has arrived was lost here.
    has_missed: bool,
    /// What goes wrong on purpose, counted down.
    mishaps: Mishaps,
    found: Vec<Completion>,
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
        // Windows are opened and closed by work of their own; an opening is known to be over with the packet behind it.
        let sends = 2 * room + u32::from(READS_MAX) + 2 * EXPOSED_CHUNKS_MAX as u32;
        let capacity = Capacity { sends, receives: room, inline_bytes: INLINE_BYTES };
        let entries = capacity.sends + capacity.receives;
        if rail.context.work_max() < entries {
            let name = rail.context.name();
            return Err(io::Error::other(format!(
                "{name} holds {} pieces of work, {entries} are needed",
                rail.context.work_max()
            )));
        }
        let owner = next_owner();
        let entries = rail.mishaps.completions.unwrap_or(entries);
        let completions = Arc::new(CompletionQueue::new(channel, entries, owner)?);
        let pair = match QueuePair::new(&domain, &completions, capacity) {
            // Some devices refuse what they can't copy.
            Err(_) => QueuePair::new(&domain, &completions, Capacity { inline_bytes: 0, ..capacity })?,
            Ok(pair) => pair,
        };
        pair.prepare(rail.port.number, Access::REMOTE_READ)?;
        let wire = Self {
            queue: Mutex::new(Queue {
                pair,
                free: (0..RDMA_ROOM_AT_FIRST).rev().collect(),
                room: RDMA_ROOM_AT_FIRST,
                arrived: VecDeque::new(),
                credits: 0,
                freed: 0,
                taken: 0,
                taken_bytes: 0,
                posted: 0,
                done: 0,
                landing: VecDeque::new(),
                news: false,
                exposures: VecDeque::new(),
                exposed_bytes: 0,
                closing: Vec::new(),
                windows: Vec::new(),
                failed: None,
                order: Order::default(),
                has_missed: false,
                mishaps: rail.mishaps,
                found: Vec::new(),
            }),
            completions,
            nudge: Wake::new()?,
            rail: rail.clone(),
            psn: random_u64() as u32 >> 8,
            room: Buffers::new(&domain, RDMA_ROOM_AT_FIRST, PACKET_BYTES_MAX, Access::LOCAL_WRITE)?,
            outbox: Buffers::new(&domain, RDMA_ROOM_AT_FIRST, PACKET_BYTES_MAX, Access::LOCAL_READ)?,
            domain,
        };
        for buffer in 0..RDMA_ROOM_AT_FIRST {
            wire.post_room(&mut wire.lock(), buffer)?;
        }
        let wire = Arc::new(wire);
        rail.watch.add(owner, rail.port.number, &wire);
        Ok(wire)
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
            room: RDMA_ROOM_AT_FIRST,
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

    /// Something of it can't be done: the next turn ends it.
    pub(super) fn fail(&self, error: &io::Error) {
        self.lock().fail_with(Failure::Call(error.to_string()));
    }

    /// Something has happened to the device that ends it.
    pub(super) fn ended_by(&self, why: &str) {
        self.lock().fail_with(Failure::Call(why.to_owned()));
        self.nudge.wake();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
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

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Posts work, at one call of the device.
    ///
    /// # Safety
    ///
    /// As for [`QueuePair::post`].
    unsafe fn post<const COUNT: usize>(&mut self, pieces: [(u64, &Work<'_>); COUNT]) -> Result<(), VerbsError> {
        if self.mishaps.is_to_fail(COUNT) {
            self.pair.fail()?;
        }
        for (id, work) in pieces {
            self.order.posted(id, !matches!(work, Work::Open { .. }));
        }
        // SAFETY: the caller's word.
        unsafe { self.pair.post(pieces) }
    }

    fn fail_with(&mut self, failure: Failure) {
        // What was flushed says only that something else had happened before.
        let says_nothing =
            |failure: &Failure| matches!(failure, Failure::Status(status, _) if *status == Status::FLUSHED);
        if self.failed.as_ref().is_none_or(|known| says_nothing(known) && !says_nothing(&failure)) {
            self.failed = Some(failure);
        }
    }

    /// Ends the queue pair, after which the device neither reads nor writes anything through it.
    fn end(&mut self) -> Result<(), VerbsError> {
        self.pair.end()?;
        self.done = self.posted;
        self.landing.clear();
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.halt();
    }
}
