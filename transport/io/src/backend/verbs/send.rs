//! Puts frames into packets, and says of chunks where they lie.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use xfer_sys::verbs::{Access, VerbsError};
use xfer_transport_core::frame::FrameHeader;
use xfer_transport_core::limits::RDMA_INLINE_BYTES_MAX;
use xfer_transport_core::rdma::Body;

use super::rail::Rail;
use super::registrations::Registrations;
use super::wire::{Payload, Wire};
use crate::backend::{LinkError, Manner, Op};
use crate::limits::ASKING_ATTEMPTS_MAX;
use crate::transfer::Source;

pub(super) struct Sender {
    /// What windows are opened on, where the device has any: registered for that alone.
    windows: Option<Registrations>,
    frame: Option<Sending>,
    /// Why chunks are copied into packets, if they are.
    copies: Option<String>,
    /// What the other end is to be told of a chunk of its.
    unread: Option<u32>,
    /// Why nothing more can be sent; said at the next advance.
    failed: Option<io::Error>,
}

/// The frame that is being sent in packets.
struct Sending {
    header: FrameHeader,
    payload: Bringing,
    /// How much of it has left; nothing, if its header has not either.
    at: Option<usize>,
}

enum Bringing {
    Bytes(Bytes),
    Source(Source),
}

impl Sender {
    pub(super) fn new(wire: &Wire) -> Self {
        let windows = wire
            .rail()
            .has_windows
            .load(Ordering::Relaxed)
            .then(|| Registrations::new(wire.domain(), &wire.rail().dmabufs, Access::WINDOWS));
        Self { windows, frame: None, copies: None, unread: None, failed: None }
    }

    /// When it has something to forget.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.windows.as_ref().and_then(Registrations::poll_timeout)
    }

    /// Forgets what nobody has used for a while.
    pub(super) fn look(&mut self, now: Instant) {
        if let Some(windows) = &mut self.windows {
            windows.look(now);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.frame.is_none() && self.failed.is_none()
    }

    /// Whether there is something to say that can't wait for anything else to happen.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Takes a frame and sends as much of it as there is room for.
    pub(super) fn submit(&mut self, wire: &Arc<Wire>, op: Op) -> Result<(), Op> {
        if !self.is_idle() || !wire.has_room() {
            return Err(op);
        }
        let (header, payload) = match op {
            Op::Message { header, payload, .. } => (header, Bringing::Bytes(payload)),
            Op::Chunk { header, source } if source.len_bytes() <= RDMA_INLINE_BYTES_MAX as u64 => {
                (header, Bringing::Source(source))
            }
            Op::Chunk { header, source } if self.copies.is_none() && header.attempt < ASKING_ATTEMPTS_MAX => {
                match wire.expose(header, &source, self.windows.as_mut()) {
                    // Said, or not wanted any more.
                    Ok(None | Some(Ok(()))) => return Ok(()),
                    // Other memory goes on as it did.
                    Ok(Some(Err(_))) if source.is_dmabuf() => (header, Bringing::Source(source)),
                    Ok(Some(Err(error))) => {
                        self.copy_from_now_on(format!("this process can't register what it sends: {error}"));
                        (header, Bringing::Source(source))
                    }
                    Err(error) => {
                        self.failed = Some(error);
                        return Ok(());
                    }
                }
            }
            Op::Chunk { header, source } => (header, Bringing::Source(source)),
        };
        self.frame = Some(Sending { header, payload, at: None });
        if let Err(error) = self.advance(wire) {
            self.failed = Some(io::Error::other(error.to_string()));
        }
        Ok(())
    }

    /// The other end can't read a chunk, so it will not be able to read others.
    pub(super) fn unread(&mut self, errno: u32) {
        let error = io::Error::from_raw_os_error(errno as i32);
        self.copy_from_now_on(format!("the peer can't register what it receives: {error}"));
    }

    /// A chunk of the other end can't be read here: it has to be told.
    pub(super) fn tell_unread(&mut self, error: &VerbsError) {
        tracing::warn!("chunks come in packets, which are copied: {error}");
        self.unread = Some(error.raw_os_error().unwrap_or(libc::EIO).unsigned_abs());
    }

    /// How memory gets across.
    pub(super) fn manner(&self, rail: &Rail) -> Manner {
        match &self.copies {
            None => Manner { copies: 0, sentence: format!("read from where it lies, over {rail}") },
            Some(why) => Manner { copies: 2, sentence: format!("in packets, over {rail} ({why})") },
        }
    }

    /// Sends on.
    pub(super) fn advance(&mut self, wire: &Wire) -> Result<(), LinkError> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        if let Some(errno) = self.unread
            && wire.send(&Body::Unread { errno }, Payload::None)?
        {
            self.unread = None;
        }
        while let Some(frame) = &mut self.frame {
            match frame.send_packet(wire)? {
                Sent::Nothing => break,
                Sent::Some => {}
                Sent::All => self.frame = None,
            }
        }
        Ok(())
    }

    fn copy_from_now_on(&mut self, why: String) {
        if self.copies.is_none() {
            tracing::warn!("chunks leave in packets, which are copied: {why}");
            self.copies = Some(why);
        }
    }
}

enum Sent {
    Nothing,
    Some,
    All,
}

impl Sending {
    /// One packet, if there is room for it.
    fn send_packet(&mut self, wire: &Wire) -> io::Result<Sent> {
        let (start, all) = (self.at.unwrap_or(0), self.header.len_bytes as usize);
        let len = (all - start).min(RDMA_INLINE_BYTES_MAX);
        let body = match self.at {
            None => Body::Frame { header: self.header, inline: &[] },
            Some(_) => Body::More(&[]),
        };
        let sent = match &self.payload {
            Bringing::Bytes(bytes) => wire.send(&body, Payload::Bytes(&bytes[start..start + len]))?,
            Bringing::Source(source) => match (source.read(), self.at) {
                (Some(reading), _) => wire.send(&body, Payload::Source { slice: reading.slice(), from: start, len })?,
                // Nobody wants it any more, and nothing of it has left; or its beginning has.
                (None, None) => return Ok(Sent::All),
                (None, Some(_)) => {
                    let sent = wire.send(&Body::Abandon, Payload::None)?;
                    return Ok(if sent { Sent::All } else { Sent::Nothing });
                }
            },
        };
        if !sent {
            return Ok(Sent::Nothing);
        }
        self.at = Some(start + len);
        Ok(if start + len == all { Sent::All } else { Sent::Some })
    }
}
