//! Which transfer's chunk leaves next: lanes in order, within a lane first come first served.

use std::collections::VecDeque;

use crate::Lane;
use crate::limits::lane_window_bytes;
use crate::path::TransferId;
use crate::planted::{self, Bug};

/// Payload bytes that each lane may have posted and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// By lane, in bytes.
    pub bytes: [u64; Lane::ALL.len()],
}

impl Default for Windows {
    fn default() -> Self {
        Self { bytes: Lane::ALL.map(lane_window_bytes) }
    }
}

/// The transfers that have something to post, and what is posted.
#[derive(Debug)]
pub(crate) struct Schedule {
    windows: Windows,
    lanes: [LaneQueue; Lane::ALL.len()],
}

#[derive(Debug, Default)]
struct LaneQueue {
    waiting: VecDeque<TransferId>,
    posted_bytes: u64,
}

impl Schedule {
    pub(crate) fn new(windows: Windows) -> Self {
        Self { windows, lanes: Default::default() }
    }

    /// `transfer` has something to post, after the others of its lane.
    pub(crate) fn enqueue(&mut self, lane: Lane, transfer: TransferId) {
        self.lanes[lane as usize].waiting.push_back(transfer);
    }

    /// `transfer` has something to post again, before the others of its lane: it has been served already.
    pub(crate) fn enqueue_first(&mut self, lane: Lane, transfer: TransferId) {
        self.lanes[lane as usize].waiting.push_front(transfer);
    }

    /// The transfer that is served next in `lane`.
    pub(crate) fn front(&self, lane: Lane) -> Option<TransferId> {
        self.lanes[lane as usize].waiting.front().copied()
    }

    /// The front of `lane` has nothing to post (any more).
    pub(crate) fn dequeue(&mut self, lane: Lane) {
        self.lanes[lane as usize].waiting.pop_front();
    }

    /// Whether a chunk fits into the lane's window. One always does, however large.
    pub(crate) fn has_room(&self, lane: Lane, len_bytes: u32) -> bool {
        let posted = self.lanes[lane as usize].posted_bytes;
        posted == 0
            || posted + u64::from(len_bytes) <= self.windows.bytes[lane as usize]
            || planted::is(Bug::IgnoreWindow)
    }

    pub(crate) fn posted(&mut self, lane: Lane, len_bytes: u32) {
        self.lanes[lane as usize].posted_bytes += u64::from(len_bytes);
    }

    /// Bytes are not under way any more: acknowledged, lost, or of a transfer that is over.
    pub(crate) fn settled(&mut self, lane: Lane, len_bytes: u32) {
        let posted = &mut self.lanes[lane as usize].posted_bytes;
        debug_assert!(*posted >= u64::from(len_bytes), "settled more than was posted");
        *posted = posted.saturating_sub(u64::from(len_bytes));
    }

    /// Payload bytes of `lane` that are posted.
    pub(crate) fn posted_bytes(&self, lane: Lane) -> u64 {
        self.lanes[lane as usize].posted_bytes
    }

    /// Whether nothing is posted in any lane.
    pub(crate) fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.posted_bytes == 0)
    }
}
