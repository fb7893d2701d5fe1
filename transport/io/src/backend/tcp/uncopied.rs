//! What the kernel sends from where it lies, without a copy of its own, and until when it needs it there.
//!
//! The kernel numbers such sends of a socket (`MSG_ZEROCOPY`), and says in the socket's error queue which are over: nothing of it, and no
//! network card, looks at their bytes any more. That is after the other end's kernel has acknowledged them, or after the
//! connection was ended and what was in its queues is gone. Until then each has entered the source's gate and keeps its memory.
//!
//! Where the kernel copies all the same (within a machine it always does), where it refuses, and where it takes long, there is nothing to
//! gain, and the link goes back to ordinary sends.
#![allow(unsafe_code, reason = "the kernel is given raw pointers to memory that is shared with peers and frameworks")]

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::ZeroCopy;
use crate::backend::{LinkError, Manner};
use crate::gate::Reader;
use crate::limits::{READER_GRACE, ZEROCOPY_HELD_MAX, ZEROCOPY_VAIN_MAX};
use crate::stats::add;
use crate::transfer::{Admitted, Source};

/// The sends of one connection.
#[derive(Debug)]
pub(super) struct Uncopied {
    stream: Arc<TcpStream>,
    wish: ZeroCopy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The kernel's number for the next send.
    next: u32,
    /// What the kernel may still read, the oldest first.
    held: VecDeque<Held>,
    /// Sends that gained nothing, less those that did.
    vain: u32,
    /// Why no more is sent this way.
    stopped: Option<&'static str>,
    /// The connection was ended, so that a source could be given back.
    ended: bool,
}

#[derive(Debug)]
struct Held {
    id: u32,
    since: Instant,
    len_bytes: u64,
    source: Admitted,
}

/// The kernel is through with the sends from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Notice {
    first: u32,
    last: u32,
    /// It has copied them all the same.
    copied: bool,
}

impl Uncopied {
    /// For a connection that has sent nothing this way.
    pub(super) fn new(stream: &Arc<TcpStream>, wish: ZeroCopy) -> Arc<Self> {
        let stopped = match enable(stream) {
            Ok(()) => None,
            Err(_) => Some("this kernel has no MSG_ZEROCOPY"),
        };
        let state = State { stopped, ..State::default() };
        Arc::new(Self { stream: Arc::clone(stream), wish, state: Mutex::new(state) })
    }

    /// Sends `len` bytes of a source from `at` on, or a part of them. Nothing if they have to be sent in the ordinary way.
    pub(super) fn send(self: &Arc<Self>, source: &Source, at: usize, len: usize) -> Option<io::Result<usize>> {
        // Numbers of several connections meet at one gate, and so do those of RDMA, which have 56 bits.
        static NUMBERS: AtomicU64 = AtomicU64::new(1 << 56);
        let mut state = self.lock();
        if state.stopped.is_some() {
            return None;
        }
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let source = source.admit(Arc::clone(self) as Arc<dyn Reader>, number)?;
        let start = source.slice().as_ptr().wrapping_add(at);
        let since = Instant::now();
        // SAFETY: the source is as long as the chunk's header says, and is kept by `source` until the kernel says that it needs it no more.
        let sent = unsafe { send_from(&self.stream, start, len) };
        let unsent = match sent {
            Ok(sent) => {
                // Under the same lock as the call, so that nobody hears of its end before its beginning.
                let id = state.next;
                state.next = id.wrapping_add(1);
                state.held.push_back(Held { id, since, len_bytes: sent as u64, source });
                return Some(Ok(sent));
            }
            Err(error) if is_for_later(&error) => (source, Some(Err(error))),
            // It can't pin so much memory, or this one not at all. What is wrong with the connection, the ordinary send finds too.
            Err(error) => {
                state.vain(&self.wish, refusal(&error));
                (source, None)
            }
        };
        drop(state);
        // Without the lock: its memory may be somebody's whose end takes other locks.
        let (source, result) = unsent;
        drop(source);
        result
    }

    /// Takes in what the kernel is through with. An error if the connection was ended for the sake of a source.
    pub(super) fn reap(&self) -> Result<(), LinkError> {
        let mut over = Vec::new();
        let ended = {
            let mut state = self.lock();
            let mut control = [0; CONTROL_BYTES];
            while !state.held.is_empty() {
                let Some(len) = next_control(&self.stream, &mut control) else { break };
                let now = Instant::now();
                notices(&control[..len]).for_each(|notice| state.through(notice, now, &self.wish, &mut over));
            }
            state.ended
        };
        // As above.
        drop(over);
        match ended {
            true => Err(LinkError::Io(io::Error::other(format!(
                "the peer has not taken what was sent within {READER_GRACE:?} after its source was to be given back"
            )))),
            false => Ok(()),
        }
    }

    /// Whether the kernel needs nothing of what it was given.
    pub(super) fn is_through(&self) -> bool {
        self.lock().held.is_empty()
    }

    /// Nothing more is sent: what the kernel still has is of no use, and it is told to forget it.
    pub(super) fn halt(&self) {
        self.lock().end(&self.stream);
        let _ = self.reap();
    }

    /// How ordinary memory is sent.
    pub(super) fn manner(&self) -> Manner {
        match self.lock().stopped {
            Some(why) => Manner { copies: 2, sentence: format!("copied by the kernel at both ends ({why})") },
            None => {
                Manner { copies: 1, sentence: "sent from where it lies, copied by the kernel at the other end".into() }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader for Uncopied {
    fn look(&self) {
        // Why the link is over its own thread says.
        let _ = self.reap();
    }

    /// The other end has all of it, and acknowledges no byte twice: what is left is that its kernel's acknowledgement arrives, for
    /// which the memory is kept and nobody waits.
    fn finish(&self, number: u64) {
        if self.lock().find(number).is_some() {
            self.look();
        }
        if let Some(held) = self.lock().find(number) {
            held.source.leave();
        }
    }

    fn stop(&self, number: u64) {
        {
            let mut state = self.lock();
            if state.find(number).is_some() {
                state.end(&self.stream);
            }
        }
        self.look();
    }
}

impl State {
    fn find(&mut self, number: u64) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.source.number() == number)
    }

    /// The kernel is through with some sends.
    fn through(&mut self, notice: Notice, now: Instant, wish: &ZeroCopy, over: &mut Vec<Held>) {
        let count = notice.last.wrapping_sub(notice.first);
        let mut at = 0;
        while at < self.held.len() {
            // The numbers begin anew after the last.
            if self.held[at].id.wrapping_sub(notice.first) > count {
                at += 1;
                continue;
            }
            let Some(held) = self.held.remove(at) else { return };
            let is_slow = now.duration_since(held.since) > ZEROCOPY_HELD_MAX;
            match notice.copied {
                true => self.vain(wish, "it copies in spite of being told not to, as it does within a machine"),
                false if is_slow => self.vain(wish, "the peer takes long to acknowledge what is sent"),
                false => self.vain = self.vain.saturating_sub(1),
            }
            if !notice.copied
                && let Some(counters) = held.source.counters()
            {
                add(&counters.uncopied_bytes, held.len_bytes);
            }
            over.push(held);
        }
    }

    /// A send has gained nothing.
    fn vain(&mut self, wish: &ZeroCopy, why: &'static str) {
        self.vain = self.vain.saturating_add(1);
        if self.vain >= ZEROCOPY_VAIN_MAX && !matches!(wish, ZeroCopy::Always(_)) && self.stopped.is_none() {
            tracing::debug!("chunks are copied by the kernel from here on: {why}");
            self.stopped = Some(why);
        }
    }

    /// Ends the connection, if the kernel still has something to send from where it lies: it forgets what it has queued.
    fn end(&mut self, stream: &TcpStream) {
        if self.held.is_empty() || self.ended {
            return;
        }
        self.ended = true;
        self.stopped = Some("the connection is over");
        // The one way to that which leaves the descriptor, and with it the error queue. Should it fail there is no proof, and whoever waits
        // for it is told so.
        if let Err(error) = rustix::net::connect_unspec(stream) {
            tracing::error!("a connection can't be ended: {error}");
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn refusal(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => "more memory can't be pinned: raise `ulimit -l` or net.core.optmem_max",
        _ => "this memory can't be pinned",
    }
}

// What the kernel says.

/// What a notice takes: a head, the notice, and an address that it doesn't give.
const CONTROL_BYTES: usize = 128;

/// The layout of a piece of control data: its length with this head, its level, its type.
const HEAD_BYTES: usize = size_of::<libc::cmsghdr>();

/// The origin and the code of a notice (`linux/errqueue.h`).
const ORIGIN_ZEROCOPY: u8 = 5;
const CODE_COPIED: u8 = 1;

/// The notices in control data; what is no such notice is passed over.
fn notices(control: &[u8]) -> impl Iterator<Item = Notice> + '_ {
    let mut rest = control;
    std::iter::from_fn(move || {
        loop {
            let len = usize::from_ne_bytes(*rest.first_chunk()?);
            if len < HEAD_BYTES {
                return None;
            }
            let piece = rest.get(..len)?;
            rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
            if let Some(notice) = notice(piece) {
                return Some(notice);
            }
        }
    })
}

fn notice(piece: &[u8]) -> Option<Notice> {
    let word = |at: usize| piece.get(at..)?.first_chunk().copied();
    let head_words = [HEAD_BYTES - 8, HEAD_BYTES - 4].map(|at| word(at).map(i32::from_ne_bytes));
    let [Some(level), Some(kind)] = head_words else { return None };
    if !matches!((level, kind), (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)) {
        return None;
    }
    let [errno, kinds, first, last] = [0, 4, 8, 12].map(|at| word(HEAD_BYTES + at));
    let [origin, _, code, _] = kinds?;
    (u32::from_ne_bytes(errno?) == 0 && origin == ORIGIN_ZEROCOPY).then_some(Notice {
        first: u32::from_ne_bytes(first?),
        last: u32::from_ne_bytes(last?),
        copied: code & CODE_COPIED != 0,
    })
}

/// The length of the next control data of the error queue, if there is any.
fn next_control(stream: &TcpStream, control: &mut [u8; CONTROL_BYTES]) -> Option<usize> {
    // SAFETY: an all-zero message header is a valid one, with no name, no parts and no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    loop {
        // SAFETY: the message points to `control`, which is as long as it says, and to nothing else.
        let got = unsafe { libc::recvmsg(stream.as_raw_fd(), &mut message, flags) };
        if got >= 0 {
            return Some((message.msg_controllen as usize).min(CONTROL_BYTES));
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

fn enable(stream: &TcpStream) -> io::Result<()> {
    let yes: libc::c_int = 1;
    let len = size_of_val(&yes) as libc::socklen_t;
    // SAFETY: the option is a number of that size.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const yes).cast(), len)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends `len` bytes from `start` without a copy.
///
/// # Safety
///
/// They must be valid for reads until the kernel says that it is through with them. Other threads may write them meanwhile: the
/// kernel reads them as it would for another process, and no reference to them is made here.
unsafe fn send_from(stream: &TcpStream, start: *const u8, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_ZEROCOPY;
    // SAFETY: the caller vouches for the bytes; sending only reads.
    let sent = unsafe { libc::send(stream.as_raw_fd(), start.cast(), len, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
