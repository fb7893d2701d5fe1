//! Takes packets off a queue pair, and has the device read what they tell of to its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use xfer_sys::verbs::{Access, MemoryRegion, VerbsError};
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::message::Ack;
use xfer_transport_core::rdma::{Body, RdmaPacket};

use super::registrations::Registrations;
use super::send::Sender;
use super::staging::{Place, Staging};
use super::wire::{Reads, Wire};
use crate::Slice;
use crate::backend::LinkError;
use crate::backend::frame::{Frame, violation};
use crate::intake::{Arriving, Intake, Landing, Pulling};
use crate::limits::{EXPOSED_BYTES_ENOUGH, EXPOSED_CHUNKS_MAX};

/// Most that one read brings: it is still in the second-level cache when it is summed, which goes on while the next ones arrive.
const PART_BYTES: usize = 128 << 10;

/// While so many chunks of a link wait to have been read, acknowledgements wait for each other: the other end, which has to be woken
/// for them, has enough to do meanwhile.
const PULLS_ENOUGH: usize = 4;

/// So many of them leave together, or what so many bytes are acknowledged by.
const ACKS_ENOUGH: usize = 4;
const ACKED_BYTES_ENOUGH: u64 = EXPOSED_BYTES_ENOUGH / 4;

pub(super) struct Receiver {
    frame: Frame,
    /// Chunks that the device reads, in the order in which they were exposed.
    pulls: VecDeque<Pull>,
    /// Acknowledgements that wait for others, and for how many bytes they are.
    acks: Vec<Ack>,
    acked_bytes: u64,
    registrations: Registrations,
    staging: Staging,
}

/// A chunk that the other end has exposed, until it may be told that it was taken.
struct Pull {
    len: usize,
    /// Nothing, if it is not wanted, or can't be read.
    reading: Option<Reading>,
}

/// A chunk that the device reads.
struct Reading {
    /// As the intake knows it.
    chunk: Option<Arriving>,
    len: usize,
    /// What was posted, and what of it has landed.
    posted: usize,
    landed: usize,
    /// How many of the link's reads are over when those of it are that have landed.
    over: u64,
    target: Target,
    remote: u64,
    key: u32,
    wanted: bool,
    reads: Arc<Reads>,
}

/// Where the device writes what it reads.
enum Target {
    /// To its place.
    Place(Slice, Arc<MemoryRegion>),
    /// Beside it, since it doesn't reach that: the parts that were posted and have not landed, the oldest first.
    Beside(VecDeque<Place>),
}

impl Receiver {
    pub(super) fn new(wire: &Wire) -> Self {
        let registrations = Registrations::new(wire.domain(), &wire.rail().dmabufs, Access::LOCAL_WRITE);
        let staging = Staging::new(wire.domain(), PART_BYTES);
        Self { frame: Frame::None, pulls: VecDeque::new(), acks: Vec::new(), acked_bytes: 0, registrations, staging }
    }

    /// Whether a chunk is being read, so that there will be more to say soon.
    pub(super) fn is_reading(&self) -> bool {
        !self.pulls.is_empty()
    }

    /// When it has something to forget.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.registrations.poll_timeout()
    }

    /// Forgets what nobody has used for a while.
    pub(super) fn look(&mut self, now: Instant) {
        self.registrations.look(now);
    }

    /// Keeps back what there is to acknowledge while it can wait for more, which is sure to come: chunks are being read.
    pub(super) fn gather_acks(&mut self, intake: &mut Intake, is_over: bool) {
        if intake.acks.is_empty() && self.acks.is_empty() {
            return;
        }
        self.acks.append(&mut intake.acks);
        let enough = self.acks.len() >= ACKS_ENOUGH || self.acked_bytes >= ACKED_BYTES_ENOUGH;
        if enough || is_over || self.pulls.len() < PULLS_ENOUGH {
            intake.acks.append(&mut self.acks);
            self.acked_bytes = 0;
        }
    }

    /// Receives until nothing is left, or somebody has to look at what arrived first: then there is more.
    pub(super) fn receive(
        &mut self,
        wire: &Arc<Wire>,
        sender: &mut Sender,
        intake: &mut Intake,
        budget: &mut usize,
    ) -> Result<bool, LinkError> {
        loop {
            self.go_on(wire, intake, budget)?;
            if *budget == 0 || intake.is_paused() {
                return Ok(*budget == 0 || wire.has_arrived());
            }
            let taken = wire.next_packet(|bytes| -> Result<usize, LinkError> {
                intake.heard(bytes.len());
                let packet = RdmaPacket::decode(bytes).map_err(|error| violation(&error.to_string()))?;
                self.take(&packet, wire, sender, intake)?;
                Ok(bytes.len())
            })?;
            match taken {
                Some(len) => *budget = budget.saturating_sub(len?),
                None => return Ok(false),
            }
        }
    }

    fn take(
        &mut self,
        packet: &RdmaPacket<'_>,
        wire: &Arc<Wire>,
        sender: &mut Sender,
        intake: &mut Intake,
    ) -> Result<(), LinkError> {
        match packet.body {
            Body::Nothing => Ok(()),
            Body::Frame { header, inline } => {
                self.frame.begin(header, intake)?;
                self.frame.bytes(inline, intake)
            }
            Body::More(inline) => self.frame.bytes(inline, intake),
            Body::Exposed { header, at, key } => self.pull(header, (at, key), wire, sender, intake),
            Body::Abandon => self.frame.abandon(intake),
            Body::Unread { errno } => {
                sender.unread(errno);
                Ok(())
            }
        }
    }

    /// A chunk that lies in the other end's memory.
    fn pull(
        &mut self,
        header: FrameHeader,
        (remote, key): (u64, u32),
        wire: &Arc<Wire>,
        sender: &mut Sender,
        intake: &mut Intake,
    ) -> Result<(), LinkError> {
        let len = header.len_bytes as usize;
        if header.kind != FrameKind::Data || len == 0 || remote.checked_add(len as u64).is_none() {
            return Err(violation("a frame in memory where none can be"));
        }
        if !matches!(self.frame, Frame::None) {
            return Err(violation("a chunk inside a frame"));
        }
        if self.pulls.len() >= EXPOSED_CHUNKS_MAX {
            return Err(violation("more chunks at once than may be exposed"));
        }
        intake.begin_chunk(header)?;
        let mut reading = None;
        match intake.destination().map(|memory| self.way_into(memory)) {
            // Not wanted, so not read either: its owner may use the memory for something else by now.
            None => intake.finish_chunk(),
            Some(Err(error)) => {
                intake.spoil_chunk();
                sender.tell_unread(&error);
            }
            Some(Ok(target)) => {
                let (posted, landed, over, wanted, mut chunk) = (0, 0, 0, true, None);
                intake.exchange(&mut chunk);
                let reads = Arc::new(Reads::new(wire));
                reading = Some(Reading { chunk, len, posted, landed, over, target, remote, key, wanted, reads });
            }
        }
        self.pulls.push_back(Pull { len, reading });
        Ok(())
    }

    /// How the device gets a chunk to its place.
    fn way_into(&mut self, memory: Slice) -> Result<Target, VerbsError> {
        match self.registrations.of(&memory, Instant::now()) {
            Ok(registration) => Ok(Target::Place(memory, registration)),
            // Other memory is read to its place as before.
            Err(_) if memory.region().is_dmabuf() => self.staging.prepare().map(|()| Target::Beside(VecDeque::new())),
            Err(error) => Err(error),
        }
    }

    /// Takes in what has landed, and has the device read on: several chunks at once, since each takes a round trip.
    fn go_on(&mut self, wire: &Arc<Wire>, intake: &mut Intake, budget: &mut usize) -> Result<(), LinkError> {
        loop {
            for reading in self.pulls.iter_mut().filter_map(|pull| pull.reading.as_mut()) {
                if !reading.post(wire, &mut self.staging, intake)? {
                    break;
                }
            }
            let Some(Pull { len, reading }) = self.pulls.front_mut() else { return Ok(()) };
            if let Some(reading) = reading
                && !reading.land(wire, &mut self.staging, intake, budget)?
            {
                return Ok(());
            }
            wire.took(*len as u64);
            self.acked_bytes += *len as u64;
            self.pulls.pop_front();
            // Others are under way, or are about to be.
            wire.send_returns(true)?;
        }
    }
}

impl Reading {
    /// Has the device read on. Whether that was all: what it is told later is to come later.
    fn post(&mut self, wire: &Arc<Wire>, staging: &mut Staging, intake: &mut Intake) -> Result<bool, LinkError> {
        if !self.wanted || self.posted == self.len {
            return Ok(true);
        }
        let pulling = Arc::clone(&self.reads) as Arc<dyn Pulling>;
        intake.exchange(&mut self.chunk);
        let mut posted = Ok(true);
        while let Ok(true) = posted
            && self.posted < self.len
            && wire.has_room_to_read()
        {
            let (at, part) = (self.posted, (self.len - self.posted).min(PART_BYTES));
            let mut until = 0;
            let place = match &self.target {
                Target::Place(..) => None,
                Target::Beside(_) => staging.take(),
            };
            let (to, registration) = match (&self.target, &place) {
                (Target::Place(memory, registration), _) => ((memory, at, part), registration),
                (Target::Beside(_), Some(place)) => ((&place.memory, 0, part), &place.registration),
                // Parts that come before have all places, and give them back as they land.
                (Target::Beside(_), None) => break,
            };
            posted = intake.pull(&pulling, || {
                until = wire.read(to, registration, (self.remote + at as u64, self.key))?;
                // A fence finds it before it can ask for it: it needs the lock under which this runs.
                self.reads.go_on_until(until);
                Ok::<_, LinkError>(())
            });
            match posted {
                Ok(true) => {
                    if self.posted == 0 {
                        self.over = until - 1;
                    }
                    self.posted += part;
                    if let Target::Beside(places) = &mut self.target {
                        places.extend(place);
                    }
                }
                Ok(false) => {
                    self.wanted = false;
                    place.iter().for_each(|place| staging.give_back(place));
                }
                Err(_) => {}
            }
        }
        intake.exchange(&mut self.chunk);
        posted?;
        Ok(!self.wanted || self.posted == self.len)
    }

    /// Takes in what has landed. Whether that was all.
    fn land(
        &mut self,
        wire: &Wire,
        staging: &mut Staging,
        intake: &mut Intake,
        budget: &mut usize,
    ) -> Result<bool, LinkError> {
        let over = wire.reads_so_far();
        if wire.has_failed() {
            // What was flushed has not landed.
            return Ok(false);
        }
        intake.exchange(&mut self.chunk);
        while self.landed < self.posted && self.over < over {
            let part = (self.posted - self.landed).min(PART_BYTES);
            let at = self.landed;
            let beside = match &mut self.target {
                Target::Place(..) => None,
                Target::Beside(places) => places.pop_front(),
            };
            self.landed += intake.place(at, |landing| {
                // Else it lies there already: what is left is to sum it.
                if let (Landing::Memory(memory), Some(beside)) = (landing, &beside) {
                    memory.copy_from_slice(at, &beside.memory, 0, part);
                }
                Ok::<_, LinkError>(part)
            })?;
            beside.iter().for_each(|place| staging.give_back(place));
            self.over += 1;
            intake.heard(part);
            *budget = budget.saturating_sub(part);
        }
        let all = self.landed == self.posted && (!self.wanted || self.posted == self.len);
        if all {
            intake.finish_chunk();
        }
        intake.exchange(&mut self.chunk);
        Ok(all)
    }
}
