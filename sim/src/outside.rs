//! Everything around the processes: time, the events to come, the network, memory, chance, and who looks on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use xfer_transport_core::frame::FrameKind;
use xfer_transport_core::limits::FRAME_HEADER_BYTES;
use xfer_transport_core::path::LinkId;
use xfer_transport_core::{PeerId, Time};

use crate::check::Checks;
use crate::happening::Happening;
use crate::memory::Memory;
use crate::network::{End, Network, Packet, WireId};
use crate::node::Work;
use crate::random::Random;
use crate::step::Step;
use crate::store::StoreEvent;
use crate::trace::{Trace, Who};

/// How many frames of each pipe are remembered, to be sent again.
const REPLAYED: usize = 4;

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// The front of a pipe arrives at its other end.
    Arrive {
        /// The connection.
        wire: WireId,
        /// The end that sent it.
        from: usize,
    },
    /// A pipe takes frames again.
    Room {
        /// The connection.
        wire: WireId,
        /// The end that sends.
        from: usize,
    },
    /// A process looks at its timers.
    Wake(PeerId),
    /// A process's worker has done something.
    Done {
        /// The process.
        process: PeerId,
        /// What it did.
        work: Work,
    },
    /// Between a process and the store, or in the store.
    Store(StoreEvent),
    /// Something that the scenario wants.
    Happening(Happening),
    /// All faults end.
    Heal,
}

/// Which process has a rank at the moment, as the store's directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The process.
    pub id: PeerId,
    /// Tells it from others that claim to be it.
    pub nonce: u64,
}

/// A frame as it was sent: its header's bytes, and its payload.
pub type Sent = ([u8; FRAME_HEADER_BYTES], Bytes);

/// Everything around the processes.
#[derive(Debug)]
pub struct Outside {
    /// Virtual time.
    pub now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, Slot)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    counter: u64,
    /// All chance.
    pub random: Random,
    /// All connections.
    pub network: Network,
    /// All memory.
    pub memory: Memory,
    /// Who looks whether promises are kept.
    pub checks: Checks,
    /// What happened.
    pub trace: Trace,
    /// Who has which rank.
    pub directory: Vec<Option<Address>>,
    /// Moments of the protocol that were reached and not looked at yet.
    pub reached: VecDeque<(Step, PeerId)>,
    /// Processes that are stopped.
    pub paused: BTreeSet<PeerId>,
    /// How many of the next allocations of each rank fail.
    pub failing_allocations: Vec<u32>,
    /// How long a worker takes for one job.
    pub work_delay: Duration,
    /// The last frames of each pipe, which may come twice.
    pub sent_last: BTreeMap<(WireId, usize), VecDeque<Sent>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(usize);

impl Outside {
    /// A quiet world of `ranks` processes and a store.
    pub fn new(ranks: usize, network: Network, random: Random, trace: Trace, work_delay: Duration) -> Self {
        Self {
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            counter: 0,
            random,
            network,
            memory: Memory::default(),
            checks: Checks::default(),
            trace,
            directory: vec![None; ranks],
            reached: VecDeque::new(),
            paused: BTreeSet::new(),
            failing_allocations: vec![0; ranks],
            work_delay,
            sent_last: BTreeMap::new(),
        }
    }

    /// Lets `event` happen at `at`; what is planned first happens first.
    pub fn schedule(&mut self, at: Time, event: Event) {
        self.counter += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.events[slot] = Some(event);
                slot
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.queue.push(Reverse((at.max(self.now), self.counter, Slot(slot))));
    }

    /// Lets `event` happen in a while.
    pub fn schedule_in(&mut self, after: Duration, event: Event) {
        self.schedule(self.now.after(after), event);
    }

    /// The next event, if it comes before `until`; time moves on to it.
    pub fn next_event(&mut self, until: Time) -> Option<Event> {
        let Reverse((at, _, _)) = self.queue.peek()?;
        if *at > until {
            return None;
        }
        let Reverse((at, _, Slot(slot))) = self.queue.pop()?;
        self.now = at;
        self.free.push(slot);
        self.events[slot].take()
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, process: PeerId, what: &'static str, text: impl FnOnce() -> String) {
        self.trace.add(self.now, Who::Process(process), what, text);
    }

    /// A moment of the protocol is reached at `process`.
    pub fn reach(&mut self, step: Step, process: PeerId) {
        self.reached.push_back((step, process));
    }

    // Connections.

    /// Opens a connection to the machine of `to`.
    pub fn open_wire(&mut self, process: PeerId, link: LinkId, to: u32) -> WireId {
        let wire = self.network.open(process, link, to);
        self.put(wire, 0, Packet::Open);
        wire
    }

    /// Sends a frame; the network may mistreat it.
    pub fn send_frame(
        &mut self,
        wire: WireId,
        from: usize,
        header: [u8; FRAME_HEADER_BYTES],
        payload: Bytes,
        is_greeting: bool,
    ) {
        if !is_greeting {
            let last = self.sent_last.entry((wire, from)).or_default();
            last.push_back((header, payload.clone()));
            if last.len() > REPLAYED {
                last.pop_front();
            }
        }
        let wrong = self.network.mistreatment;
        if header[5] == FrameKind::Data as u8 && self.random.below(100_000) < wrong.spoiled && !payload.is_empty() {
            let mut spoiled = payload.to_vec();
            let at = self.random.below(spoiled.len() as u64) as usize;
            spoiled[at] ^= 1 << self.random.below(8);
            self.put(wire, from, Packet::Frame { header, payload: spoiled.into() });
            return;
        }
        let dice = self.random.below(100_000);
        let bounds = [wrong.flipped, wrong.doubled, wrong.torn, wrong.reset];
        let mut below = 0;
        let which = bounds.iter().position(|times| {
            below += times;
            dice < below
        });
        match which {
            Some(0) => {
                let (header, payload) = self.flip(header, &payload);
                self.put(wire, from, Packet::Frame { header, payload });
            }
            Some(1) if !is_greeting => {
                self.put(wire, from, Packet::Frame { header, payload: payload.clone() });
                self.put(wire, from, Packet::Frame { header, payload });
            }
            Some(2) => {
                let half = payload.slice(..payload.len() / 2);
                self.put(wire, from, Packet::Torn { header, payload: half });
                self.break_wire(wire);
            }
            Some(3) => self.break_wire(wire),
            _ => self.put(wire, from, Packet::Frame { header, payload }),
        }
    }

    fn flip(&mut self, mut header: [u8; FRAME_HEADER_BYTES], payload: &Bytes) -> ([u8; FRAME_HEADER_BYTES], Bytes) {
        let bit = self.random.below(8 * (header.len() + payload.len()) as u64) as usize;
        let mut payload = payload.to_vec();
        // Most of what travels is payload, so most flips should be there, however short this frame is.
        match self.random.below(8) {
            0 => header[bit / 8 % FRAME_HEADER_BYTES] ^= 1 << (bit % 8),
            _ if payload.is_empty() => header[bit / 8 % FRAME_HEADER_BYTES] ^= 1 << (bit % 8),
            _ => {
                let at = bit / 8 % payload.len();
                payload[at] ^= 1 << (bit % 8);
            }
        }
        (header, payload.into())
    }

    /// The connection breaks: both ends will see it reset, after what is under way.
    pub fn break_wire(&mut self, wire: WireId) {
        for from in 0..2 {
            self.put(wire, from, Packet::Gone { reset: true });
        }
    }

    /// An end of a connection is closed by its process; with `reset`, what it had sent may be lost.
    pub fn close_wire(&mut self, wire: WireId, end: usize, reset: bool) {
        let ends = &mut self.network.wire(wire).ends;
        if ends[end] == End::Closed {
            return;
        }
        ends[end] = End::Closed;
        if reset {
            self.network.wire(wire).pipes[end].lose();
        }
        self.put(wire, end, Packet::Gone { reset });
    }

    /// Puts a packet on its way, unless nobody will ever read it.
    pub fn put(&mut self, wire: WireId, from: usize, packet: Packet) {
        let line = self.network.line(wire, from);
        let jitter = self.random.within(line.jitter);
        let now = self.now;
        let connection = self.network.wire(wire);
        if connection.ends[1 - from] == End::Closed {
            return;
        }
        let pipe = &mut connection.pipes[from];
        pipe.send(now, line, jitter, packet);
        self.schedule_front(wire, from, Duration::ZERO);
    }

    /// Announces the front of a pipe, if nothing has done so.
    pub fn schedule_front(&mut self, wire: WireId, from: usize, after: Duration) {
        let now = self.now;
        let pipe = &mut self.network.wire(wire).pipes[from];
        if pipe.scheduled {
            return;
        }
        if let Some(at) = pipe.front_at() {
            pipe.scheduled = true;
            self.schedule(at.max(now.after(after)), Event::Arrive { wire, from });
        }
    }

    /// A line works again, or a process goes on: what was held back comes soon.
    pub fn release_held(&mut self) {
        let wires: Vec<WireId> = self.network.wires().map(|(wire, _)| wire).collect();
        for wire in wires {
            for from in 0..2 {
                // Senders find out by trying again, each at its own time.
                let wait = self.random.within(Duration::from_millis(50));
                self.schedule_front(wire, from, wait);
            }
        }
    }
}
