//! All transfers and messages to one peer, over all links to it.
//!
//! The path decides what each link sends next, keeps what was posted until it is acknowledged, sends again what was
//! damaged or lost, and ends every transfer exactly once. It is asked by whoever drives the links: [`Path::next`]
//! whenever a link can take a frame, [`Path::poll_event`] after every other call, [`Path::handle_timeout`] no later
//! than [`Path::poll_timeout`].

mod life;
mod types;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;

use self::life::set_timer;
use crate::egress::{Claim, Egress, Wait};
use crate::limits::{
    ACKS_PER_MESSAGE_MAX, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, ENDED_BATCH, ENDED_PER_MESSAGE_MAX, EXPRESS_BYTES_MAX,
    EXPRESS_WINDOW_BYTES, SHORT_BYTES_MAX, STRANDED_MAX, TRANSFER_BYTES_MAX, TRANSFERS_PER_PEER_MAX,
};
use crate::message::{Ack, LinkMessage, LinkRole, Received};
use crate::outbound::{Event, Extent, Outbound, Phase};
use crate::planted::{self, Bug};
use crate::rate::{Measured, RateInterval, RateMeter};
use crate::schedule::Schedule;
use crate::stream::{Arrival, Numbered, PushError, StreamId, Streams};
use crate::{BackendId, Forecast, Lane, Time};

pub use self::types::{Cause, Chunk, End, LinkId, Next, PathConfig, PathEvent, Request, TransferId, WriteError};

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
    /// Since when it has been seen without links.
    stranded: Option<Time>,
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
            stranded: None,
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
            let unposted = if planted::is(Bug::ForgetChunks) { Vec::new() } else { transfer.unpost(lost) };
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

    /// The link that carries small chunks of urgent lanes beside the messages: what a lower lane has put on the others
    /// can't be called back, and would be before them there. Wake it when [`Path::has_express`].
    pub fn express_link(&self) -> Option<LinkId> {
        let best = self.data_links().next().and_then(|id| self.links.get(&id))?.backend;
        self.message_link.filter(|id| self.links.get(id).is_some_and(|link| link.backend == best))
    }

    /// The links that carry chunks: those for data, or all if there is none, and of these the ones over the best backend:
    /// the others stand by. Wake them when [`Path::has_chunks`].
    pub fn data_links(&self) -> impl Iterator<Item = LinkId> {
        let standing = |link: &PathLink| (link.role != LinkRole::Data, link.backend.rank());
        let best = self.links.values().map(standing).min();
        let any_data = best.is_some_and(|(other, _)| !other);
        let carries = move |link: &PathLink| {
            Some(link.backend.rank()) == best.map(|(_, rank)| rank) && (!any_data || link.role == LinkRole::Data)
        };
        self.links.iter().filter(move |(_, link)| carries(link)).map(|(id, _)| *id)
    }

    fn choose_message_link(&mut self) {
        let standing = |link: &PathLink| (link.role != LinkRole::Control, link.backend.rank());
        self.message_link = self.links.iter().min_by_key(|(id, link)| (standing(link), **id)).map(|(id, _)| *id);
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
        self.schedule.asked(request.lane, request.len_bytes);
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
    /// and for [`crate::inbound::Inbound`]; those about loans are for whoever keeps the memory.
    pub fn handle(&mut self, message: &LinkMessage, now: Time) {
        match message {
            LinkMessage::Acks(acks) => acks.iter().for_each(|ack| self.acknowledged(ack, now)),
            LinkMessage::Damaged { transfer, offset } => self.damaged(*transfer, *offset, now),
            LinkMessage::Refused { transfer, refusal } => {
                self.stop(*transfer, Cause::Refused(*refusal), now);
            }
            LinkMessage::Fenced(transfer) => self.advance(*transfer, Event::Fenced, now),
            LinkMessage::Fence(_)
            | LinkMessage::Ended(_)
            | LinkMessage::Lend(_)
            | LinkMessage::Returned(_)
            | LinkMessage::LoanRefused { .. } => {}
        }
    }

    // What is next.

    /// What `link` sends next. Ask again after each frame it took.
    #[must_use]
    pub fn next(&mut self, link: LinkId, now: Time, egress: &mut Egress) -> Next {
        if self.message_link == Some(link)
            && let Some(message) = self.next_message()
        {
            return Next::Message(message);
        }
        if self.data_links().any(|data| data == link) {
            return self.next_chunk(link, now, egress, &Lane::ALL, u32::MAX);
        }
        if self.express_link() == Some(link) && self.posted_bytes(Lane::Step) < EXPRESS_WINDOW_BYTES {
            return self.next_chunk(link, now, egress, &Lane::URGENT, EXPRESS_BYTES_MAX);
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

    /// The next chunk of one of `lanes`, if it is not longer than `len_bytes_max`.
    fn next_chunk(&mut self, link: LinkId, now: Time, egress: &mut Egress, lanes: &[Lane], len_bytes_max: u32) -> Next {
        self.expire(now);
        let Some(backend) = self.links.get(&link).map(|link| link.backend) else { return Next::Idle };
        let mut wait: Option<Time> = None;
        for lane in lanes.iter().copied() {
            let Some((id, extent)) = self.front(lane, len_bytes_max) else { continue };
            let Some(transfer) = self.transfers.get_mut(&id) else { continue };
            let is_long = transfer.request.len_bytes > SHORT_BYTES_MAX;
            let claim = Claim { lane, is_long, order: transfer.request.order };
            match egress.ready(claim, now) {
                Ok(()) => egress.take(claim, u64::from(extent.len_bytes)),
                Err(Wait::All(again)) => return Next::Wait(wait.map_or(again, |wait| again.min(wait))),
                Err(Wait::Lane(again)) => {
                    wait = Some(wait.map_or(again, |wait| again.min(wait)));
                    continue;
                }
            }
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
        wait.map_or(Next::Idle, Next::Wait)
    }

    /// The next chunk of `lane`, if it is not longer than `len_bytes_max` and fits into the lane's window.
    fn front(&mut self, lane: Lane, len_bytes_max: u32) -> Option<(TransferId, Extent)> {
        while let Some(id) = self.schedule.front(lane) {
            let transfer = self.transfers.get_mut(&id);
            let late = planted::is(Bug::PostAfterStop);
            let mut active = transfer.filter(|transfer| transfer.phase == Phase::Active || late);
            if let Some(extent) = active.as_mut().and_then(|transfer| transfer.next_extent()) {
                let fits = extent.len_bytes <= len_bytes_max && self.schedule.has_room(lane, extent.len_bytes);
                return fits.then_some((id, extent));
            }
            self.schedule.dequeue(lane);
            if let Some(transfer) = self.transfers.get_mut(&id) {
                transfer.queued = false;
            }
        }
        None
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

    /// Whether there is something for the data links, unless a rate limit holds it back.
    pub fn has_chunks(&mut self) -> bool {
        Lane::ALL.into_iter().any(|lane| self.front(lane, u32::MAX).is_some())
    }

    /// Whether there is something for the express link, unless a rate limit holds it back.
    pub fn has_express(&mut self) -> bool {
        self.posted_bytes(Lane::Step) < EXPRESS_WINDOW_BYTES
            && Lane::URGENT.into_iter().any(|lane| self.front(lane, EXPRESS_BYTES_MAX).is_some())
    }

    /// Whether [`Path::next`] may have something for `link`.
    pub fn has_next(&mut self, link: LinkId) -> bool {
        if self.message_link == Some(link) && self.has_messages() {
            return true;
        }
        let carries_data = self.data_links().any(|data| data == link);
        match carries_data {
            true => self.has_chunks(),
            false => self.express_link() == Some(link) && self.has_express(),
        }
    }

    /// Whether everything that was to be said has been received.
    pub fn is_flushed(&self) -> bool {
        self.acks.is_empty() && self.streams.all_received()
    }

    /// Whether the peer leaves more unanswered than it may, and must be cut off.
    pub fn is_overrun(&self) -> bool {
        self.overrun
    }

    /// Whether there has been no link for so long that a peer which gives signs of life is given up all the same. Ask with
    /// every beat.
    pub fn is_stranded(&mut self, now: Time) -> bool {
        if !self.links.is_empty() {
            self.stranded = None;
            return false;
        }
        now.since(*self.stranded.get_or_insert(now)) >= STRANDED_MAX
    }

    /// What [`Path::poll_event`] has next.
    pub fn peek_event(&self) -> Option<&PathEvent> {
        self.events.front()
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

    /// The same, with the number of samples that it is from.
    pub fn measured(&self) -> Option<Measured> {
        self.rate.measured()
    }

    /// When a transfer of `len_bytes` would be done that is asked for in `lane` now, behind all that is before it on this
    /// path. A limit is taken as if it were this path's alone. `None` while nothing is measured.
    pub fn forecast(&self, lane: Lane, len_bytes: u64, now: Time, egress: &Egress) -> Option<Forecast> {
        let rate = self.rate()?.limited(egress.limit()).limited(egress.lane_limit(lane));
        Some(Forecast::new(self.schedule.ahead_bytes(lane).saturating_add(len_bytes), rate, now))
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

#[cfg(test)]
mod tests;
