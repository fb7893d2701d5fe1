//! A reliable connection to one other queue pair: what is sent, received, read and opened over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, ptr};

use super::abi::{self, AhAttr, QpAttr, QpCap, QpInitAttr, RecvWr, SendWr, Sge};
use super::device::Context;
use super::{Access, CompletionQueue, MemoryRegion, MemoryWindow, ProtectionDomain, VerbsError};

const RELIABLE_CONNECTION: i32 = 2;

/// Values of `ibv_qp_state`.
mod state {
    pub(super) const INIT: i32 = 1;
    pub(super) const READY_TO_RECEIVE: i32 = 2;
    pub(super) const READY_TO_SEND: i32 = 3;
    pub(super) const ERROR: i32 = 6;
}

/// Bits of `ibv_qp_attr_mask`.
mod mask {
    pub(super) const STATE: i32 = 1;
    pub(super) const ACCESS: i32 = 1 << 3;
    pub(super) const PKEY_INDEX: i32 = 1 << 4;
    pub(super) const PORT: i32 = 1 << 5;
    pub(super) const WAY: i32 = 1 << 7;
    pub(super) const MTU: i32 = 1 << 8;
    pub(super) const TIMEOUT: i32 = 1 << 9;
    pub(super) const RETRIES: i32 = 1 << 10;
    pub(super) const ROOM_RETRIES: i32 = 1 << 11;
    pub(super) const RECEIVE_PSN: i32 = 1 << 12;
    pub(super) const READS: i32 = 1 << 13;
    pub(super) const ROOM_TIMER: i32 = 1 << 15;
    pub(super) const SEND_PSN: i32 = 1 << 16;
    pub(super) const READS_OF_PEER: i32 = 1 << 17;
    pub(super) const DESTINATION: i32 = 1 << 20;
}

/// Values of `ibv_wr_opcode` and bits of `ibv_send_flags`.
mod work {
    pub(super) const WRITE: i32 = 0;
    pub(super) const SEND: i32 = 2;
    pub(super) const READ: i32 = 4;
    pub(super) const CLOSE_WINDOW: i32 = 7;
    pub(super) const OPEN_WINDOW: i32 = 8;
    pub(super) const ANNOUNCED: u32 = 1 << 1;
    pub(super) const WAKES_THE_OTHER_END: u32 = 1 << 2;
    pub(super) const INLINE: u32 = 1 << 3;
}

/// How much work may be under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Sends, reads, and openings and closings of windows.
    pub sends: u32,
    /// Receives.
    pub receives: u32,
    /// Bytes that are copied into the work itself: asked for, and then what is given.
    pub inline_bytes: u32,
}

/// Where the other end is, and how it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Our port.
    pub port: u8,
    /// The place of our address in its table.
    pub gid_index: u8,
    /// The other end's address.
    pub gid: [u8; 16],
    /// Its queue pair.
    pub queue_pair: u32,
    /// The number of its first packet.
    pub psn: u32,
    /// Bytes of payload in a packet, a power of two from 256 to 4096.
    pub mtu_bytes: u32,
    /// Reads that it may have under way here.
    pub reads_of_peer: u8,
}

/// When the other end is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// An answer is waited for so long: 4.096 us times two to this power.
    pub timeout_exponent: u8,
    /// And asked for again so often. Never 7, which some devices take as "for ever".
    pub retries: u8,
}

/// Something to do. A completion tells when it is done; of an opening only if it fails.
#[derive(Debug)]
pub enum Work<'a> {
    /// Send what lies there. It wakes the other end even if that [waits for nothing else](CompletionQueue::arm).
    Send {
        /// Where.
        part: Part,
        /// Whether it is copied now, so that the memory needs neither registration nor patience.
        inline: bool,
    },
    /// Read the other end's memory.
    Read {
        /// Where to.
        part: Part,
        /// Its address there.
        remote: u64,
        /// What names it there.
        remote_key: u32,
    },
    /// Write the other end's memory.
    Write {
        /// Where from.
        part: Part,
        /// Its address there.
        remote: u64,
        /// What names it there.
        remote_key: u32,
    },
    /// Let the other end read a part of a registration, under a key.
    Open {
        /// With this window, which is closed.
        window: &'a MemoryWindow,
        /// The key, from [`MemoryWindow::next_key`].
        key: u32,
        /// On this memory.
        on: &'a MemoryRegion,
        /// From this address on.
        start: u64,
        /// So many bytes.
        len_bytes: u64,
    },
    /// Close the window that has this key.
    Close {
        /// The key.
        key: u32,
    },
}

/// A part of registered memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its address.
    pub start: u64,
    /// Its length.
    pub len_bytes: u32,
    /// What names the registration.
    pub key: u32,
}

/// One end of a reliable connection.
#[derive(Debug)]
pub struct QueuePair {
    queue: Arc<CompletionQueue>,
    domain: Arc<ProtectionDomain>,
    raw: *mut abi::Qp,
    capacity: Capacity,
    ended: AtomicBool,
}

// SAFETY: the interface allows all its calls from any thread; the pointer stays valid until this is dropped.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// A queue pair whose work of both kinds completes on `queue`. It takes receives, and nothing else, after [`Self::prepare`].
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        queue: &Arc<CompletionQueue>,
        capacity: Capacity,
    ) -> Result<Self, VerbsError> {
        let mut attributes = QpInitAttr {
            // A number that nobody follows.
            qp_context: ptr::without_provenance_mut(queue.owner as usize),
            send_cq: queue.raw,
            recv_cq: queue.raw,
            srq: ptr::null_mut(),
            cap: QpCap {
                max_send_wr: capacity.sends,
                max_recv_wr: capacity.receives,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: capacity.inline_bytes,
            },
            qp_type: RELIABLE_CONNECTION,
            sq_sig_all: 0,
        };
        // SAFETY: domain and queue live, and the structure is whole.
        let raw = unsafe { (domain.context.library.create_qp)(domain.raw, &mut attributes) };
        let raw = Context::is_null("no queue pair (ibv_create_qp)", raw)?;
        let cap = attributes.cap;
        let capacity =
            Capacity { sends: cap.max_send_wr, receives: cap.max_recv_wr, inline_bytes: cap.max_inline_data };
        let (queue, domain) = (Arc::clone(queue), Arc::clone(domain));
        Ok(Self { queue, domain, raw, capacity, ended: AtomicBool::new(false) })
    }

    /// Its number, by which the other end finds it.
    pub fn number(&self) -> u32 {
        // SAFETY: the queue pair lives as long as `self`.
        unsafe { (*self.raw).qp_num }
    }

    /// What was given of what was asked for.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The domain whose memory it reaches.
    pub fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    /// Where its work completes.
    pub fn queue(&self) -> &Arc<CompletionQueue> {
        &self.queue
    }

    /// Makes it ready for receives, on a port, with what its other end may do by itself.
    pub fn prepare(&self, port: u8, access: Access) -> Result<(), VerbsError> {
        let mut attributes = QpAttr {
            qp_state: state::INIT,
            port_num: port,
            qp_access_flags: access.bits().unsigned_abs(),
            ..QpAttr::default()
        };
        let changes = mask::STATE | mask::PKEY_INDEX | mask::PORT | mask::ACCESS;
        self.modify("the queue pair can't be set up (ibv_modify_qp to INIT)", &mut attributes, changes)
    }

    /// Connects it: what the other end sends arrives from now on.
    pub fn connect(&self, path: &Path) -> Result<(), VerbsError> {
        let [high, low] = [&path.gid[..8], &path.gid[8..]].map(|half| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(half);
            u64::from_ne_bytes(bytes)
        });
        let mut attributes = QpAttr {
            qp_state: state::READY_TO_RECEIVE,
            // 256 bytes are 1, and each further number is twice as much.
            path_mtu: path.mtu_bytes.trailing_zeros().saturating_sub(7) as i32,
            dest_qp_num: path.queue_pair,
            rq_psn: path.psn,
            max_dest_rd_atomic: path.reads_of_peer,
            // 0.64 ms: credits keep this from ever being needed.
            min_rnr_timer: 12,
            ah_attr: AhAttr {
                dgid: [high, low],
                sgid_index: path.gid_index,
                hop_limit: 64,
                is_global: 1,
                port_num: path.port,
                ..AhAttr::default()
            },
            ..QpAttr::default()
        };
        let changes = mask::STATE
            | mask::WAY
            | mask::MTU
            | mask::DESTINATION
            | mask::RECEIVE_PSN
            | mask::READS_OF_PEER
            | mask::ROOM_TIMER;
        self.modify("the queue pair can't be connected (ibv_modify_qp to RTR)", &mut attributes, changes)
    }

    /// Makes it send: its first packet has number `psn`, and at most `reads` reads are under way.
    pub fn start(&self, psn: u32, reads: u8, timing: Timing) -> Result<(), VerbsError> {
        let mut attributes = QpAttr {
            qp_state: state::READY_TO_SEND,
            sq_psn: psn,
            max_rd_atomic: reads,
            timeout: timing.timeout_exponent,
            retry_cnt: timing.retries,
            rnr_retry: timing.retries,
            ..QpAttr::default()
        };
        let changes = mask::STATE | mask::TIMEOUT | mask::RETRIES | mask::ROOM_RETRIES | mask::SEND_PSN | mask::READS;
        self.modify("the queue pair can't be started (ibv_modify_qp to RTS)", &mut attributes, changes)
    }

    /// Stops it: what is under way completes as flushed, and then the device reaches no memory through it.
    pub fn fail(&self) -> Result<(), VerbsError> {
        let mut attributes = QpAttr { qp_state: state::ERROR, ..QpAttr::default() };
        self.modify("the queue pair can't be stopped (ibv_modify_qp to ERR)", &mut attributes, mask::STATE)
    }

    /// Ends it for good. When this returns without an error the device reaches no memory through it any more, whatever was
    /// under way; of that nothing completes. Nothing else can be done with it afterwards.
    pub fn end(&self) -> Result<(), VerbsError> {
        if self.ended.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // SAFETY: made by us, and ended once, as the flag says.
        let result = unsafe { (self.domain.context.library.destroy_qp)(self.raw) };
        VerbsError::check("the queue pair doesn't end (ibv_destroy_qp)", result)
    }

    /// Posts work, each piece with its id, which begins in this order and at one call of the device.
    ///
    /// # Safety
    ///
    /// All memory that the work names must stay mapped, and must be left to the device, until a completion with its id is found, or
    /// until [`Self::end`] has returned; an opening is over with the piece that follows it. Nobody may call this after or while `end`
    /// runs. After an error some of it may have been posted.
    pub unsafe fn post<const COUNT: usize>(&self, pieces: [(u64, &Work<'_>); COUNT]) -> Result<(), VerbsError> {
        if self.ended.load(Ordering::SeqCst) {
            return Err(VerbsError::Failed {
                what: "work for a queue pair that has ended",
                error: io::Error::from_raw_os_error(libc::ENOTCONN),
            });
        }
        let mut parts = pieces.map(|(_, work)| work.part());
        let mut requests = pieces.map(|(id, work)| work.request(id));
        let mut next = ptr::null_mut();
        for (request, part) in requests.iter_mut().zip(&mut parts).rev() {
            if let Some(part) = part {
                (request.sg_list, request.num_sge) = (part, 1);
            }
            request.next = std::mem::replace(&mut next, request);
        }
        if next.is_null() {
            return Ok(());
        }
        let post = self.domain.context.ops().post_send.ok_or(VerbsError::NoSymbol("post_send"))?;
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives; the requests and their parts are read before the call returns; the memory is the caller's word.
        let result = unsafe { post(self.raw, next, &mut bad) };
        VerbsError::check("work can't be posted (ibv_post_send)", result)?;
        for (_, work) in pieces {
            if let Work::Open { window, key, .. } = work {
                // The next opening has to say what the key was before it.
                // SAFETY: the window lives, and whoever posts with it does so one after the other.
                unsafe { (*window.raw).rkey = *key };
            }
        }
        Ok(())
    }

    /// Posts room for one arriving message.
    ///
    /// # Safety
    ///
    /// As for [`Self::post`].
    pub unsafe fn post_room(&self, id: u64, part: Part) -> Result<(), VerbsError> {
        let mut part = Sge { addr: part.start, length: part.len_bytes, lkey: part.key };
        let mut request = RecvWr { wr_id: id, next: ptr::null_mut(), sg_list: &mut part, num_sge: 1 };
        let post = self.domain.context.ops().post_recv.ok_or(VerbsError::NoSymbol("post_recv"))?;
        let mut bad = ptr::null_mut();
        // SAFETY: as for `post`.
        let result = unsafe { post(self.raw, &mut request, &mut bad) };
        VerbsError::check("room can't be posted (ibv_post_recv)", result)
    }

    fn modify(&self, what: &'static str, attributes: &mut QpAttr, changes: i32) -> Result<(), VerbsError> {
        if self.ended.load(Ordering::SeqCst) {
            return Ok(());
        }
        // SAFETY: the queue pair lives, and the structure is whole.
        let result = unsafe { (self.domain.context.library.modify_qp)(self.raw, attributes, changes) };
        VerbsError::check(what, result)
    }
}

impl Work<'_> {
    fn part(&self) -> Option<Sge> {
        match self {
            Self::Send { part, .. } | Self::Read { part, .. } | Self::Write { part, .. } => {
                Some(Sge { addr: part.start, length: part.len_bytes, lkey: part.key })
            }
            Self::Open { .. } | Self::Close { .. } => None,
        }
    }

    /// What the device is told, but for the part and what follows.
    fn request(&self, id: u64) -> SendWr {
        // SAFETY: a structure of numbers and pointers, for which zeros are values.
        let mut request: SendWr = unsafe { std::mem::zeroed() };
        request.wr_id = id;
        request.send_flags = work::ANNOUNCED;
        match self {
            Self::Send { inline, .. } => {
                request.opcode = work::SEND;
                request.send_flags |= work::WAKES_THE_OTHER_END | if *inline { work::INLINE } else { 0 };
            }
            Self::Read { remote, remote_key, .. } => {
                (request.opcode, request.remote_addr, request.rkey) = (work::READ, *remote, *remote_key);
            }
            Self::Write { remote, remote_key, .. } => {
                (request.opcode, request.remote_addr, request.rkey) = (work::WRITE, *remote, *remote_key);
            }
            Self::Open { window, key, on, start, len_bytes } => {
                request.opcode = work::OPEN_WINDOW;
                request.send_flags = 0;
                request.bind.mw = window.raw;
                request.bind.rkey = *key;
                request.bind.mr = on.raw;
                request.bind.addr = *start;
                request.bind.length = *len_bytes;
                request.bind.access = Access::REMOTE_READ.bits().unsigned_abs();
            }
            Self::Close { key } => {
                (request.opcode, request.invalidate_rkey) = (work::CLOSE_WINDOW, *key);
            }
        }
        request
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
