//! The network between processes: connections that delay, hold back, damage and cut what they carry.
//!
//! A connection is two pipes, each in order and reliable while both ends are there, as TCP is: what a cut holds back
//! arrives when the cut is over, unless an end has closed by then. What is unread fills the pipe, and then the sender
//! waits.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use xfer_transport_core::limits::FRAME_HEADER_BYTES;
use xfer_transport_core::path::LinkId;
use xfer_transport_core::{PeerId, Time};

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireId(pub usize);

/// An end of a connection as the process there knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other end's call has not arrived.
    Expected,
    /// A link of this process.
    Open {
        /// The process.
        process: PeerId,
        /// Its name for the connection.
        link: LinkId,
    },
    /// Nobody reads or writes here any more.
    Closed,
}

/// What travels.
#[derive(Debug, Clone)]
pub enum Packet {
    /// A call from the end that opens.
    Open,
    /// A frame.
    Frame {
        /// Its header's bytes.
        header: [u8; FRAME_HEADER_BYTES],
        /// What follows them.
        payload: Bytes,
    },
    /// A frame of which only a part comes, and then nothing: the connection breaks in the middle.
    Torn {
        /// Its header's bytes.
        header: [u8; FRAME_HEADER_BYTES],
        /// What there is of the payload.
        payload: Bytes,
    },
    /// The other end is gone; with `reset`, what was under way is lost.
    Gone {
        /// Whether the connection was reset.
        reset: bool,
    },
}

#[derive(Debug)]
struct Parcel {
    at: Time,
    packet: Packet,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Pipe {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    /// Until when the line is busy with what was sent before.
    busy_until: Time,
    last_at: Time,
    /// Whether an event is on its way for the front.
    pub scheduled: bool,
    /// The front of it has begun to land.
    pub halfway: bool,
}

/// One connection and what is on it.
#[derive(Debug)]
pub struct Wire {
    /// Ranks of the two ends, the one that called first.
    pub ranks: [u32; 2],
    /// The two ends.
    pub ends: [End; 2],
    /// What goes from each end to the other.
    pub pipes: [Pipe; 2],
}

/// How one direction between two machines behaves just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Nothing arrives.
    pub cut: bool,
    /// How long everything takes at least.
    pub delay: Duration,
    /// What comes on top, by chance.
    pub jitter: Duration,
    /// What a connection carries.
    pub bytes_per_s: u64,
}

/// How often frames are mistreated, in times per 100,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mistreatment {
    /// A bit of it is flipped.
    pub flipped: u64,
    /// A bit of a chunk's payload is flipped; messages stay as they are.
    pub spoiled: u64,
    /// It arrives twice.
    pub doubled: u64,
    /// Only a part arrives, and the connection breaks.
    pub torn: u64,
    /// The connection is reset instead.
    pub reset: u64,
}

/// All connections, and the lines that they run over.
#[derive(Debug)]
pub struct Network {
    wires: Vec<Wire>,
    conditions: Vec<Condition>,
    machines: usize,
    /// What happens to frames.
    pub mistreatment: Mistreatment,
    /// Bytes that a pipe takes before its sender has to wait.
    pub pipe_bytes: usize,
}

impl Network {
    /// A network of `machines`, the last of which is the store's, that all behave alike.
    pub fn new(machines: usize, usual: Condition, pipe_bytes: usize) -> Self {
        Self {
            wires: Vec::new(),
            conditions: vec![usual; machines * machines],
            machines,
            mistreatment: Mistreatment::default(),
            pipe_bytes,
        }
    }

    /// The machine of the store.
    pub fn store(&self) -> usize {
        self.machines - 1
    }

    /// How `from` reaches `to`.
    pub fn condition(&self, from: usize, to: usize) -> Condition {
        self.conditions[from * self.machines + to]
    }

    /// Changes how `from` reaches `to`.
    pub fn condition_mut(&mut self, from: usize, to: usize) -> &mut Condition {
        &mut self.conditions[from * self.machines + to]
    }

    /// Changes all lines.
    pub fn each_condition(&mut self, change: impl FnMut(&mut Condition)) {
        self.conditions.iter_mut().for_each(change);
    }

    /// A connection that `process` opens to the machine of `to`.
    pub fn open(&mut self, process: PeerId, link: LinkId, to: u32) -> WireId {
        let ends = [End::Open { process, link }, End::Expected];
        self.wires.push(Wire { ranks: [process.rank, to], ends, pipes: Default::default() });
        WireId(self.wires.len() - 1)
    }

    /// A connection.
    pub fn wire(&mut self, id: WireId) -> &mut Wire {
        &mut self.wires[id.0]
    }

    /// All connections.
    pub fn wires(&self) -> impl Iterator<Item = (WireId, &Wire)> {
        self.wires.iter().enumerate().map(|(at, wire)| (WireId(at), wire))
    }

    /// The line under one direction of a connection.
    pub fn line(&self, id: WireId, from: usize) -> Condition {
        let ranks = self.wires[id.0].ranks;
        self.condition(ranks[from] as usize, ranks[1 - from] as usize)
    }

    /// Whether a pipe takes another frame.
    pub fn has_room(&self, id: WireId, from: usize) -> bool {
        self.wires[id.0].pipes[from].bytes < self.pipe_bytes
    }
}

impl Pipe {
    /// Puts a packet on its way; `jitter` is what chance adds. When it arrives at the earliest.
    pub fn send(&mut self, now: Time, line: Condition, jitter: Duration, packet: Packet) -> Time {
        let bytes = packet.len_bytes();
        let nanos = bytes as u64 * 1_000_000_000 / line.bytes_per_s.max(1);
        self.busy_until = self.busy_until.max(now).after(Duration::from_nanos(nanos));
        let at = self.last_at.max(self.busy_until.after(line.delay + jitter));
        self.last_at = at;
        self.bytes += bytes;
        self.parcels.push_back(Parcel { at, packet });
        at
    }

    /// When the front arrives.
    pub fn front_at(&self) -> Option<Time> {
        self.parcels.front().map(|parcel| parcel.at)
    }

    /// The front.
    pub fn front(&self) -> Option<&Packet> {
        self.parcels.front().map(|parcel| &parcel.packet)
    }

    /// The front has arrived and was taken.
    pub fn take(&mut self) {
        if let Some(parcel) = self.parcels.pop_front() {
            self.bytes -= parcel.packet.len_bytes();
        }
        self.halfway = false;
    }

    /// All that is under way is lost, but for what has begun to arrive.
    pub fn lose(&mut self) {
        let keep = usize::from(self.halfway);
        while self.parcels.len() > keep {
            if let Some(parcel) = self.parcels.pop_back() {
                self.bytes -= parcel.packet.len_bytes();
            }
        }
    }

    /// What is under way and unread, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Packet {
    fn len_bytes(&self) -> usize {
        match self {
            Self::Frame { payload, .. } | Self::Torn { payload, .. } => FRAME_HEADER_BYTES + payload.len(),
            Self::Open | Self::Gone { .. } => 0,
        }
    }
}
