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
    /// Of all transfers that are to be completed, posted or not.
    left_bytes: u64,
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

    /// So many bytes more are to be acknowledged.
    pub(crate) fn asked(&mut self, lane: Lane, len_bytes: u64) {
        self.lanes[lane as usize].left_bytes += len_bytes;
    }

    /// So many are not any more: they are, or their transfer ends without them.
    pub(crate) fn spared(&mut self, lane: Lane, len_bytes: u64) {
        let left = &mut self.lanes[lane as usize].left_bytes;
        debug_assert!(*left >= len_bytes, "spared more than was asked for");
        *left = left.saturating_sub(len_bytes);
    }

    /// What leaves before a transfer that is asked for in `lane` now, in bytes: lanes before it and its own; and of
    /// lanes after it what is posted, which can't be called back.
    pub(crate) fn ahead_bytes(&self, lane: Lane) -> u64 {
        let before = &self.lanes[..=lane as usize];
        let after = &self.lanes[lane as usize + 1..];
        before.iter().map(|lane| lane.left_bytes).chain(after.iter().map(|lane| lane.posted_bytes)).sum()
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
