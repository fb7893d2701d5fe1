//! Puts frames on a TCP connection, chunks straight from the memory they lie in.
#![allow(unsafe_code, reason = "the kernel is given raw pointers to memory that is shared with peers and frameworks")]

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::Bytes;
use xfer_transport_core::limits::FRAME_HEADER_BYTES;

use super::ZeroCopy;
use super::uncopied::Uncopied;
use crate::backend::{LinkError, Manner, Op};
use crate::transfer::Source;

/// What a chunk is filled up with whose source was closed when its header had left already.
static PADDING: [u8; 64 << 10] = [0; 64 << 10];

/// A message up to this size leaves in one piece with its header: copying it takes less than the kernel needs for two.
const JOINED_BYTES_MAX: usize = 256;

pub(super) struct Sender {
    /// The frame that is being sent.
    frame: Option<Sending>,
    /// Why nothing more can be sent; said at the next advance.
    failed: Option<io::Error>,
    zerocopy: ZeroCopy,
    /// What is sent without the kernel's copy, once something was.
    uncopied: Option<Arc<Uncopied>>,
}

struct Sending {
    header: [u8; FRAME_HEADER_BYTES],
    payload: Payload,
    /// Bytes of header and payload that have left.
    sent: usize,
    len: usize,
    /// The kernel is asked not to copy the payload.
    uncopied: Option<Arc<Uncopied>>,
}

enum Payload {
    Message(Bytes),
    Chunk(Source),
}

impl Sender {
    pub(super) fn new(zerocopy: ZeroCopy) -> Self {
        Self { frame: None, failed: None, zerocopy, uncopied: None }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.frame.is_none() && self.failed.is_none()
    }

    /// Takes a frame and sends as much of it as there is room for.
    pub(super) fn submit(&mut self, stream: &Arc<TcpStream>, op: Op) -> Result<(), Op> {
        if !self.is_idle() {
            return Err(op);
        }
        let (header, payload) = match op {
            Op::Chunk { header, source } => (header, Payload::Chunk(source)),
            Op::Message { header, payload, .. } => (header, Payload::Message(payload)),
        };
        let len = FRAME_HEADER_BYTES + header.len_bytes as usize;
        // Memory of a device can't be pinned where it is mapped, which is no reason to copy other memory from then on.
        let can_be_pinned = matches!(&payload, Payload::Chunk(source) if !source.is_dmabuf());
        let uncopied = (can_be_pinned && self.zerocopy.is_for(header.len_bytes))
            .then(|| Arc::clone(self.uncopied.get_or_insert_with(|| Uncopied::new(stream, self.zerocopy))));
        self.frame = Some(Sending { header: header.encode(), payload, sent: 0, len, uncopied });
        if let Err(LinkError::Io(error)) = self.advance(stream) {
            self.failed = Some(error);
        }
        Ok(())
    }

    /// Whether the kernel needs nothing any more of what it was given.
    pub(super) fn is_through(&self) -> bool {
        self.uncopied.as_ref().is_none_or(|uncopied| uncopied.is_through())
    }

    /// Takes in what the kernel is through with.
    pub(super) fn reap(&self) -> Result<(), LinkError> {
        self.uncopied.as_ref().map_or(Ok(()), |uncopied| uncopied.reap())
    }

    /// Nothing more is sent.
    pub(super) fn halt(&self) {
        if let Some(uncopied) = &self.uncopied {
            uncopied.halt();
        }
    }

    /// How ordinary memory is sent, where there is more than one way.
    pub(super) fn manner(&self) -> Option<Manner> {
        match (&self.uncopied, self.zerocopy) {
            (Some(uncopied), _) => Some(uncopied.manner()),
            (None, ZeroCopy::Off) => None,
            (None, _) => Some(Manner {
                copies: 2,
                sentence: "copied by the kernel at both ends until there is a large chunk".into(),
            }),
        }
    }

    /// Sends on.
    pub(super) fn advance(&mut self, stream: &TcpStream) -> Result<(), LinkError> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        while let Some(frame) = &mut self.frame {
            match frame.send(stream) {
                Ok(sent) => frame.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            if frame.sent == frame.len {
                self.frame = None;
            }
        }
        Ok(())
    }
}

impl Sending {
    fn send(&self, mut stream: &TcpStream) -> io::Result<usize> {
        let header = &self.header[self.sent.min(FRAME_HEADER_BYTES)..];
        let at = self.sent.saturating_sub(FRAME_HEADER_BYTES);
        let left = self.len - FRAME_HEADER_BYTES - at;
        if let (Some(uncopied), Payload::Chunk(source)) = (&self.uncopied, &self.payload) {
            // The header is not kept, so the kernel has to copy it; it leaves with the first of what follows.
            if !header.is_empty() {
                // SAFETY: it is ours.
                return unsafe { send_from(stream, header, header.as_ptr(), 0, libc::MSG_MORE) };
            }
            if let Some(sent) = uncopied.send(source, at, left) {
                return sent;
            }
        }
        match &self.payload {
            Payload::Message(payload) if self.sent == 0 && left <= JOINED_BYTES_MAX => {
                let mut joined = [0; FRAME_HEADER_BYTES + JOINED_BYTES_MAX];
                let joined = &mut joined[..self.len];
                joined[..FRAME_HEADER_BYTES].copy_from_slice(header);
                joined[FRAME_HEADER_BYTES..].copy_from_slice(payload);
                stream.write(joined)
            }
            // SAFETY: both are ours, and a message's bytes are as long as its header says.
            Payload::Message(payload) => unsafe { send_from(stream, header, payload[at..].as_ptr(), left, 0) },
            Payload::Chunk(source) => match source.read() {
                Some(reading) => {
                    let _reading = reading.slice().begin_reading();
                    let start = reading.slice().as_ptr().wrapping_add(at);
                    // SAFETY: the source is as long as the chunk's header says, and lives and may be read for as
                    // long as `reading` is held.
                    unsafe { send_from(stream, header, start, left, 0) }
                }
                // The frame has to end somehow, and its receiver throws it away.
                // SAFETY: the padding is at least as long as what is sent of it.
                None => unsafe { send_from(stream, header, PADDING.as_ptr(), left.min(PADDING.len()), 0) },
            },
        }
    }
}

/// Sends what is left of a header, and `len` bytes from `start`, with `flags` besides the usual ones.
///
/// # Safety
///
/// `start` must be valid for reads of `len` bytes. Other threads may write them meanwhile: the kernel reads them as
/// it would for another process, and no reference to them is made here.
unsafe fn send_from(stream: &TcpStream, header: &[u8], start: *const u8, len: usize, flags: i32) -> io::Result<usize> {
    let parts = [
        libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() },
        libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len },
    ];
    // SAFETY: an all-zero message header is a valid one, with no name, no parts and no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len();
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message points to `parts`, which the caller vouches for; sending only reads.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
