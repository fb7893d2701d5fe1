//! Takes frames off a TCP connection, chunks straight into the memory they are for.
#![allow(unsafe_code, reason = "the kernel is given raw pointers to memory that is shared with peers and frameworks")]

use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xfer_transport_core::frame::FrameHeader;
use xfer_transport_core::limits::FRAME_HEADER_BYTES;

use crate::backend::LinkError;
use crate::backend::frame::Frame;
use crate::intake::{Intake, Landing};
use crate::limits::READ_BUDGET_BYTES;

/// Bytes read ahead while no chunk is under way: headers, messages, small chunks. What of a large chunk ends up here
/// is copied once more, so it is small against a chunk.
const AHEAD_BYTES: usize = 8 << 10;

/// Most of a chunk that is received at once: it is still in the second-level cache when it is summed.
const PART_BYTES: usize = 128 << 10;

/// Where bytes go that are not wanted.
const SCRATCH_BYTES: usize = 64 << 10;

pub(super) struct Receiver {
    ahead: Box<[u8; AHEAD_BYTES]>,
    start: usize,
    end: usize,
    frame: Frame,
    scratch: Option<Box<[u8; SCRATCH_BYTES]>>,
    /// What came of a read that somebody made who only looked.
    peeked: Option<io::Result<(usize, usize)>>,
    /// The budget was used up before the socket was empty.
    more: bool,
}

impl Receiver {
    pub(super) fn new() -> Self {
        let (ahead, frame) = (Box::new([0; AHEAD_BYTES]), Frame::None);
        Self { ahead, start: 0, end: 0, frame, scratch: None, peeked: None, more: false }
    }

    pub(super) fn has_more(&self) -> bool {
        self.more || self.peeked.is_some()
    }

    /// Whether there is something to receive. What is read ahead is read here, so that finding something costs no call more.
    pub(super) fn peek(&mut self, stream: &TcpStream) -> bool {
        if self.has_more() {
            return true;
        }
        if let Frame::Chunk { .. } = self.frame {
            // It is received where it belongs.
            return !matches!(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&Timespec::default())), Ok(0));
        }
        let read = self.read_ahead(stream);
        let is_empty = matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.peeked = Some(read).filter(|_| !is_empty);
        !is_empty
    }

    /// Receives until nothing is left, the budget is used up, or somebody has to look at what arrived.
    pub(super) fn receive(&mut self, stream: &TcpStream, intake: &mut Intake) -> Result<(), LinkError> {
        let mut budget = READ_BUDGET_BYTES;
        loop {
            self.parse(intake)?;
            self.more = budget == 0 || intake.is_paused();
            if self.more {
                return Ok(());
            }
            let (wanted, got) = match self.peeked.take().unwrap_or_else(|| self.read(stream, intake)) {
                Ok((_, 0)) => return Err(LinkError::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            intake.heard(got);
            if got < wanted {
                // The socket was empty then; asking again would only cost a call.
                return self.parse(intake);
            }
            budget = budget.saturating_sub(got);
        }
    }

    /// Goes through what was read ahead.
    fn parse(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        while !intake.is_paused() {
            let ahead = &self.ahead[self.start..self.end];
            if let Frame::None = self.frame {
                if ahead.len() < FRAME_HEADER_BYTES {
                    return Ok(());
                }
                self.frame.begin(FrameHeader::decode(ahead)?, intake)?;
                self.start += FRAME_HEADER_BYTES;
                continue;
            }
            let rest = self.frame.rest();
            let part = &ahead[..ahead.len().min(rest)];
            if part.is_empty() && rest > 0 {
                return Ok(());
            }
            self.start += part.len();
            self.frame.bytes(part, intake)?;
        }
        Ok(())
    }

    /// One read: how much was asked for, and how much came. Everything read ahead has been gone through, but for
    /// the beginning of a header.
    fn read(&mut self, stream: &TcpStream, intake: &mut Intake) -> io::Result<(usize, usize)> {
        self.compact();
        if let Frame::Chunk { len, at } = &mut self.frame {
            // Straight to its place; and behind its end, the next header in the same call.
            let part = (*len - *at).min(PART_BYTES);
            let header_end = if part == *len - *at { FRAME_HEADER_BYTES } else { self.end };
            let header = &mut self.ahead[self.end..header_end];
            let header_len = header.len();
            let header = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() };
            let mut wanted = part + header_len;
            let mut got = 0;
            intake.place(*at, |landing| {
                match landing {
                    Landing::Memory(memory) => {
                        let _writing = memory.begin_writing();
                        let start = memory.as_ptr().wrapping_add(*at);
                        let parts = [libc::iovec { iov_base: start.cast(), iov_len: part }, header];
                        // SAFETY: `begin_chunk` gave `memory` the chunk's length, so `part` bytes from `at` are in
                        // it, and it is alive and not fenced while this closure runs; `header` is ours.
                        got = unsafe { receive_into(stream, &parts) }?;
                    }
                    Landing::Discard => {
                        let scratch = self.scratch.get_or_insert_with(|| Box::new([0; SCRATCH_BYTES]));
                        wanted = part.min(SCRATCH_BYTES);
                        let scratch = libc::iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: wanted };
                        // SAFETY: the scratch is ours and at least `wanted` bytes long.
                        got = unsafe { receive_into(stream, &[scratch]) }?;
                    }
                }
                Ok::<_, io::Error>(got.min(part))
            })?;
            *at += got.min(part);
            self.end += got.saturating_sub(part);
            return Ok((wanted, got));
        }
        self.read_ahead(stream)
    }

    /// The same of what is not a chunk's. Whoever looks asks this again and again, so by the call that has the least to do.
    fn read_ahead(&mut self, mut stream: &TcpStream) -> io::Result<(usize, usize)> {
        self.compact();
        let room = &mut self.ahead[self.end..];
        let wanted = room.len();
        let got = stream.read(room)?;
        self.end += got;
        Ok((wanted, got))
    }

    fn compact(&mut self) {
        self.ahead.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }
}

/// Receives into `parts`, one after the other.
///
/// # Safety
///
/// All parts must be valid for writes. They may be memory that other threads look at: the kernel writes it as it
/// would for another process, and no reference to it is made here.
unsafe fn receive_into(stream: &TcpStream, parts: &[libc::iovec]) -> io::Result<usize> {
    // SAFETY: an all-zero message header is a valid one, with no name, no parts and no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len();
    // SAFETY: the message points to `parts`, which the caller vouches for; the kernel doesn't write the array itself.
    let got = unsafe { libc::recvmsg(stream.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}
