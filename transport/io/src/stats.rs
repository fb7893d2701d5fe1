//! Counters of an endpoint: what they are called, what they mean, and what they stand at.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use xfer_transport_core::Lane;

use crate::histogram::{Histogram, HistogramCounters};

/// One counter with its name and its meaning, for whoever shows them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Its name: the field's.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub meaning: &'static str,
    /// What it stands at.
    pub value: u64,
}

/// Makes a snapshot, its counters, and the list of both from one table.
macro_rules! counters {
    (
        $(#[$of_snapshot:meta])*
        $snapshot:ident from $counters:ident { $(#[doc = $meaning:literal] $field:ident,)* }
        and { $($(#[doc = $about:literal])* $part:ident: $shown:ty, $kept:ty;)* }
    ) => {
        $(#[$of_snapshot])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct $snapshot {
            $(#[doc = $meaning] pub $field: u64,)*
            $($(#[doc = $about])* pub $part: $shown,)*
        }

        impl $snapshot {
            /// All plain counters, in the order of their declaration.
            pub fn each(&self) -> impl Iterator<Item = Counter> + use<> {
                [$(Counter { name: stringify!($field), meaning: $meaning.trim_ascii_start(), value: self.$field },)*].into_iter()
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct $counters {
            $(pub(crate) $field: AtomicU64,)*
            $(pub(crate) $part: $kept,)*
        }

        impl $counters {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.load(Relaxed),)* $($part: self.$part.snapshot(),)* }
            }
        }
    };
}

counters! {
    /// What an endpoint has done since it started, over all lanes. Bytes are payload bytes.
    Stats from Counters {
        /// Transfers that were asked for.
        transfers_started,
        /// Transfers whose every byte was applied and verified.
        transfers_done,
        /// Transfers that ended cancelled.
        transfers_cancelled,
        /// Transfers that ended at their deadline.
        transfers_expired,
        /// Transfers that ended because of their peer, their grant, damage, a limit or the shutdown.
        transfers_failed,
        /// Chunks that were sent again, counted each time.
        chunks_retried,
        /// Chunks that arrived damaged.
        chunks_damaged,
        /// Bytes that arrived for a transfer or grant that was over, and were thrown away.
        late_bytes,
        /// Transfers of peers that were fenced here.
        fences,
        /// Grants that are live just now.
        grants_live,
        /// Grants that were revoked.
        revocations,
        /// Transfers that ended without proof of their fence.
        quarantined_transfers,
        /// Bytes of source memory that are held back just now because their fence isn't proven.
        quarantined_bytes,
        /// Bytes of sources that peers may read by themselves just now, because they are told to fetch a chunk.
        exposed_bytes,
        /// Bytes that left from where they lay, without the kernel's copy, and have arrived.
        uncopied_bytes,
        /// Fences without proof, because a device can't be stopped: a broken driver.
        unproven_fences,
        /// Bytes that are lent just now, those included whose borrower is gone and may still read them.
        lent_bytes,
        /// Application messages sent.
        messages_sent,
        /// Application messages received.
        messages_received,
        /// Events that a subscriber of events didn't take in time.
        events_dropped,
        /// Connections refused, by name or because they were no peer's.
        handshakes_refused,
        /// Links that were lost while their peer was not.
        links_lost,
        /// Peers that came.
        peers_up,
        /// Peers that went.
        peers_down,
    } and {
        /// By lane, in the order of [`Lane::ALL`].
        lanes: [LaneStats; Lane::ALL.len()], Lanes;
    }
}

counters! {
    /// What one lane has carried.
    LaneStats from LaneCounters {
        /// Payload bytes put on links, including what was sent again.
        sent_bytes,
        /// Chunks put on links.
        sent_chunks,
        /// Bytes applied and verified here.
        received_bytes,
        /// Chunks applied and verified here.
        received_chunks,
        /// Transfers that completed.
        transfers_done,
        /// Bytes of those.
        done_bytes,
    } and {
        /// How long each of those took, from the request to the last acknowledgement.
        took: Histogram, HistogramCounters;
    }
}

/// Counters of every lane.
#[derive(Debug, Default)]
pub(crate) struct Lanes([LaneCounters; Lane::ALL.len()]);

impl Lanes {
    fn snapshot(&self) -> [LaneStats; Lane::ALL.len()] {
        self.0.each_ref().map(LaneCounters::snapshot)
    }

    fn of(&self, lane: Lane) -> &LaneCounters {
        &self.0[lane as usize]
    }
}

impl Stats {
    /// What `lane` has carried.
    pub fn lane(&self, lane: Lane) -> &LaneStats {
        &self.lanes[lane as usize]
    }
}

impl Counters {
    pub(crate) fn sent(&self, lane: Lane, len_bytes: u32) {
        add(&self.lanes.of(lane).sent_bytes, u64::from(len_bytes));
        add(&self.lanes.of(lane).sent_chunks, 1);
    }

    pub(crate) fn received(&self, lane: Lane, len_bytes: u32) {
        add(&self.lanes.of(lane).received_bytes, u64::from(len_bytes));
        add(&self.lanes.of(lane).received_chunks, 1);
    }

    /// A transfer completed.
    pub(crate) fn done(&self, lane: Lane, len_bytes: u64, took: Duration) {
        add(&self.transfers_done, 1);
        add(&self.lanes.of(lane).transfers_done, 1);
        add(&self.lanes.of(lane).done_bytes, len_bytes);
        self.lanes.of(lane).took.count(took);
    }
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, by: u64) {
    counter.fetch_sub(by, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_listed_with_its_value_and_meaning() {
        let counters = Counters::default();
        add(&counters.late_bytes, 7);
        counters.done(Lane::Rescue, 64, Duration::from_millis(3));
        let stats = counters.snapshot();
        let late = stats.each().find(|counter| counter.name == "late_bytes").expect("it is one of them");
        assert_eq!((late.value, late.meaning.starts_with("Bytes that arrived for")), (7, true));
        let lane: Vec<u64> = stats.lane(Lane::Rescue).each().map(|counter| counter.value).collect();
        assert_eq!(lane, [0, 0, 0, 0, 1, 64], "in the order of the declaration");
        assert_eq!(stats.lane(Lane::Rescue).took.count(), 1);
        assert_eq!(stats.lane(Lane::Bulk).took.count(), 0);
    }
}
