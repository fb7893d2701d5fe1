//! The transfers to and from one peer: how they begin, what is read and written for them, and how they end.

use std::sync::Arc;

use xfer_transport_core::message::LinkMessage;
use xfer_transport_core::path::{Cause, Chunk, End, PathEvent, Request, TransferId};
use xfer_transport_core::{Lane, RegionId, Time};

use super::{Chunks, Peer, lock};
use crate::error::{DownReason, TransferError};
use crate::flight::{Flight, FlightRecord};
use crate::limits::{INLINE_BYTES_MAX, INLINE_SEEN_BYTES_MAX, INLINE_STEP_BYTES_MAX};
use crate::stats::{add, subtract};
use crate::transfer::{Source, Transfer, TransferHandle, Transferred};

/// A transfer to the peer that is under way.
pub(super) struct Written {
    pub(super) transfer: Arc<Transfer>,
    region: RegionId,
    began: Time,
}

impl Peer {
    /// Begins a transfer.
    pub(crate) fn write(
        self: &Arc<Self>,
        transfer: Arc<Transfer>,
        request: Request,
    ) -> Result<TransferHandle, TransferError> {
        let now = self.shared.now();
        {
            let mut path = self.path();
            let forecast = request.deadline.and_then(|_| self.forecast_on(&path, request.lane, request.len_bytes, now));
            let id = path.write(request, now).map_err(|error| match self.down.get() {
                Some(reason) => self.gone(reason),
                None => error.into(),
            })?;
            transfer.began(Arc::clone(self), id, forecast);
            // Before the path is let go of: a link may ask for the first chunk at once.
            lock(&self.transfers)
                .insert(id, Written { transfer: Arc::clone(&transfer), region: request.region, began: now });
            path.handle_timeout(now);
        }
        self.kick_some(Some(match request.len_bytes > u64::from(self.shared.chunk_bytes) {
            false if self.is_sent_by_caller(&request) => Chunks::Small,
            false => Chunks::One,
            true => Chunks::Any,
        }));
        Ok(TransferHandle::new(transfer))
    }

    /// Whether the thread that asks for a transfer sends it, if a link takes it at once.
    fn is_sent_by_caller(&self, request: &Request) -> bool {
        let within = |most: u64| request.len_bytes <= most;
        let is_step = Lane::URGENT.contains(&request.lane);
        within(INLINE_BYTES_MAX)
            || is_step && (within(INLINE_STEP_BYTES_MAX) || within(INLINE_SEEN_BYTES_MAX) && self.sees_memory())
    }

    pub(crate) fn cancel(self: &Arc<Self>, id: TransferId) {
        self.path().cancel(id, self.shared.now());
        self.kick();
    }

    /// What a chunk's bytes are read from.
    pub(crate) fn source(&self, chunk: &Chunk) -> Option<Source> {
        let transfers = lock(&self.transfers);
        transfers.get(&chunk.transfer)?.transfer.source(chunk.source_offset, chunk.len_bytes)
    }

    /// Does what the path wants done. Only on threads of our own and holding no lock: ends of transfers run
    /// strangers' callbacks, which may take locks that whoever calls us holds.
    pub(crate) fn settle(&self) {
        loop {
            let Some(event) = self.path().poll_event() else { return };
            match event {
                PathEvent::Stop(id) => {
                    let transfer = lock(&self.transfers).get(&id).map(|written| Arc::clone(&written.transfer));
                    if let Some(transfer) = transfer {
                        let _ = transfer.close_gate();
                    }
                }
                PathEvent::Ended(id, end) => {
                    let written = lock(&self.transfers).remove(&id);
                    if let Some(written) = written {
                        self.ended(id, written, end);
                    }
                }
                PathEvent::Released(id) => {
                    let transfer = lock(&self.quarantine).remove(&id);
                    if let Some(transfer) = transfer {
                        self.let_go(&transfer, true);
                    }
                }
            }
        }
    }

    /// Tells of transfers that are over, as long as nobody has to be told but who waits for them: on any thread.
    pub(crate) fn settle_unheard(&self) {
        while let Some((id, written, end)) = self.next_unheard() {
            self.ended(id, written, end);
        }
    }

    fn next_unheard(&self) -> Option<(TransferId, Written, End)> {
        let mut path = self.path();
        let Some(PathEvent::Ended(id, _)) = path.peek_event() else { return None };
        let id = *id;
        let mut transfers = lock(&self.transfers);
        if !transfers.get(&id)?.transfer.is_unheard() {
            return None;
        }
        let Some(PathEvent::Ended(_, end)) = path.poll_event() else { return None };
        Some((id, transfers.remove(&id)?, end))
    }

    pub(super) fn ended(&self, id: TransferId, written: Written, end: End) {
        let counters = &self.shared.counters;
        let flight = self.flight(id, &written);
        let transfer = written.transfer;
        let (result, fenced) = match end {
            End::Done { crc32c, len_bytes, over, took, retried_chunks } => {
                counters.done(transfer.lane, len_bytes, took);
                add(&counters.chunks_retried, u64::from(retried_chunks));
                (Ok(Transferred { bytes: len_bytes, crc32c, over, took, retried_chunks }), true)
            }
            End::Failed { cause, fenced } => {
                let counter = match cause {
                    Cause::Cancelled => &counters.transfers_cancelled,
                    Cause::Expired => &counters.transfers_expired,
                    Cause::Refused(_) | Cause::Damaged { .. } | Cause::Gone => &counters.transfers_failed,
                };
                add(counter, 1);
                let error = match cause {
                    Cause::Cancelled => TransferError::Cancelled,
                    Cause::Expired => TransferError::Expired,
                    Cause::Refused(refusal) => TransferError::Revoked { region: written.region, refusal },
                    Cause::Damaged { offset } => TransferError::Damaged { offset },
                    Cause::Gone => self.gone(self.down.get().unwrap_or(&DownReason::ShutDown)),
                };
                (Err(error), fenced)
            }
        };
        // The other end's proof is one half, and that nothing reads the source here the other.
        let fenced = transfer.stop_reading(result.is_ok()) && fenced;
        if !fenced {
            add(&counters.quarantined_transfers, 1);
            add(&counters.quarantined_bytes, transfer.len_bytes);
            lock(&self.quarantine).insert(id, Arc::clone(&transfer));
        }
        self.shared.flights.ended(self.shared.now(), flight, &result, fenced);
        transfer.end(result, fenced);
    }

    /// The transfers to it that are under way.
    pub(crate) fn flights(&self) -> Vec<FlightRecord> {
        lock(&self.transfers).iter().map(|(id, written)| self.flight(*id, written).record(None)).collect()
    }

    fn flight(&self, transfer: TransferId, written: &Written) -> Flight {
        let Transfer { lane, len_bytes: bytes, .. } = *written.transfer;
        Flight { transfer, peer: self.id(), lane, bytes, began: written.began }
    }

    /// A transfer in quarantine is free: its fence is proven, or the peer is gone and our end of every link closed.
    pub(super) fn let_go(&self, transfer: &Transfer, fenced: bool) {
        subtract(&self.shared.counters.quarantined_bytes, transfer.len_bytes);
        transfer.release(fenced);
    }

    pub(super) fn gone(&self, reason: &DownReason) -> TransferError {
        match reason {
            DownReason::ShutDown => TransferError::ShutDown,
            reason => TransferError::PeerGone { peer: self.id(), reason: reason.clone() },
        }
    }

    /// The peer asks that nothing more of its transfer is written here.
    pub(crate) fn fence(&self, id: TransferId) {
        if !self.stop_writing(id) {
            // It gets no proof then, and holds its transfer for quarantined.
            add(&self.shared.counters.unproven_fences, 1);
            return;
        }
        add(&self.shared.counters.fences, 1);
        self.path().reply(&LinkMessage::Fenced(id));
    }

    /// Ends one of the peer's transfers here. When this returns, no link writes anything of it; `false` if there is no proof of that.
    pub(crate) fn stop_writing(&self, id: TransferId) -> bool {
        if let Some(mut arrivals) = self.lock_arrivals() {
            // Not only the links that it names: one whose chunk was taken over by another may not have been stopped yet.
            let _ = arrivals.inbound.fence(id);
        }
        self.workers().iter().filter(|worker| !worker.slot().clear_transfer(id)).count() == 0
    }
}
