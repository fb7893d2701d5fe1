//! Counters of an endpoint.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xfer_transport_core::Lane;

/// What an endpoint has done since it started. Bytes are payload bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// By lane, in the order of [`Lane::ALL`].
    pub lanes: [LaneStats; Lane::ALL.len()],
    /// Transfers that were asked for.
    pub transfers_started: u64,
    /// Transfers whose every byte was applied and verified.
    pub transfers_done: u64,
    /// Transfers that ended cancelled.
    pub transfers_cancelled: u64,
    /// Transfers that ended at their deadline.
    pub transfers_expired: u64,
    /// Transfers that ended because of their peer, their grant, damage, a limit or the shutdown.
    pub transfers_failed: u64,
    /// Chunks that were sent again, counted each time.
    pub chunks_retried: u64,
    /// Chunks that arrived damaged.
    pub chunks_damaged: u64,
    /// Bytes that arrived for a transfer or grant that was over, and were thrown away.
    pub late_bytes: u64,
    /// Transfers of peers that were fenced here.
    pub fences: u64,
    /// Grants that were revoked.
    pub revocations: u64,
    /// Transfers that ended without proof of their fence.
    pub quarantined_transfers: u64,
    /// Bytes of source memory that are held back just now because their fence isn't proven.
    pub quarantined_bytes: u64,
    /// Application messages sent.
    pub messages_sent: u64,
    /// Application messages received.
    pub messages_received: u64,
    /// Events that a subscriber of events didn't take in time.
    pub events_dropped: u64,
    /// Connections refused, by name or because they were no peer's.
    pub handshakes_refused: u64,
    /// Links that were lost while their peer was not.
    pub links_lost: u64,
    /// Peers that came.
    pub peers_up: u64,
    /// Peers that went.
    pub peers_down: u64,
}

/// What one lane has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LaneStats {
    /// Payload bytes put on links, including what was sent again.
    pub sent_bytes: u64,
    /// Chunks put on links.
    pub sent_chunks: u64,
    /// Bytes applied and verified here.
    pub received_bytes: u64,
    /// Chunks applied and verified here.
    pub received_chunks: u64,
    /// Transfers that completed.
    pub transfers_done: u64,
    /// Bytes of those.
    pub done_bytes: u64,
}

impl Stats {
    /// What `lane` has carried.
    pub fn lane(&self, lane: Lane) -> &LaneStats {
        &self.lanes[lane as usize]
    }
}

macro_rules! counters {
    ($name:ident => $snapshot:ident { $($field:ident),* $(,)? } $($rest:tt)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name { $(pub(crate) $field: AtomicU64,)* $($rest)* }

        impl $name {
            fn copy_to(&self, snapshot: &mut $snapshot) {
                $(snapshot.$field = self.$field.load(Relaxed);)*
            }
        }
    };
}

counters!(LaneCounters => LaneStats {
    sent_bytes, sent_chunks, received_bytes, received_chunks, transfers_done, done_bytes,
});
counters!(Counters => Stats {
    transfers_started, transfers_done, transfers_cancelled, transfers_expired, transfers_failed, chunks_retried,
    chunks_damaged, late_bytes, fences, revocations, quarantined_transfers, quarantined_bytes, messages_sent,
    messages_received, events_dropped, handshakes_refused, links_lost, peers_up, peers_down,
} pub(crate) lanes: [LaneCounters; Lane::ALL.len()]);

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        let mut stats = Stats::default();
        self.copy_to(&mut stats);
        for (lane, counters) in stats.lanes.iter_mut().zip(&self.lanes) {
            counters.copy_to(lane);
        }
        stats
    }

    pub(crate) fn sent(&self, lane: Lane, len_bytes: u32) {
        add(&self.lanes[lane as usize].sent_bytes, u64::from(len_bytes));
        add(&self.lanes[lane as usize].sent_chunks, 1);
    }

    pub(crate) fn received(&self, lane: Lane, len_bytes: u32) {
        add(&self.lanes[lane as usize].received_bytes, u64::from(len_bytes));
        add(&self.lanes[lane as usize].received_chunks, 1);
    }
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, by: u64) {
    counter.fetch_sub(by, Relaxed);
}
