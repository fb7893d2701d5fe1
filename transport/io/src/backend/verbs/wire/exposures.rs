//! What the other end may read: one chunk after the other, each until it was taken or is taken back.
#![allow(unsafe_code, reason = "a device is given memory")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use xfer_sys::verbs::{Access, MemoryRegion, MemoryWindow, VerbsError, Work};
use xfer_transport_core::frame::FrameHeader;
use xfer_transport_core::rdma::Body;

use super::packets::Payload;
use super::{Failure, Queue, Wire, kind};
use crate::backend::verbs::registrations::Registrations;
use crate::gate::Reader;
use crate::limits::{EXPOSED_BYTES_ENOUGH, EXPOSED_CHUNKS_MAX};
use crate::transfer::{Exposed, Source};

/// A chunk that the other end may read, until it is taken or taken back.
#[derive(Debug)]
pub(super) struct Exposure {
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
    Window { window: MemoryWindow, key: u32, on: Arc<MemoryRegion> },
}

impl Wire {
    /// Whether another chunk may be exposed.
    pub(in crate::backend::verbs) fn has_room_to_expose(&self) -> bool {
        let queue = self.lock();
        !queue.is_full_of_exposures() && queue.exposed_bytes <= EXPOSED_BYTES_ENOUGH
    }

    /// Exposes a chunk and says where it lies: through a window on what is registered already, where the device has windows. The
    /// error of the inner result: its memory can't be registered. `None`: it must not be read any more.
    pub(in crate::backend::verbs) fn expose(
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
        let dmabufs = &self.rail.dmabufs;
        let windows = windows.filter(|_| dmabufs.takes_windows(&self.domain, exposed.slice()));
        let on = windows.and_then(|registrations| registrations.of(exposed.slice(), Instant::now()).ok());
        let mut alone = None;
        if on.is_none() {
            let access = Access::REMOTE_READ;
            // SAFETY: the source is kept by `exposed` until the registration has ended; devices read it as other processes would.
            let registered = unsafe { dmabufs.register(&self.domain, exposed.slice(), access) };
            match registered {
                Ok(registration) => alone = Some(registration),
                Err(error) => return Ok(Some(Err(error))),
            }
        }
        let mut queue = self.lock();
        let hold = match (on, alone) {
            (Some(on), _) => {
                let window = match queue.windows.pop() {
                    Some(window) => window,
                    None => MemoryWindow::new(&self.domain)?,
                };
                let key = window.next_key();
                Hold::Window { window, key, on }
            }
            (None, Some(registration)) => Hold::Registration(registration),
            (None, None) => return Ok(None),
        };
        let packet =
            self.pack(&mut queue, &Body::Exposed { header, at: start as u64, key: hold.key() }, Payload::None)?;
        let posted = match &hold {
            Hold::Window { window, key, on } => {
                let open = Work::Open { window, key: *key, on, start: start as u64, len_bytes };
                // SAFETY: the source is kept beside the queue pair until the window is closed, or ended by force; the packet as in
                // `send_now`.
                unsafe { queue.post([(kind::OPEN << 56 | number, &open), packet.piece()]) }
            }
            // SAFETY: as in `send_now`.
            Hold::Registration(_) => unsafe { queue.post([packet.piece()]) },
        };
        queue.exposed_bytes += len_bytes;
        queue.exposures.push_back(Exposure { number, len_bytes, hold: Some(hold), exposed: Some(exposed) });
        // If that failed the link is over, and all that is exposed is taken back.
        queue.sent(packet, posted)?;
        Ok(Some(Ok(())))
    }

    /// Ends by force what lets the other end read a chunk; whoever waits for its source knows when this returns.
    pub(super) fn take_back(&self, mut exposure: Exposure) {
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
}

impl Queue {
    pub(super) fn is_full_of_exposures(&self) -> bool {
        self.exposures.len() + self.closing.len() >= EXPOSED_CHUNKS_MAX
    }

    /// The other end is through with the oldest chunks that it could read.
    pub(super) fn take(&mut self, count: u8, over: &mut Vec<Exposure>) {
        for _ in 0..count {
            let Some(exposure) = self.exposures.pop_front() else {
                self.fail_with(Failure::Violation("it has taken more than it was shown"));
                return;
            };
            self.exposed_bytes -= exposure.len_bytes;
            self.finish(exposure, over);
        }
    }

    /// Nobody reads a chunk any more, so that it can be taken back without force.
    fn finish(&mut self, mut exposure: Exposure, over: &mut Vec<Exposure>) {
        let ended = match exposure.hold.take() {
            // Taken back before.
            None => Ok(()),
            Some(Hold::Registration(registration)) => registration.end(),
            Some(hold @ Hold::Window { .. }) => {
                let (key, number) = (hold.key(), exposure.number);
                exposure.hold = Some(hold);
                self.closing.push(exposure);
                // SAFETY: no memory is named.
                let posted = unsafe { self.post([(kind::CLOSE << 56 | number, &Work::Close { key })]) };
                if let Err(error) = posted {
                    self.fail_with(Failure::Call(error.to_string()));
                }
                return;
            }
        };
        if let Err(error) = ended {
            self.fail_with(Failure::Call(error.to_string()));
            if self.end().is_err() {
                std::mem::forget(exposure);
                return;
            }
        }
        over.push(exposure);
    }

    /// What is left of a chunk that the other end has not said to have taken: its place among them.
    fn take_out(&mut self, number: u64) -> Option<Exposure> {
        let exposure = self.exposures.iter_mut().find(|exposure| exposure.number == number)?;
        let (hold, exposed) = (exposure.hold.take(), exposure.exposed.take());
        Some(Exposure { number, len_bytes: 0, hold, exposed })
    }

    /// A window is closed: nobody reads through it any more.
    pub(super) fn closed(&mut self, number: u64, over: &mut Vec<Exposure>) {
        let Some(at) = self.closing.iter().position(|exposure| exposure.number == number) else { return };
        let mut exposure = self.closing.swap_remove(at);
        if let Some(Hold::Window { window, .. }) = exposure.hold.take() {
            self.windows.push(window);
        }
        over.push(exposure);
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
        self.turn_for_another();
    }

    fn finish(&self, number: u64) {
        let mut over = Vec::new();
        {
            let mut queue = self.lock();
            if let Some(exposure) = queue.take_out(number) {
                queue.finish(exposure, &mut over);
            }
        }
        drop(over);
    }

    fn stop(&self, number: u64) {
        let taken = {
            let mut queue = self.lock();
            let closing = queue.closing.iter().position(|exposure| exposure.number == number);
            match closing {
                Some(at) => Some(queue.closing.swap_remove(at)),
                None => queue.take_out(number),
            }
        };
        if let Some(exposure) = taken {
            self.take_back(exposure);
        }
    }
}
