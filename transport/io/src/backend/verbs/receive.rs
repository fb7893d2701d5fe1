//! Takes packets off a queue pair, and has the device read what they tell of to its place.

use std::sync::Arc;
use std::time::Instant;

use xfer_sys::verbs::{Access, MemoryRegion};
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::rdma::{Body, RdmaPacket};

use super::registrations::Registrations;
use super::send::Sender;
use super::wire::Wire;
use crate::Slice;
use crate::backend::LinkError;
use crate::backend::frame::{Frame, violation};
use crate::intake::{Intake, Pulling};

/// Most that one read brings: it is still in the second-level cache when it is summed, which goes on while the next ones arrive.
const PART_BYTES: usize = 128 << 10;

pub(super) struct Receiver {
    frame: Frame,
    pull: Option<Pull>,
    registrations: Registrations,
}

/// A chunk that the device reads.
struct Pull {
    len: usize,
    /// What was posted, and what of it has landed.
    posted: usize,
    landed: usize,
    /// Reads of this link that were over before it.
    before: u64,
    parts_landed: u64,
    memory: Slice,
    registration: Arc<MemoryRegion>,
    remote: u64,
    key: u32,
    wanted: bool,
}

impl Receiver {
    pub(super) fn new(wire: &Wire) -> Self {
        let registrations = Registrations::new(wire.domain(), Access::LOCAL_WRITE);
        Self { frame: Frame::None, pull: None, registrations }
    }

    /// Whether a chunk is being read, so that there will be more to say soon.
    pub(super) fn is_reading(&self) -> bool {
        self.pull.is_some()
    }

    /// When it has something to forget.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.registrations.poll_timeout()
    }

    /// Forgets what nobody has used for a while.
    pub(super) fn look(&mut self, now: Instant) {
        self.registrations.look(now);
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
            if let Some(pull) = &mut self.pull {
                if !pull.go_on(wire, intake, budget)? {
                    return Ok(*budget == 0);
                }
                let len_bytes = pull.len as u64;
                self.pull = None;
                wire.took(len_bytes);
                wire.send_returns(wire.has_arrived())?;
            }
            if *budget == 0 || intake.is_paused() {
                return Ok(wire.has_arrived());
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
        intake.begin_chunk(header)?;
        let memory = match intake.destination() {
            Some(memory) => memory,
            None => {
                // Not wanted, so not read either: its owner may use the memory for something else by now.
                intake.finish_chunk();
                wire.took(len as u64);
                return Ok(());
            }
        };
        let registration = match self.registrations.of(&memory, Instant::now()) {
            Ok(registration) => registration,
            Err(error) => {
                intake.spoil_chunk();
                sender.tell_unread(&error);
                wire.took(len as u64);
                return Ok(());
            }
        };
        let (before, wanted) = (wire.reads_so_far().0, true);
        let (posted, landed, parts_landed) = (0, 0, 0);
        self.pull = Some(Pull { len, posted, landed, before, parts_landed, memory, registration, remote, key, wanted });
        Ok(())
    }
}

impl Pull {
    /// Takes in what has landed and has the device read on. Whether that was all.
    fn go_on(&mut self, wire: &Arc<Wire>, intake: &mut Intake, budget: &mut usize) -> Result<bool, LinkError> {
        let pulling = Arc::clone(wire) as Arc<dyn Pulling>;
        loop {
            while self.wanted && self.posted < self.len && wire.has_room_to_read() {
                let (at, part) = (self.posted, (self.len - self.posted).min(PART_BYTES));
                let read =
                    || wire.read((&self.memory, at, part), &self.registration, (self.remote + at as u64, self.key));
                match intake.pull(&pulling, read) {
                    Ok(true) => self.posted += part,
                    Ok(false) => self.wanted = false,
                    Err(error) => return Err(LinkError::Io(error)),
                }
            }
            let parts = wire.reads_so_far().1 - self.before;
            if wire.has_failed() {
                // What was flushed has not landed.
                return Ok(false);
            }
            if self.parts_landed < parts {
                self.parts_landed += 1;
                let part = (self.posted - self.landed).min(PART_BYTES);
                // It lies there already: what is left is to sum it.
                self.landed += intake.place(self.landed, |_| Ok::<_, LinkError>(part))?;
                intake.heard(part);
                *budget = budget.saturating_sub(part);
                continue;
            }
            if self.landed < self.posted || (self.wanted && self.posted < self.len) {
                return Ok(false);
            }
            intake.finish_chunk();
            return Ok(true);
        }
    }
}
