//! What became of work, and how to hear of it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::Arc;

use super::VerbsError;
use super::abi;
use super::device::Context;

/// Completions taken out by one call.
const BATCH: usize = 16;

/// What becomes readable when a completion queue that was armed has something.
#[derive(Debug)]
pub struct CompletionChannel {
    context: Arc<Context>,
    raw: *mut abi::CompChannel,
}

// SAFETY: the interface allows all its calls from any thread; the pointer stays valid until this is dropped.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above.
unsafe impl Sync for CompletionChannel {}

/// Where work that is done, or has failed, is found. It must hold all work that may be under way: what doesn't fit breaks it.
#[derive(Debug)]
pub struct CompletionQueue {
    channel: Arc<CompletionChannel>,
    pub(super) raw: *mut abi::Cq,
    /// Who is told of what happens to it, and to its queue pairs.
    pub(super) owner: u64,
}

// SAFETY: the interface allows all its calls from any thread; the pointer stays valid until this is dropped.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

/// What became of one piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The number that the work was given.
    pub id: u64,
    /// How it went. When it failed, nothing else of this means anything.
    pub status: Status,
    /// Bytes that were received.
    pub len_bytes: u32,
}

/// How work went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(i32);

impl Status {
    /// It was done.
    pub const DONE: Self = Self(0);
    /// The other end doesn't answer.
    pub const RETRIES_EXCEEDED: Self = Self(12);
    /// Work that was not begun, or not finished, when its queue pair failed.
    pub const FLUSHED: Self = Self(5);
    /// The other end doesn't let us reach that memory.
    pub const REMOTE_ACCESS: Self = Self(10);
    /// The device itself.
    pub const FATAL: Self = Self(19);

    /// Whether it was done.
    pub fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// The interface's number for it.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            0 => "done",
            1 => "more bytes than there is room for (local length error)",
            2 => "the queue pair can't do that (local operation error)",
            4 => "our memory is not registered for that (local protection error)",
            5 => "not done, since the queue pair had failed before (flushed)",
            6 => "a window can't be opened (bind error)",
            7 => "an answer that makes no sense (bad response)",
            8 => "our memory may not be written there (local access error)",
            9 => "the other end has no room for that, or does not allow it (remote invalid request)",
            10 => "the other end's memory may not be reached, any more or at all (remote access error)",
            11 => "the other end could not do it (remote operation error)",
            12 => "the other end does not answer (transport retry counter exceeded)",
            13 => "the other end has had no room for too long (receiver-not-ready counter exceeded)",
            16 => "the other end gave up (remote abort)",
            19 => "the device failed (fatal error)",
            20 => "no response in time (response timeout)",
            number => return write!(f, "failed with status {number}"),
        };
        f.write_str(words)
    }
}

impl CompletionChannel {
    /// A channel on a device; it never blocks.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { (context.library.create_comp_channel)(context.raw) };
        let raw = Context::is_null("no completion channel (ibv_create_comp_channel)", raw)?;
        let channel = Self { context: Arc::clone(context), raw };
        // SAFETY: the descriptor is open as long as the channel is.
        let result = unsafe {
            let flags = libc::fcntl((*raw).fd, libc::F_GETFL);
            libc::fcntl((*raw).fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
        };
        if result < 0 {
            return Err(VerbsError::last("a completion channel that blocks (fcntl)"));
        }
        Ok(Arc::new(channel))
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the channel's, and open as long as that is.
        unsafe { BorrowedFd::borrow_raw((*self.raw).fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: made by us, ended once; its queue kept it and is gone.
        unsafe { (self.context.library.destroy_comp_channel)(self.raw) };
    }
}

impl CompletionQueue {
    /// A queue for `entries` completions, which announces them on a channel of its own. [Events](Context::take_event) about it and its
    /// queue pairs name the `owner`.
    pub fn new(channel: Arc<CompletionChannel>, entries: u32, owner: u64) -> Result<Self, VerbsError> {
        let library = channel.context.library;
        let entries = i32::try_from(entries).unwrap_or(i32::MAX);
        let private = ptr::without_provenance_mut(owner as usize);
        // SAFETY: context and channel live; the private pointer is a number that nobody follows.
        let raw = unsafe { (library.create_cq)(channel.context.raw, entries, private, channel.raw, 0) };
        let raw = Context::is_null("no completion queue (ibv_create_cq)", raw)?;
        Ok(Self { channel, raw, owner })
    }

    /// What announces its completions.
    pub fn channel(&self) -> &Arc<CompletionChannel> {
        &self.channel
    }

    /// Takes completions out, some of them or all; says whether there were any.
    pub fn poll(&self, mut each: impl FnMut(Completion)) -> Result<bool, VerbsError> {
        let mut batch = [abi::Wc::default(); BATCH];
        let poll = self.ops().poll_cq.ok_or(VerbsError::NoSymbol("poll_cq"))?;
        // SAFETY: the queue lives, and the array has so many places.
        let got = unsafe { poll(self.raw, BATCH as i32, batch.as_mut_ptr()) };
        let got = usize::try_from(got).map_err(|_| VerbsError::Failed {
            what: "completions can't be taken (ibv_poll_cq)",
            error: io::Error::from_raw_os_error(libc::EIO),
        })?;
        for wc in &batch[..got.min(BATCH)] {
            each(Completion { id: wc.wr_id, status: Status(wc.status), len_bytes: wc.byte_len });
        }
        Ok(got > 0)
    }

    /// Has the next completion announced, or with `only_sent` the next packet of the other end, and whatever fails. Whoever arms
    /// looks once more before waiting: what came before is not announced.
    pub fn arm(&self, only_sent: bool) -> Result<(), VerbsError> {
        let notify = self.ops().req_notify_cq.ok_or(VerbsError::NoSymbol("req_notify_cq"))?;
        // SAFETY: the queue lives.
        let result = unsafe { notify(self.raw, i32::from(only_sent)) };
        VerbsError::check("completions are not announced (ibv_req_notify_cq)", result)
    }

    /// Takes an announcement off the channel: whether there was one. Arming brings one at most, so there are no others then.
    pub fn take_announcement(&self) -> bool {
        let library = self.channel.context.library;
        let (mut queue, mut private) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the channel lives and doesn't block; both results have a place.
        let taken = unsafe { (library.get_cq_event)(self.channel.raw, &mut queue, &mut private) } == 0;
        if taken {
            // SAFETY: the queue lives, and is the only one that announces on this channel. What is not acknowledged would
            // make its end wait for ever.
            unsafe { (library.ack_cq_events)(self.raw, 1) };
        }
        taken
    }

    fn ops(&self) -> &abi::ContextOps {
        self.channel.context.ops()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: made by us, ended once; its queue pair kept it and is gone, and its announcements are acknowledged.
        unsafe { (self.channel.context.library.destroy_cq)(self.raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_words() {
        for (status, says) in [
            (Status::DONE, "done"),
            (Status::FLUSHED, "flushed"),
            (Status::REMOTE_ACCESS, "remote access error"),
            (Status::RETRIES_EXCEEDED, "does not answer"),
            (Status(13), "receiver-not-ready"),
            (Status(99), "status 99"),
        ] {
            assert!(status.to_string().contains(says), "{status}");
            assert_eq!(status.is_ok(), status == Status::DONE);
        }
    }
}
