//! The life of a transfer: what acknowledgements, damage, fences and time make of it.

use std::collections::BTreeSet;

use super::{Cause, End, Path, PathEvent, TransferId};
use crate::Time;
use crate::limits::{CHUNK_ATTEMPTS_MAX, FENCE_TIMEOUT};
use crate::message::{Ack, LinkMessage};
use crate::outbound::{Event, Outbound, Phase};
use crate::planted::{self, Bug};

impl Path {
    pub(super) fn acknowledged(&mut self, ack: &Ack, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&ack.transfer) else { return };
        let Some(extent) = transfer.extent_at(ack.offset) else { return };
        let Some(was_under_way) = transfer.acknowledge(extent, ack.crc32c) else { return };
        self.rate.acknowledged(u64::from(extent.len_bytes), now);
        if was_under_way {
            self.schedule.settled(transfer.request.lane, extent.len_bytes);
        }
        if transfer.phase == Phase::Active {
            self.schedule.spared(transfer.request.lane, u64::from(extent.len_bytes));
        }
        if transfer.is_complete() {
            self.advance(ack.transfer, Event::Complete, now);
        }
        self.note_idle(now);
    }

    pub(super) fn damaged(&mut self, id: TransferId, offset: u64, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let Some(extent) = transfer.extent_at(offset) else { return };
        let Some(times) = transfer.damage(extent) else { return };
        let lane = transfer.request.lane;
        self.schedule.settled(lane, extent.len_bytes);
        if times >= CHUNK_ATTEMPTS_MAX {
            self.stop(id, Cause::Damaged { offset }, now);
        } else if transfer.phase == Phase::Active && !std::mem::replace(&mut transfer.queued, true) {
            self.schedule.enqueue_first(lane, id);
        }
    }

    pub(super) fn stop(&mut self, id: TransferId, cause: Cause, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        if transfer.phase != Phase::Active {
            return;
        }
        transfer.cause = Some(cause);
        let asks = transfer.was_posted() && !planted::is(Bug::SkipFence);
        let event = if asks { Event::Stop } else { Event::Drop };
        self.advance(id, event, now);
    }

    /// Moves a transfer through its phases; all that ends a transfer is here.
    pub(super) fn advance(&mut self, id: TransferId, event: Event, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let from = transfer.phase;
        let Some(to) = from.after(event) else { return };
        transfer.phase = to;
        if from == Phase::Active {
            self.schedule.spared(transfer.request.lane, transfer.left_bytes());
        }
        match to {
            Phase::Fencing => {
                let lane = transfer.request.lane;
                for len_bytes in transfer.unpost_all() {
                    self.schedule.settled(lane, len_bytes);
                }
                set_timer(&mut self.timers, id, transfer, Some(now.after(FENCE_TIMEOUT)));
                self.events.push_back(PathEvent::Stop(id));
                self.reply(&LinkMessage::Fence(id));
            }
            Phase::Quarantined => {
                set_timer(&mut self.timers, id, transfer, None);
                let cause = transfer.cause.unwrap_or(Cause::Gone);
                self.events.push_back(PathEvent::Ended(id, End::Failed { cause, fenced: false }));
            }
            Phase::Over => self.finish(id, from, event, now),
            Phase::Active => {}
        }
        self.note_idle(now);
    }

    fn finish(&mut self, id: TransferId, from: Phase, event: Event, now: Time) {
        let Some(mut transfer) = self.transfers.remove(&id) else { return };
        set_timer(&mut self.timers, id, &mut transfer, None);
        for len_bytes in transfer.unpost_all() {
            self.schedule.settled(transfer.request.lane, len_bytes);
        }
        if event == Event::Complete {
            self.ended.push_back(id);
        }
        if from == Phase::Quarantined {
            // That the peer is gone proves nothing: a stopped process may go on and write what it has in its sockets.
            if event != Event::Gone {
                self.events.push_back(PathEvent::Released(id));
            }
            return;
        }
        // A cancel that comes too late is no harm; bytes that come too late are worth nothing.
        let complete = event == Event::Complete && transfer.cause != Some(Cause::Expired);
        let end = if complete {
            End::Done {
                crc32c: transfer.crc32c(),
                len_bytes: transfer.request.len_bytes,
                over: transfer.over,
                took: now.since(transfer.started),
                retried_chunks: transfer.retried_chunks,
            }
        } else {
            let cause = transfer.cause.unwrap_or(Cause::Gone);
            End::Failed { cause, fenced: event != Event::Gone }
        };
        if planted::is(Bug::EndTwice) {
            self.events.push_back(PathEvent::Ended(id, end.clone()));
        }
        self.events.push_back(PathEvent::Ended(id, end));
    }

    /// The peer is gone: everything ends. `proven` if it is known to write nothing more.
    pub fn close(&mut self, proven: bool, now: Time) {
        self.gone = true;
        let mut ids: Vec<TransferId> = self.transfers.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let unposted = self.transfers.get(&id).is_some_and(|transfer| !transfer.was_posted());
            let seen = self.events.len();
            self.advance(id, Event::Gone, now);
            for event in self.events.range_mut(seen..) {
                if let PathEvent::Ended(_, End::Failed { fenced, .. }) = event {
                    *fenced = proven || unposted;
                }
            }
        }
        self.links.clear();
        self.message_link = None;
    }

    pub(super) fn expire(&mut self, now: Time) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            let Some(transfer) = self.transfers.get_mut(&id) else { continue };
            transfer.timer = None;
            match transfer.phase {
                Phase::Active => self.stop(id, Cause::Expired, now),
                Phase::Fencing => self.advance(id, Event::Timeout, now),
                Phase::Quarantined | Phase::Over => {}
            }
        }
    }
}

pub(super) fn set_timer(
    timers: &mut BTreeSet<(Time, TransferId)>,
    id: TransferId,
    transfer: &mut Outbound,
    at: Option<Time>,
) {
    if let Some(old) = transfer.timer.take() {
        timers.remove(&(old, id));
    }
    if let Some(at) = at {
        timers.insert((at, id));
        transfer.timer = Some(at);
    }
}
