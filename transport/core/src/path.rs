//! All transfers and messages to one peer, over all links to it.
//!
//! The path decides what each link sends next, keeps what was posted until it is acknowledged, sends again what was
//! damaged or lost, and ends every transfer exactly once. It is asked by whoever drives the links: [`Path::next`]
//! whenever a link can take a frame, [`Path::poll_event`] after every other call, [`Path::handle_timeout`] no later
//! than [`Path::poll_timeout`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::limits::{
    ACKS_PER_MESSAGE_MAX, CHUNK_ATTEMPTS_MAX, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, ENDED_BATCH, ENDED_PER_MESSAGE_MAX,
    FENCE_TIMEOUT, TRANSFER_BYTES_MAX, TRANSFERS_PER_PEER_MAX,
};
use crate::message::{Ack, LinkMessage, LinkRole, Received, Refusal};
use crate::outbound::{Event, Outbound, Phase};
use crate::pacing::TokenBucket;
use crate::rate::{RateInterval, RateMeter};
use crate::schedule::{Schedule, Windows};
use crate::stream::{Arrival, Numbered, PushError, StreamId, Streams};
use crate::{BackendId, Deadline, Lane, RegionId, Time};

/// One link of a path. Handed out by its owner, never reused within a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// One transfer of a path. The sender counts from 1; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u64);

/// What is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Who is served first.
    pub lane: Lane,
    /// The receiver's grant.
    pub region: RegionId,
    /// Where in it the bytes go, in bytes.
    pub offset: u64,
    /// How many they are.
    pub len_bytes: u64,
    /// After which they are worth nothing.
    pub deadline: Option<Deadline>,
}

/// A transfer that can't begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The table of transfers is full.
    #[error("{TRANSFERS_PER_PEER_MAX} transfers to this peer are under way: wait for some of them")]
    TooMany,
    /// Longer than a transfer can be.
    #[error("a transfer has at most {TRANSFER_BYTES_MAX} bytes: split it")]
    TooLong,
    /// The peer is gone.
    #[error("the peer is gone")]
    Gone,
}

/// Why a transfer ended before it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its owner asked for it.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// The receiver doesn't take it.
    Refused(Refusal),
    /// A chunk arrived damaged every time.
    Damaged {
        /// Where in the region, in bytes.
        offset: u64,
    },
    /// The peer is gone.
    Gone,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Every byte is at its destination and was verified there.
    Done {
        /// CRC-32C of all bytes.
        crc32c: u32,
        /// How many there are.
        len_bytes: u64,
        /// What each backend carried, in bytes.
        over: Vec<(BackendId, u64)>,
        /// From its request to its last acknowledgement.
        took: Duration,
        /// Chunks that were sent more than once, counted each time.
        retried_chunks: u32,
    },
    /// It ended early.
    Failed {
        /// Why.
        cause: Cause,
        /// Whether it is proven that the receiver writes nothing more of it.
        fenced: bool,
    },
}

/// What the path's owner has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEvent {
    /// The source of a transfer must not be read any more.
    Stop(TransferId),
    /// A transfer is over; said once.
    Ended(TransferId, End),
    /// The fence of a transfer that had ended without proof is proven (or the peer is gone): its memory is free.
    Released(TransferId),
}

/// A chunk to put on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its transfer.
    pub transfer: TransferId,
    /// Its lane.
    pub lane: Lane,
    /// How often it was posted before.
    pub attempt: u8,
    /// Where it starts in the transfer's source, in bytes.
    pub source_offset: u64,
    /// The receiver's grant.
    pub region: RegionId,
    /// Where in it the chunk goes, in bytes.
    pub offset: u64,
    /// Its length.
    pub len_bytes: u32,
}

/// What a link does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send this message.
    Message(Numbered),
    /// Send this chunk.
    Chunk(Chunk),
    /// Wait until this moment: the rate limit is reached.
    Wait(Time),
    /// Nothing, until something else happens.
    Idle,
}

/// How a path behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathConfig {
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// What each lane may have posted.
    pub windows: Windows,
}

/// All transfers and messages to one peer.
#[derive(Debug)]
pub struct Path {
    config: PathConfig,
    links: BTreeMap<LinkId, PathLink>,
    /// The link that carries the messages. It changes only when it is lost: messages must not overtake each other.
    message_link: Option<LinkId>,
    next_transfer: u64,
    transfers: HashMap<TransferId, Outbound>,
    schedule: Schedule,
    timers: BTreeSet<(Time, TransferId)>,
    streams: Streams,
    acks: VecDeque<Ack>,
    /// Complete transfers of which the peer has not been told that we know.
    ended: VecDeque<TransferId>,
    events: VecDeque<PathEvent>,
    rate: RateMeter,
    gone: bool,
    /// The peer leaves more of our link messages unanswered than it may.
    overrun: bool,
}

#[derive(Debug, Clone, Copy)]
struct PathLink {
    backend: BackendId,
    role: LinkRole,
}

impl Path {
    /// A path without links.
    pub fn new(config: PathConfig) -> Self {
        let chunk_bytes = config.chunk_bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        Self {
            config: PathConfig { chunk_bytes, ..config },
            links: BTreeMap::new(),
            message_link: None,
            next_transfer: 1,
            transfers: HashMap::new(),
            schedule: Schedule::new(config.windows),
            timers: BTreeSet::new(),
            streams: Streams::default(),
            acks: VecDeque::new(),
            ended: VecDeque::new(),
            events: VecDeque::new(),
            rate: RateMeter::default(),
            gone: false,
            overrun: false,
        }
    }

    // Links.

    /// A link is open.
    pub fn add_link(&mut self, link: LinkId, backend: BackendId, role: LinkRole) {
        self.links.insert(link, PathLink { backend, role });
        if self.message_link.is_none() {
            self.choose_message_link();
        }
    }

    /// A link is lost: what it carried and was not acknowledged goes again over the others.
    pub fn link_lost(&mut self, lost: LinkId, now: Time) {
        if self.links.remove(&lost).is_none() {
            return;
        }
        let carried_messages = self.message_link == Some(lost);
        self.streams.link_lost(carried_messages);
        if carried_messages {
            self.choose_message_link();
        }
        let mut ids: Vec<TransferId> = self.transfers.keys().copied().collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        for id in ids {
            let Some(transfer) = self.transfers.get_mut(&id) else { continue };
            let lane = transfer.request.lane;
            let unposted = transfer.unpost(lost);
            for len_bytes in &unposted {
                self.schedule.settled(lane, *len_bytes);
            }
            let again = !unposted.is_empty() && transfer.phase == Phase::Active;
            if again && !std::mem::replace(&mut transfer.queued, true) {
                self.schedule.enqueue_first(lane, id);
            }
        }
        self.note_idle(now);
    }

    /// How many links are open.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// The link that carries messages: wake it when [`Path::has_messages`].
    pub fn message_link(&self) -> Option<LinkId> {
        self.message_link
    }

    /// The links that carry chunks: those for data, or all if there is none: wake them when [`Path::has_chunks`].
    pub fn data_links(&self) -> impl Iterator<Item = LinkId> {
        let any_data = self.links.values().any(|link| link.role == LinkRole::Data);
        let carries = move |link: &PathLink| !any_data || link.role == LinkRole::Data;
        self.links.iter().filter(move |(_, link)| carries(link)).map(|(id, _)| *id)
    }

    fn choose_message_link(&mut self) {
        let control = self.links.iter().find(|(_, link)| link.role == LinkRole::Control);
        self.message_link = control.or_else(|| self.links.iter().next()).map(|(id, _)| *id);
    }

    // What the owner asks for.

    /// Begins a transfer.
    pub fn write(&mut self, request: Request, now: Time) -> Result<TransferId, WriteError> {
        if self.gone {
            return Err(WriteError::Gone);
        }
        if request.len_bytes > TRANSFER_BYTES_MAX {
            return Err(WriteError::TooLong);
        }
        if self.transfers.len() + self.ended.len() >= TRANSFERS_PER_PEER_MAX {
            return Err(WriteError::TooMany);
        }
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        let mut transfer = Outbound::new(request, self.config.chunk_bytes, now);
        transfer.queued = true;
        if let Some(deadline) = request.deadline {
            set_timer(&mut self.timers, id, &mut transfer, Some(deadline.0));
        }
        self.transfers.insert(id, transfer);
        self.schedule.enqueue(request.lane, id);
        Ok(id)
    }

    /// Ends a transfer early. Nothing if it is over, or ending, already.
    pub fn cancel(&mut self, id: TransferId, now: Time) {
        self.stop(id, Cause::Cancelled, now);
    }

    /// Queues an application message.
    pub fn send(&mut self, channel: u16, payload: Bytes) -> Result<(), PushError> {
        self.streams.push(StreamId::of_channel(channel), payload)
    }

    // What the receiving side of this end has to say.

    /// A chunk of the peer was applied and verified here.
    pub fn acknowledge(&mut self, ack: Ack) {
        self.acks.push_back(ack);
        self.overrun |= self.acks.len() > TRANSFERS_PER_PEER_MAX;
    }

    /// Something else about a chunk or a transfer of the peer.
    pub fn reply(&mut self, message: &LinkMessage) {
        self.overrun |= self.streams.push(StreamId::LINK, message.encode()).is_err();
    }

    // What the peer says.

    /// A numbered message has arrived: whether it is new.
    pub fn arrived(&mut self, stream: StreamId, number: u64) -> Arrival {
        self.streams.arrived(stream, number)
    }

    /// The oldest untaken message of `stream` was taken over by its reader.
    pub fn taken(&mut self, stream: StreamId, len_bytes: usize) {
        self.streams.taken(stream, len_bytes);
    }

    /// The peer has received our messages this far.
    pub fn received(&mut self, report: &Received) {
        self.streams.received(report);
    }

    /// A link message about our transfers. [`LinkMessage::Fence`] and [`LinkMessage::Ended`] are about the peer's,
    /// and for [`crate::inbound::Inbound`].
    pub fn handle(&mut self, message: &LinkMessage, now: Time) {
        match message {
            LinkMessage::Acks(acks) => acks.iter().for_each(|ack| self.acknowledged(ack, now)),
            LinkMessage::Damaged { transfer, offset } => self.damaged(*transfer, *offset, now),
            LinkMessage::Refused { transfer, refusal } => {
                self.stop(*transfer, Cause::Refused(*refusal), now);
            }
            LinkMessage::Fenced(transfer) => self.advance(*transfer, Event::Fenced, now),
            LinkMessage::Fence(_) | LinkMessage::Ended(_) => {}
        }
    }

    fn acknowledged(&mut self, ack: &Ack, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&ack.transfer) else { return };
        let Some(extent) = transfer.extent_at(ack.offset) else { return };
        let Some(was_under_way) = transfer.acknowledge(extent, ack.crc32c) else { return };
        self.rate.acknowledged(u64::from(extent.len_bytes), now);
        if was_under_way {
            self.schedule.settled(transfer.request.lane, extent.len_bytes);
        }
        if transfer.is_complete() {
            self.advance(ack.transfer, Event::Complete, now);
        }
        self.note_idle(now);
    }

    fn damaged(&mut self, id: TransferId, offset: u64, now: Time) {
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

    // The life of a transfer.

    fn stop(&mut self, id: TransferId, cause: Cause, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        if transfer.phase != Phase::Active {
            return;
        }
        transfer.cause = Some(cause);
        let event = if transfer.was_posted() { Event::Stop } else { Event::Drop };
        self.advance(id, event, now);
    }

    /// Moves a transfer through its phases; all that ends a transfer is here.
    fn advance(&mut self, id: TransferId, event: Event, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let from = transfer.phase;
        let Some(to) = from.after(event) else { return };
        transfer.phase = to;
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
            self.events.push_back(PathEvent::Released(id));
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

    // What is next.

    /// What `link` sends next. Ask again after each frame it took.
    #[must_use]
    pub fn next(&mut self, link: LinkId, now: Time, bucket: &mut TokenBucket) -> Next {
        if self.message_link == Some(link)
            && let Some(message) = self.next_message()
        {
            return Next::Message(message);
        }
        if self.data_links().any(|data| data == link) {
            return self.next_chunk(link, now, bucket);
        }
        Next::Idle
    }

    fn next_message(&mut self) -> Option<Numbered> {
        if !self.acks.is_empty() {
            let count = self.acks.len().min(ACKS_PER_MESSAGE_MAX);
            let acks = self.acks.drain(..count).collect();
            self.reply(&LinkMessage::Acks(acks));
        }
        if self.ended.len() >= ENDED_BATCH {
            self.report_ended();
        }
        self.streams.take_next()
    }

    fn next_chunk(&mut self, link: LinkId, now: Time, bucket: &mut TokenBucket) -> Next {
        self.expire(now);
        let Some(backend) = self.links.get(&link).map(|link| link.backend) else { return Next::Idle };
        for lane in Lane::ALL {
            while let Some(id) = self.schedule.front(lane) {
                let transfer = self.transfers.get_mut(&id);
                let active = transfer.filter(|transfer| transfer.phase == Phase::Active);
                let Some((transfer, extent)) =
                    active.and_then(|transfer| transfer.next_extent().map(|extent| (transfer, extent)))
                else {
                    self.schedule.dequeue(lane);
                    if let Some(transfer) = self.transfers.get_mut(&id) {
                        transfer.queued = false;
                    }
                    continue;
                };
                if !self.schedule.has_room(lane, extent.len_bytes) {
                    break;
                }
                if let Err(again) = bucket.ready(now) {
                    return Next::Wait(again);
                }
                bucket.take(u64::from(extent.len_bytes));
                let attempt = transfer.post_next(extent, link, backend);
                self.schedule.posted(lane, extent.len_bytes);
                self.rate.busy(now);
                return Next::Chunk(Chunk {
                    transfer: id,
                    lane,
                    attempt,
                    source_offset: extent.start,
                    region: transfer.request.region,
                    offset: transfer.request.offset + extent.start,
                    len_bytes: extent.len_bytes,
                });
            }
        }
        Next::Idle
    }

    /// What was received since the last report: the payload of every beat.
    pub fn report(&mut self) -> Received {
        self.streams.report()
    }

    /// Whether a beat should leave at once.
    pub fn report_is_due(&self) -> bool {
        self.streams.report_is_due()
    }

    /// Whether there is something for the message link.
    pub fn has_messages(&self) -> bool {
        !self.acks.is_empty()
            || self.streams.has_unsent()
            || self.streams.report_is_due()
            || self.ended.len() >= ENDED_BATCH
    }

    /// Whether there may be something for the data links.
    pub fn has_chunks(&self) -> bool {
        self.schedule.has_waiting()
    }

    /// Whether everything that was to be said has been received.
    pub fn is_flushed(&self) -> bool {
        self.acks.is_empty() && self.streams.all_received()
    }

    /// Whether the peer leaves more unanswered than it may, and must be cut off.
    pub fn is_overrun(&self) -> bool {
        self.overrun
    }

    /// Whether [`Path::poll_event`] has something.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What the owner has to know. Ask after every other call until there is nothing.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// When to call [`Path::handle_timeout`], at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.expire(now);
    }

    /// A heartbeat's moment: what can wait for company leaves now.
    pub fn tick(&mut self) {
        self.report_ended();
    }

    fn expire(&mut self, now: Time) {
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

    fn report_ended(&mut self) {
        while !self.ended.is_empty() {
            let count = self.ended.len().min(ENDED_PER_MESSAGE_MAX);
            let ended = self.ended.drain(..count).collect();
            self.reply(&LinkMessage::Ended(ended));
        }
    }

    fn note_idle(&mut self, now: Time) {
        if self.schedule.is_idle() {
            self.rate.idle(now);
        }
    }

    // What is known.

    /// What this path carries, as measured.
    pub fn rate(&self) -> Option<RateInterval> {
        self.rate.interval()
    }

    /// Payload bytes of `lane` that are posted and not acknowledged.
    pub fn posted_bytes(&self, lane: Lane) -> u64 {
        self.schedule.posted_bytes(lane)
    }

    /// Transfers that are not over.
    pub fn transfers(&self) -> usize {
        self.transfers.len()
    }
}

fn set_timer(timers: &mut BTreeSet<(Time, TransferId)>, id: TransferId, transfer: &mut Outbound, at: Option<Time>) {
    if let Some(old) = transfer.timer.take() {
        timers.remove(&(old, id));
    }
    if let Some(at) = at {
        timers.insert((at, id));
        transfer.timer = Some(at);
    }
}

#[cfg(test)]
mod tests;
