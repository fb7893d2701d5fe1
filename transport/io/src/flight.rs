//! The flight recorder: what became of the latest transfers, for whoever asks afterwards what went wrong.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use xfer_transport_core::path::TransferId;
use xfer_transport_core::{BackendId, Lane, PeerId, Time};

use crate::error::TransferError;
use crate::limits::FLIGHT_RECORDS_MAX;
use crate::transfer::Transferred;

/// One transfer from this process, as the recorder keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlightRecord {
    /// Its number among those to this life of its peer.
    pub transfer: u64,
    /// Where to.
    pub peer: PeerId,
    /// Its lane.
    pub lane: Lane,
    /// How many bytes it was asked to move.
    pub bytes: u64,
    /// When it was asked for, on the endpoint's clock.
    pub began: Time,
    /// When and how it ended; none while it is under way.
    pub ended: Option<FlightEnd>,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlightEnd {
    /// When, on the endpoint's clock.
    pub at: Time,
    /// What each backend carried of it in bytes, or why it failed.
    pub result: Result<Vec<(BackendId, u64)>, TransferError>,
    /// Whether it is proven that nothing of it is read or written any more.
    pub fenced: bool,
    /// Chunks that were sent more than once; 0 for a transfer that failed.
    pub retried_chunks: u32,
}

/// A ring of the latest transfers that ended.
#[derive(Debug, Default)]
pub(crate) struct FlightRecorder {
    ended: Mutex<VecDeque<FlightRecord>>,
}

/// A transfer that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flight {
    pub(crate) transfer: TransferId,
    pub(crate) peer: PeerId,
    pub(crate) lane: Lane,
    pub(crate) bytes: u64,
    pub(crate) began: Time,
}

impl Flight {
    /// As it stands.
    pub(crate) fn record(self, ended: Option<FlightEnd>) -> FlightRecord {
        let Self { transfer, peer, lane, bytes, began } = self;
        FlightRecord { transfer: transfer.0, peer, lane, bytes, began, ended }
    }
}

impl FlightRecorder {
    /// Keeps how a transfer ended, and forgets the oldest for it when the ring is full.
    pub(crate) fn ended(&self, at: Time, flight: Flight, result: &Result<Transferred, TransferError>, fenced: bool) {
        let retried_chunks = result.as_ref().map_or(0, |moved| moved.retried_chunks);
        let result = result.as_ref().map(|moved| moved.over.clone()).map_err(Clone::clone);
        let mut ended = self.lock();
        if ended.len() == FLIGHT_RECORDS_MAX {
            ended.pop_front();
        }
        ended.push_back(flight.record(Some(FlightEnd { at, result, fenced, retried_chunks })));
    }

    /// Those that ended, the oldest first.
    pub(crate) fn records(&self) -> Vec<FlightRecord> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<FlightRecord>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_latest() {
        let recorder = FlightRecorder::default();
        let flight = |number: u64| Flight {
            transfer: TransferId(number),
            peer: PeerId { rank: 1, incarnation: 2 },
            lane: Lane::Bulk,
            bytes: 8,
            began: Time::ZERO,
        };
        for number in 0..FLIGHT_RECORDS_MAX as u64 + 3 {
            recorder.ended(Time::ZERO, flight(number), &Err(TransferError::Cancelled), true);
        }
        let numbers: Vec<u64> = recorder.records().iter().map(|record| record.transfer).collect();
        assert_eq!(numbers, (3..FLIGHT_RECORDS_MAX as u64 + 3).collect::<Vec<_>>());
    }
}
