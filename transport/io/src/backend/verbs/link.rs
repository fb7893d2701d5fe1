//! One link: how its queue pair comes up, what it waits for, and how it ends.
//!
//! ```text
//!   who calls                               who is called
//!   queue pair, introduction ─────────────▶ queue pair, connected, started
//!   connected, started       ◀───────────── introduction, or a refusal
//!   an empty packet          ═════════════▶ up
//!   up, once that has arrived
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xfer_transport_core::BackendId;
use xfer_transport_core::limits::REASON_BYTES_MAX;
use xfer_transport_core::rdma::{Body, INTRODUCTION_BYTES, Introduction, Opening};

use super::rail::Rail;
use super::receive::Receiver;
use super::send::Sender;
use super::wire::{Payload, Wire};
use crate::backend::{Interest, Link, LinkError, Manner, Op, Sight};
use crate::intake::Intake;

/// What becomes ready.
const CONTROL: u64 = 1;
const COMPLETIONS: u64 = 2;
const NUDGE: u64 = 3;
const DEVICE: u64 = 4;

/// One link.
pub(super) struct VerbsLink {
    control: TcpStream,
    /// Becomes readable when the connection or the completion channel does, or something has happened to the device.
    readiness: Arc<OwnedFd>,
    stage: Stage,
    /// What the next completion is announced for: for the other end's packets only, or for anything.
    armed: Option<Armed>,
    more: bool,
    /// Somebody waits for what was sent to have left.
    asked: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Armed {
    ForPackets,
    ForAll,
}

enum Stage {
    /// Called: the other end introduces itself first.
    Called { rails: Vec<Rail>, read: [u8; INTRODUCTION_BYTES], got: usize },
    /// It carries, or does once the first packet is there.
    Carrying(Box<Carrying>),
    /// It never came up.
    Failed,
}

struct Carrying {
    wire: Arc<Wire>,
    receiver: Receiver,
    sender: Sender,
    is_up: bool,
    /// It has as much room as a link to a peer has.
    has_grown: bool,
    /// The connection was closed by the other end.
    is_over: bool,
}

impl VerbsLink {
    /// Calls: returns once a packet has gone across.
    pub(super) fn call(mut stream: TcpStream, rail: &Rail, number: u8, until: Instant) -> io::Result<Self> {
        let left = || {
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            left.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
        };
        let wire = Wire::new(rail)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(left()?))?;
        stream.write_all(&Opening::Hello(wire.introduction(number)).encode())?;
        let mut words = [0; INTRODUCTION_BYTES];
        stream.set_read_timeout(Some(left()?))?;
        stream.read_exact(&mut words)?;
        let other = match Opening::decode(&words).map_err(io::Error::other)? {
            Opening::Hello(other) => other,
            Opening::Refusal { len_bytes } => {
                let mut sentence = vec![0; usize::from(len_bytes)];
                stream.set_read_timeout(Some(left()?))?;
                stream.read_exact(&mut sentence)?;
                let sentence = String::from_utf8_lossy(&sentence);
                return Err(io::Error::other(format!("it refuses: {}", sentence.escape_debug())));
            }
        };
        wire.connect(&other)?;
        wire.send(&Body::Nothing, Payload::None)?;
        // That it arrives is the proof that there is a way for such packets, which firewalls often don't know.
        loop {
            wire.turn();
            if let Some(error) = wire.failure() {
                return Err(io::Error::other(error.to_string()));
            }
            if wire.is_drained() {
                break;
            }
            wire.take_announcement();
            wire.arm(false)?;
            wire.turn();
            if !wire.is_drained() {
                let mut descriptors = [PollFd::from_borrowed_fd(wire.descriptor(), PollFlags::IN)];
                _ = poll(&mut descriptors, Timespec::try_from(left()?).ok().as_ref());
            }
        }
        stream.set_nonblocking(true)?;
        let readiness = watch(&stream)?;
        watch_wire(&readiness, &wire)?;
        Ok(Self {
            control: stream,
            readiness: Arc::new(readiness),
            stage: Stage::Carrying(Box::new(Carrying::new(wire, true))),
            armed: None,
            more: true,
            asked: AtomicBool::new(false),
        })
    }

    /// Is called: everything else happens when it is polled.
    pub(super) fn answer(stream: TcpStream, rails: &[Rail]) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let readiness = Arc::new(watch(&stream)?);
        let stage = Stage::Called { rails: rails.to_vec(), read: [0; INTRODUCTION_BYTES], got: 0 };
        let (armed, more, asked) = (None, false, AtomicBool::new(false));
        Ok(Self { control: stream, readiness, stage, armed, more, asked })
    }

    /// Reads what introduces the other end, and answers it.
    fn introduce(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        let Stage::Called { rails, read, got } = &mut self.stage else { return Ok(()) };
        while *got < read.len() {
            match (&self.control).read(&mut read[*got..]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(more) => {
                    *got += more;
                    intake.heard(more);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let opening = Opening::decode(read).map_err(|error| LinkError::Violation(error.to_string()))?;
        let Opening::Hello(other) = opening else {
            return Err(LinkError::Violation("a refusal of what nobody asked for".into()));
        };
        let rail = rails[usize::from(other.rail) % rails.len()].clone();
        self.stage = Stage::Failed;
        let answered = answer(&rail, &other, &self.readiness).and_then(|wire| {
            let words = Opening::Hello(wire.introduction(other.rail)).encode();
            (&self.control).write_all(&words).map(|()| wire)
        });
        match answered {
            Ok(wire) => {
                self.stage = Stage::Carrying(Box::new(Carrying::new(wire, false)));
                Ok(())
            }
            Err(error) => {
                let mut sentence = error.to_string();
                while sentence.len() > REASON_BYTES_MAX {
                    sentence.pop();
                }
                let head = Opening::Refusal { len_bytes: sentence.len() as u16 }.encode();
                _ = (&self.control).write_all(&[&head[..], sentence.as_bytes()].concat());
                Err(error.into())
            }
        }
    }

    fn carry(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        let Stage::Carrying(carrying) = &mut self.stage else { return Err(LinkError::Closed) };
        let Ready { said, announced, happened } = ready(&self.readiness)?;
        if happened {
            let rail = carrying.wire.rail();
            rail.watch.hear(&rail.context);
        }
        if said {
            // Before the packets, since what was sent before the end has arrived by then.
            carrying.hear_of_the_end(&self.control)?;
        }
        carrying.wire.nudge().clear();
        if announced && carrying.wire.take_announcement() {
            self.armed = None;
        }
        self.turn(intake)
    }

    /// Everything that there is to do now, without asking the system for it.
    fn turn(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        let Stage::Carrying(carrying) = &mut self.stage else { return Ok(()) };
        let mut budget = crate::limits::READ_BUDGET_BYTES;
        let turned = carrying.turn(intake, &mut budget);
        let failure = carrying.wire.failure();
        // What was taken in before the end is acknowledged all the same.
        carrying.receiver.gather_acks(intake, turned.is_err() || failure.is_some() || carrying.is_over);
        self.more = turned?;
        match failure {
            Some(error) => Err(error),
            None if carrying.is_over && !self.more => Err(LinkError::Closed),
            None => Ok(()),
        }
    }
}

/// A queue pair that is connected with who has called.
fn answer(rail: &Rail, other: &Introduction, readiness: &OwnedFd) -> io::Result<Arc<Wire>> {
    let wire = Wire::new(rail)?;
    wire.connect(other)?;
    watch_wire(readiness, &wire)?;
    Ok(wire)
}

/// A descriptor that becomes readable when one of several does.
fn watch(stream: &TcpStream) -> io::Result<OwnedFd> {
    let readiness = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&readiness, stream, EventData::new_u64(CONTROL), EventFlags::IN | EventFlags::RDHUP)?;
    Ok(readiness)
}

fn watch_wire(readiness: &OwnedFd, wire: &Wire) -> io::Result<()> {
    epoll::add(readiness, wire.nudge(), EventData::new_u64(NUDGE), EventFlags::IN)?;
    epoll::add(readiness, wire.rail().context.events(), EventData::new_u64(DEVICE), EventFlags::IN)?;
    Ok(epoll::add(readiness, wire.descriptor(), EventData::new_u64(COMPLETIONS), EventFlags::IN)?)
}

/// What there is something of.
struct Ready {
    /// On the connection.
    said: bool,
    /// Completions.
    announced: bool,
    /// Of the device, which is no link's alone.
    happened: bool,
}

/// What there is something of: one call in place of one for each.
fn ready(readiness: &OwnedFd) -> io::Result<Ready> {
    let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 4];
    match epoll::wait(readiness, &mut events[..], Some(&Timespec::default())) {
        Ok(count) => {
            let is_ready = |what| events[..count].iter().any(|event| event.data.u64() == what);
            Ok(Ready { said: is_ready(CONTROL), announced: is_ready(COMPLETIONS), happened: is_ready(DEVICE) })
        }
        Err(rustix::io::Errno::INTR) => Ok(Ready { said: true, announced: true, happened: true }),
        Err(error) => Err(error.into()),
    }
}

impl Carrying {
    fn new(wire: Arc<Wire>, is_up: bool) -> Self {
        let receiver = Receiver::new(&wire);
        let sender = Sender::new(&wire);
        Self { wire, receiver, sender, is_up, has_grown: false, is_over: false }
    }

    /// Whether the next turn ends it.
    fn has_failed(&self) -> bool {
        self.sender.has_failed() || self.wire.has_failed()
    }

    /// When there is something to forget.
    fn poll_timeout(&self) -> Option<Instant> {
        [self.receiver.poll_timeout(), self.sender.poll_timeout()].into_iter().flatten().min()
    }

    /// Everything that there is to do now. Whether there is more than the budget was for, or than may be taken in.
    fn turn(&mut self, intake: &mut Intake, budget: &mut usize) -> Result<bool, LinkError> {
        if !self.has_grown && intake.knows_peer() {
            self.has_grown = true;
            self.wire.grow();
        }
        self.wire.turn();
        self.wire.seen();
        // The first packet says that the other end is up too.
        self.is_up |= self.wire.has_arrived();
        let more = self.receiver.receive(&self.wire, &mut self.sender, intake, budget)?;
        self.sender.advance(&self.wire)?;
        self.wire.send_returns(true)?;
        let now = Instant::now();
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.receiver.look(now);
            self.sender.look(now);
        }
        Ok(more)
    }

    /// The connection says nothing but that it is over.
    fn hear_of_the_end(&mut self, mut control: &TcpStream) -> Result<(), LinkError> {
        match control.read(&mut [0; 16]) {
            Ok(0) => self.is_over = true,
            Ok(_) => return Err(LinkError::Violation("words on a connection that only has to stay open".into())),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Link for VerbsLink {
    fn backend(&self) -> BackendId {
        BackendId::Verbs
    }

    fn has_room(&self) -> bool {
        match &self.stage {
            Stage::Carrying(carrying) if carrying.is_up => {
                carrying.sender.is_idle() && carrying.wire.has_room() && carrying.wire.has_room_to_expose()
            }
            _ => false,
        }
    }

    fn submit(&mut self, op: Op) -> Result<(), Op> {
        match &mut self.stage {
            Stage::Carrying(carrying) if carrying.is_up => carrying.sender.submit(&carrying.wire, op),
            _ => Err(op),
        }
    }

    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        if matches!(self.stage, Stage::Called { .. }) {
            self.introduce(intake)?;
        }
        match self.stage {
            Stage::Called { .. } => Ok(()),
            _ => self.carry(intake),
        }
    }

    fn submitted(&mut self) {
        if let Stage::Carrying(carrying) = &mut self.stage {
            // What was sent has taken along what there was to return, or else it goes now. An error is the link's end, which the next
            // turn finds.
            let _ = carrying.wire.send_returns(carrying.receiver.is_reading());
        }
    }

    fn sight(&self) -> Sight {
        Sight::Memory
    }

    fn peek(&mut self) -> bool {
        matches!(&self.stage, Stage::Carrying(carrying) if self.more || carrying.wire.peek())
    }

    fn poll_peeked(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.turn(intake)
    }

    fn rests(&self) -> bool {
        true
    }

    fn rest(&mut self) -> bool {
        let Stage::Carrying(carrying) = &self.stage else { return false };
        loop {
            if carrying.wire.peek() {
                return true;
            }
            let for_packets = carrying.wire.waits_for_packets_only() && !self.asked.load(Ordering::Relaxed);
            let wanted = if for_packets { Armed::ForPackets } else { Armed::ForAll };
            if self.armed == Some(wanted) || self.armed == Some(Armed::ForAll) {
                return false;
            }
            // What has completed before it is armed is not announced: so it is looked at once more.
            if let Err(error) = carrying.wire.arm(for_packets) {
                carrying.wire.fail(&error);
            }
            self.armed = Some(wanted);
        }
    }

    fn is_drained(&self) -> bool {
        let Stage::Carrying(carrying) = &self.stage else { return true };
        let is_drained = carrying.sender.is_idle() && carrying.wire.is_drained();
        self.asked.store(!is_drained, Ordering::Relaxed);
        is_drained
    }

    fn readiness(&self) -> Arc<dyn AsFd + Send + Sync> {
        Arc::clone(&self.readiness) as Arc<dyn AsFd + Send + Sync>
    }

    fn interest(&self) -> Interest {
        let failed = matches!(&self.stage, Stage::Carrying(carrying) if carrying.has_failed());
        // Who has posted so much that more is to be announced than the link's thread has asked for has to wake it.
        let wants_all = match &self.stage {
            Stage::Carrying(carrying) => !carrying.wire.waits_for_packets_only(),
            _ => false,
        };
        let writable = wants_all && self.armed == Some(Armed::ForPackets);
        Interest { readable: true, writable, at_once: self.more || failed }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Carrying(carrying) => carrying.poll_timeout(),
            _ => None,
        }
    }

    fn manner(&self) -> Option<Manner> {
        match &self.stage {
            Stage::Carrying(carrying) => Some(carrying.sender.manner(carrying.wire.rail())),
            _ => None,
        }
    }

    fn dmabuf_manner(&self) -> Option<Manner> {
        match &self.stage {
            Stage::Carrying(carrying) => carrying.wire.rail().dmabufs.manner(),
            _ => None,
        }
    }

    fn finish(&mut self) {
        if let Stage::Carrying(carrying) = &self.stage {
            // The end of the connection says that nothing is written here any more, so that has to be true.
            carrying.wire.halt();
        }
        let _ = self.control.shutdown(Shutdown::Write);
    }
}

impl Drop for VerbsLink {
    fn drop(&mut self) {
        if let Stage::Carrying(carrying) = &self.stage {
            carrying.wire.halt();
        }
    }
}
