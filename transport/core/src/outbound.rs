//! One transfer as its sender sees it: its chunks, and whether it is over.
//!
//! ```text
//!            stop                 timeout
//!  Active ─────────▶ Fencing ─────────────▶ Quarantined
//!    │ complete        │ fenced, complete,      │ fenced, complete,
//!    │ dropped, gone   │ gone                   │ gone
//!    └─────────────────┴───────▶ Over ◀─────────┘
//! ```

use std::collections::{HashMap, VecDeque};

use crate::limits::{CHUNK_BYTES_MAX, CHUNKS_PER_TRANSFER_MAX};
use crate::message::Refusal;
use crate::path::{Cause, LinkId, Request};
use crate::planted::{self, Bug};
use crate::{BackendId, Time, integrity};

/// Where a transfer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its chunks are posted and acknowledged.
    Active,
    /// It is to end; the receiver is asked to prove that it writes nothing more.
    Fencing,
    /// The proof didn't come in time. The transfer has been reported as ended; its memory is held back.
    Quarantined,
    /// Reported, and proven or past proving.
    Over,
}

/// What can happen to a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Every chunk is acknowledged.
    Complete,
    /// It is to end early, and something of it may be on its way.
    Stop,
    /// It is to end early, and nothing of it ever left.
    Drop,
    /// The receiver writes nothing more of it.
    Fenced,
    /// The proof took too long.
    Timeout,
    /// The peer is gone.
    Gone,
}

/// Every transition there is; all else changes nothing.
pub const TRANSITIONS: &[(Phase, Event, Phase)] = &[
    (Phase::Active, Event::Complete, Phase::Over),
    (Phase::Active, Event::Stop, Phase::Fencing),
    (Phase::Active, Event::Drop, Phase::Over),
    (Phase::Active, Event::Gone, Phase::Over),
    (Phase::Fencing, Event::Complete, Phase::Over),
    (Phase::Fencing, Event::Fenced, Phase::Over),
    (Phase::Fencing, Event::Timeout, Phase::Quarantined),
    (Phase::Fencing, Event::Gone, Phase::Over),
    (Phase::Quarantined, Event::Complete, Phase::Over),
    (Phase::Quarantined, Event::Fenced, Phase::Over),
    (Phase::Quarantined, Event::Gone, Phase::Over),
];

impl Phase {
    /// The phase after `event`, if it changes anything.
    pub fn after(self, event: Event) -> Option<Self> {
        let found = TRANSITIONS.iter().find(|(from, on, _)| (*from, *on) == (self, event));
        found.map(|(_, _, to)| *to)
    }
}

/// The book of one transfer.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) request: Request,
    pub(crate) phase: Phase,
    /// Why it ends early, once it does.
    pub(crate) cause: Option<Cause>,
    pub(crate) started: Time,
    /// The moment for which the path's timer table has an entry.
    pub(crate) timer: Option<Time>,
    /// Whether the schedule has an entry.
    pub(crate) queued: bool,
    pub(crate) retried_chunks: u32,
    pub(crate) over: Vec<(BackendId, u64)>,
    chunk_bytes: u32,
    /// The first chunk that was never posted.
    next: u32,
    /// Chunks to be posted again.
    again: VecDeque<u32>,
    /// Chunks that were posted and are not acknowledged.
    posted: HashMap<u32, Posted>,
    /// Chunks that were posted more than once.
    tries: HashMap<u32, Tries>,
    /// By chunk, the checksum it was acknowledged with.
    acked: Vec<Option<u32>>,
    left: u32,
    left_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Posted {
    backend: BackendId,
    /// `None` while it waits to be posted again.
    link: Option<LinkId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tries {
    /// Postings after the first; stays at the last number rather than wrapping.
    again: u8,
    damaged: u32,
}

/// A chunk's place in its transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) index: u32,
    pub(crate) start: u64,
    pub(crate) len_bytes: u32,
}

impl Outbound {
    /// `chunk_bytes` is a wish: a transfer that would have too many chunks gets larger ones.
    pub(crate) fn new(request: Request, chunk_bytes: u32, now: Time) -> Self {
        let least = request.len_bytes.div_ceil(CHUNKS_PER_TRANSFER_MAX);
        let chunk_bytes = u64::from(chunk_bytes).max(least).min(u64::from(CHUNK_BYTES_MAX));
        // An empty transfer is one empty chunk, so that it too is granted, verified and acknowledged.
        let chunks = request.len_bytes.div_ceil(chunk_bytes).max(1) as u32;
        Self {
            request,
            phase: Phase::Active,
            cause: None,
            started: now,
            timer: None,
            queued: false,
            retried_chunks: 0,
            over: Vec::new(),
            chunk_bytes: chunk_bytes as u32,
            next: 0,
            again: VecDeque::new(),
            posted: HashMap::new(),
            tries: HashMap::new(),
            acked: vec![None; chunks as usize],
            left: chunks,
            left_bytes: request.len_bytes,
        }
    }

    fn extent(&self, index: u32) -> Extent {
        let start = u64::from(index) * u64::from(self.chunk_bytes);
        let rest = self.request.len_bytes - start;
        Extent { index, start, len_bytes: rest.min(u64::from(self.chunk_bytes)) as u32 }
    }

    /// The chunk that begins at `offset` of the region, if one does.
    pub(crate) fn extent_at(&self, offset: u64) -> Option<Extent> {
        let start = offset.checked_sub(self.request.offset)?;
        let index = u32::try_from(start / u64::from(self.chunk_bytes)).ok()?;
        let whole = start % u64::from(self.chunk_bytes) == 0 && (index as usize) < self.acked.len();
        whole.then(|| self.extent(index))
    }

    /// The chunk to post next; those that go again first.
    pub(crate) fn next_extent(&mut self) -> Option<Extent> {
        while let Some(index) = self.again.front() {
            if self.acked[*index as usize].is_none() {
                return Some(self.extent(*index));
            }
            self.again.pop_front();
        }
        ((self.next as usize) < self.acked.len()).then(|| self.extent(self.next))
    }

    /// What [`Outbound::next_extent`] said is posted on `link`: how often it was before.
    pub(crate) fn post_next(&mut self, extent: Extent, link: LinkId, backend: BackendId) -> u8 {
        self.posted.insert(extent.index, Posted { backend, link: Some(link) });
        if self.again.front() != Some(&extent.index) {
            self.next += 1;
            return 0;
        }
        self.again.pop_front();
        self.retried_chunks += 1;
        let tries = self.tries.entry(extent.index).or_default();
        tries.again = tries.again.saturating_add(1);
        tries.again
    }

    /// Whether anything of it ever left.
    pub(crate) fn was_posted(&self) -> bool {
        self.next > 0
    }

    /// A chunk is acknowledged. `None` if that is no news; else whether its bytes were counted as posted.
    pub(crate) fn acknowledge(&mut self, extent: Extent, crc32c: u32) -> Option<bool> {
        if self.acked[extent.index as usize].is_some() {
            return None;
        }
        let posted = self.posted.remove(&extent.index)?;
        self.acked[extent.index as usize] = Some(crc32c);
        self.left -= 1;
        self.left_bytes -= u64::from(extent.len_bytes);
        let copies = if planted::is(Bug::CountTwice) { 2 } else { 1 };
        let bytes = u64::from(extent.len_bytes) * copies;
        match self.over.iter_mut().find(|(backend, _)| *backend == posted.backend) {
            Some((_, carried)) => *carried += bytes,
            None => self.over.push((posted.backend, bytes)),
        }
        Some(posted.link.is_some())
    }

    /// A chunk arrived damaged: it goes again. `None` if that is no news; else how often it was damaged.
    pub(crate) fn damage(&mut self, extent: Extent) -> Option<u32> {
        self.posted.get_mut(&extent.index)?.link.take()?;
        self.again.push_back(extent.index);
        let tries = self.tries.entry(extent.index).or_default();
        tries.damaged += 1;
        Some(tries.damaged)
    }

    /// A link is lost: what was posted on it goes again. Returns the bytes that aren't under way any more.
    pub(crate) fn unpost(&mut self, lost: LinkId) -> Vec<u32> {
        let on_it = self.posted.iter().filter(|(_, posted)| posted.link == Some(lost));
        let mut indexes: Vec<u32> = on_it.map(|(index, _)| *index).collect();
        indexes.sort_unstable();
        self.take_back(&indexes);
        self.again.extend(&indexes);
        indexes.iter().map(|index| self.extent(*index).len_bytes).collect()
    }

    /// Nothing of it is to be posted again. Returns the bytes that were under way, chunk by chunk.
    pub(crate) fn unpost_all(&mut self) -> Vec<u32> {
        let under_way = self.posted.iter().filter(|(_, posted)| posted.link.is_some());
        let indexes: Vec<u32> = under_way.map(|(index, _)| *index).collect();
        self.take_back(&indexes);
        indexes.iter().map(|index| self.extent(*index).len_bytes).collect()
    }

    fn take_back(&mut self, indexes: &[u32]) {
        for index in indexes {
            if let Some(posted) = self.posted.get_mut(index) {
                posted.link = None;
            }
        }
    }

    /// Whether every chunk is acknowledged.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0 || (planted::is(Bug::DoneEarly) && self.left == 1 && self.acked.len() > 1)
    }

    /// Bytes that are not acknowledged.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// The checksum of the whole, once complete.
    pub(crate) fn crc32c(&self) -> u32 {
        let parts = self.acked.iter().enumerate();
        integrity::combine(
            parts.map(|(index, crc32c)| (crc32c.unwrap_or_default(), u64::from(self.extent(index as u32).len_bytes))),
        )
    }
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The phases as a graph in the DOT language, for the documentation.
pub fn dot() -> String {
    let mut graph = String::from("digraph transfer {\n");
    for (from, event, to) in TRANSITIONS {
        graph += &format!("  {from:?} -> {to:?} [label=\"{event:?}\"];\n");
    }
    graph + "}\n"
}
