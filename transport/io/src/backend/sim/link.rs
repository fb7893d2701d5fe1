//! One end of a simulated connection.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xfer_transport_core::BackendId;
use xfer_transport_core::frame::{FrameHeader, FrameKind};

use super::SimNetwork;
use super::pipe::{Connection, Frame, Pipe, Taken};
use crate::backend::{Interest, Link, LinkError, Op};
use crate::intake::{Intake, Landing};
use crate::limits::READ_BUDGET_BYTES;

/// A chunk lands in parts of this size, so that a fence can strike in its middle as it can on a socket.
const PART_BYTES: usize = 64 << 10;

/// How soon an end looks again whether the network is still stalled, if nobody wakes it.
const STALL_CHECK: Duration = Duration::from_millis(50);

/// One end of a simulated connection.
#[derive(Debug)]
pub(super) struct SimLink {
    connection: Arc<Connection>,
    /// Which of the two directions this end reads.
    reads: usize,
    network: SimNetwork,
    arriving: Option<Arriving>,
    next_due: Option<Instant>,
    more: bool,
}

#[derive(Debug)]
struct Arriving {
    payload: Vec<u8>,
    at: usize,
}

impl SimLink {
    /// The two ends of a connection.
    pub(super) fn pair(connection: &Arc<Connection>, network: &SimNetwork) -> (Self, Self) {
        let end = |reads| Self {
            connection: Arc::clone(connection),
            reads,
            network: network.clone(),
            arriving: None,
            next_due: None,
            more: false,
        };
        (end(0), end(1))
    }

    fn incoming(&self) -> &Pipe {
        &self.connection.pipes[self.reads]
    }

    fn outgoing(&self) -> &Pipe {
        &self.connection.pipes[1 - self.reads]
    }

    fn send(&self, header: FrameHeader, mut payload: Vec<u8>) {
        let fate = self.network.fate(header.kind == FrameKind::Data);
        if let Some(bit) = fate.corrupt
            && !payload.is_empty()
        {
            let bit = bit % (payload.len() as u64 * 8);
            payload[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        if fate.cut {
            self.connection.cut();
            return;
        }
        self.outgoing().put(Frame { due: Instant::now() + fate.delay, header, payload });
    }

    /// Lets a part of the arriving chunk land. `false` if there is no chunk.
    fn land(&mut self, intake: &mut Intake) -> Result<bool, LinkError> {
        let Some(chunk) = &mut self.arriving else { return Ok(false) };
        let part = &chunk.payload[chunk.at..(chunk.at + PART_BYTES).min(chunk.payload.len())];
        if !part.is_empty() {
            chunk.at += intake.place(chunk.at, |landing| {
                if let Landing::Memory(memory) = landing {
                    memory.copy_from(chunk.at, part);
                }
                Ok::<_, LinkError>(part.len())
            })?;
        }
        if chunk.at == chunk.payload.len() {
            intake.finish_chunk();
            self.arriving = None;
        }
        Ok(true)
    }

    fn receive(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        let mut budget = READ_BUDGET_BYTES;
        self.next_due = None;
        self.more = false;
        loop {
            if intake.is_paused() || budget == 0 {
                self.more = true;
                return Ok(());
            }
            if self.land(intake)? {
                budget = budget.saturating_sub(PART_BYTES);
                continue;
            }
            let frame = match self.incoming().take() {
                Taken::Frame(frame) => frame,
                Taken::NotBefore(due) => {
                    self.next_due = Some(due);
                    return Ok(());
                }
                Taken::Nothing => return Ok(()),
                Taken::End => return Err(LinkError::Closed),
            };
            // There is room again.
            self.outgoing().reader.wake();
            intake.heard(frame.payload.len() + 1);
            if frame.header.kind == FrameKind::Data {
                intake.begin_chunk(frame.header)?;
                self.arriving = Some(Arriving { payload: frame.payload, at: 0 });
            } else {
                intake.message(frame.header, frame.payload.into())?;
            }
        }
    }
}

impl Link for SimLink {
    fn backend(&self) -> BackendId {
        BackendId::Sim
    }

    fn has_room(&self) -> bool {
        self.outgoing().has_room()
    }

    fn submit(&mut self, op: Op) -> Result<(), Op> {
        if !self.has_room() {
            return Err(op);
        }
        match op {
            Op::Message { header, payload, .. } => self.send(header, payload.to_vec()),
            Op::Chunk { header, source } => {
                let payload = match source.read() {
                    Some(reading) => reading.slice().copy_to_vec(),
                    None => vec![0; header.len_bytes as usize],
                };
                self.send(header, payload);
            }
        }
        Ok(())
    }

    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.incoming().reader.clear();
        if self.connection.is_cut() {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
        }
        if self.network.is_stalled() {
            self.next_due = Some(Instant::now() + STALL_CHECK);
            self.more = false;
            return Ok(());
        }
        self.receive(intake)
    }

    fn is_drained(&self) -> bool {
        self.outgoing().is_empty()
    }

    fn readiness(&self) -> Arc<dyn AsFd + Send + Sync> {
        Arc::clone(&self.incoming().reader) as Arc<dyn AsFd + Send + Sync>
    }

    fn interest(&self) -> Interest {
        // Room to send is announced like something that arrives.
        Interest { readable: true, writable: false, at_once: self.more }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_due
    }

    fn finish(&mut self) {
        self.outgoing().finish();
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        // Whoever goes takes the connection along.
        self.connection.pipes.iter().for_each(Pipe::finish);
    }
}
