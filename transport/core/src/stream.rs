//! Numbered messages that survive the loss of the link they were sent on.
//!
//! Each stream keeps its order and nothing waits for another stream: a channel that nobody reads holds back neither
//! another channel nor the path's own messages. What was not received when a link is lost is sent again over the
//! next; what arrives twice is dropped by its number.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::limits::{
    CHANNEL_BYTES_MAX, CHANNEL_MESSAGES_MAX, CHANNELS_MAX, LINK_MESSAGES_MAX, RECEIVED_BEFORE_ACK,
    RECEIVED_BYTES_BEFORE_ACK,
};
use crate::message::Received;
use crate::planted::{self, Bug};

/// One ordered sequence of messages of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The path's own messages.
    pub const LINK: Self = Self(0);

    /// The messages of an application channel.
    pub const fn of_channel(channel: u16) -> Self {
        Self(channel as u32 + 1)
    }
}

/// A message with its place in its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// Its stream.
    pub stream: StreamId,
    /// Its number there; the first is 0.
    pub number: u64,
    /// Its bytes.
    pub payload: Bytes,
}

/// What a numbered message turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next of its stream.
    New,
    /// It was here before, over a link that is lost.
    Duplicate,
    /// One before it is missing, or the stream is one too many: the peer breaks the protocol.
    Violation,
}

/// A message that can't be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError {
    /// The peer has not taken enough of the earlier ones.
    Full,
    /// Too many streams.
    TooManyStreams,
}

/// All streams of a path, both ways.
#[derive(Debug, Default)]
pub struct Streams {
    outgoing: BTreeMap<StreamId, Outgoing>,
    incoming: BTreeMap<StreamId, Incoming>,
    /// The stream that was served last; the others come first.
    served: Option<StreamId>,
    /// Messages over all streams that the current link has not been given.
    unsent: usize,
    taken_since_report: u32,
    taken_bytes_since_report: usize,
}

#[derive(Debug, Default)]
struct Outgoing {
    /// Number of the front of `kept`.
    first: u64,
    /// What the peer has not reported as received.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// How many of `kept` the current link has been given.
    sent: usize,
    /// The number after the last that any link was given: what a report may speak of.
    known: u64,
}

#[derive(Debug, Default)]
struct Incoming {
    next: u64,
    /// How far the messages were taken over; only that is reported, so that what nobody reads is backpressure.
    taken: u64,
    reported: u64,
}

impl Streams {
    /// Queues a message, if the stream's limits allow.
    pub fn push(&mut self, stream: StreamId, payload: Bytes) -> Result<(), PushError> {
        if !self.outgoing.contains_key(&stream) && self.outgoing.len() > CHANNELS_MAX {
            return Err(PushError::TooManyStreams);
        }
        let outgoing = self.outgoing.entry(stream).or_default();
        let (messages_max, bytes_max) = if stream == StreamId::LINK {
            (LINK_MESSAGES_MAX, usize::MAX)
        } else {
            (CHANNEL_MESSAGES_MAX, CHANNEL_BYTES_MAX)
        };
        let full = outgoing.kept.len() >= messages_max || outgoing.kept_bytes.saturating_add(payload.len()) > bytes_max;
        if full {
            return Err(PushError::Full);
        }
        outgoing.kept_bytes += payload.len();
        outgoing.kept.push_back(payload);
        self.unsent += 1;
        Ok(())
    }

    /// Whether the current link has something to be given.
    pub fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// Whether everything that was queued has been received by the peer.
    pub fn all_received(&self) -> bool {
        self.outgoing.values().all(|outgoing| outgoing.kept.is_empty())
    }

    /// The next message for the current link: the path's own first, then channels in turn.
    pub fn take_next(&mut self) -> Option<Numbered> {
        if self.unsent == 0 {
            return None;
        }
        let own = self.outgoing.get(&StreamId::LINK).is_some_and(Outgoing::waits);
        let stream = if own { StreamId::LINK } else { self.next_channel()? };
        if stream != StreamId::LINK {
            self.served = Some(stream);
        }
        let outgoing = self.outgoing.get_mut(&stream)?;
        let payload = outgoing.kept.get(outgoing.sent)?.clone();
        let number = outgoing.first + outgoing.sent as u64;
        outgoing.sent += 1;
        outgoing.known = outgoing.known.max(number + 1);
        self.unsent -= 1;
        Some(Numbered { stream, number, payload })
    }

    /// The channel with something to send that comes after the one served last.
    fn next_channel(&self) -> Option<StreamId> {
        let after = self.served.unwrap_or(StreamId::LINK);
        let later = self.outgoing.range(StreamId(after.0 + 1)..);
        let mut in_turn = later.chain(self.outgoing.range(..=after));
        in_turn.find(|(_, outgoing)| outgoing.waits()).map(|(stream, _)| *stream)
    }

    /// A numbered message has arrived.
    pub fn arrived(&mut self, stream: StreamId, number: u64) -> Arrival {
        if !self.incoming.contains_key(&stream) && self.incoming.len() > CHANNELS_MAX {
            return Arrival::Violation;
        }
        let incoming = self.incoming.entry(stream).or_default();
        match number.cmp(&incoming.next) {
            std::cmp::Ordering::Less => Arrival::Duplicate,
            std::cmp::Ordering::Greater => Arrival::Violation,
            std::cmp::Ordering::Equal => {
                incoming.next += 1;
                Arrival::New
            }
        }
    }

    /// The oldest message of `stream` that arrived and was not taken yet has been taken over by its reader.
    pub fn taken(&mut self, stream: StreamId, len_bytes: usize) {
        if let Some(incoming) = self.incoming.get_mut(&stream) {
            incoming.taken = (incoming.taken + 1).min(incoming.next);
            self.taken_since_report += 1;
            self.taken_bytes_since_report += len_bytes;
        }
    }

    /// Whether so much was taken that the peer should hear of it before the next heartbeat.
    pub fn report_is_due(&self) -> bool {
        self.taken_since_report >= RECEIVED_BEFORE_ACK || self.taken_bytes_since_report >= RECEIVED_BYTES_BEFORE_ACK
    }

    /// What was taken since the last report.
    pub fn report(&mut self) -> Received {
        self.taken_since_report = 0;
        self.taken_bytes_since_report = 0;
        let news = self.incoming.iter_mut().filter(|(_, incoming)| incoming.taken > incoming.reported);
        Received(
            news.map(|(stream, incoming)| {
                incoming.reported = incoming.taken;
                (*stream, incoming.taken)
            })
            .collect(),
        )
    }

    /// The peer reports what it has received. Old reports change nothing.
    pub fn received(&mut self, report: &Received) {
        for (stream, next) in &report.0 {
            let Some(outgoing) = self.outgoing.get_mut(stream) else { continue };
            // It may have arrived over a link that is lost, and not been given to the next one yet.
            while outgoing.first < (*next).min(outgoing.known) {
                let Some(payload) = outgoing.kept.pop_front() else { break };
                outgoing.kept_bytes -= payload.len();
                outgoing.first += 1;
                match outgoing.sent.checked_sub(1) {
                    Some(sent) => outgoing.sent = sent,
                    None => self.unsent -= 1,
                }
            }
        }
    }

    /// A link is lost that carried reports, and the messages too if `carried_messages`: all that is not known to be
    /// received goes again.
    pub fn link_lost(&mut self, carried_messages: bool) {
        for incoming in self.incoming.values_mut() {
            incoming.reported = 0;
        }
        self.taken_since_report = RECEIVED_BEFORE_ACK;
        if carried_messages && !planted::is(Bug::ForgetMessages) {
            for outgoing in self.outgoing.values_mut() {
                self.unsent += outgoing.sent;
                outgoing.sent = 0;
            }
        }
    }
}

impl Outgoing {
    fn waits(&self) -> bool {
        self.sent < self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: StreamId = StreamId::of_channel(1);
    const B: StreamId = StreamId::of_channel(2);

    fn push(streams: &mut Streams, stream: StreamId, number: u8) {
        streams.push(stream, Bytes::from(vec![number])).expect("there is room");
    }

    #[test]
    fn the_paths_own_messages_come_first_and_channels_take_turns() {
        let mut streams = Streams::default();
        for number in 0..2 {
            push(&mut streams, A, number);
            push(&mut streams, B, number);
        }
        push(&mut streams, StreamId::LINK, 0);
        let order: Vec<StreamId> = std::iter::from_fn(|| streams.take_next()).map(|next| next.stream).collect();
        assert_eq!(order, [StreamId::LINK, A, B, A, B]);
    }

    #[test]
    fn what_is_not_taken_is_backpressure_for_its_channel_only() {
        let (mut sender, mut receiver) = (Streams::default(), Streams::default());
        for _ in 0..CHANNEL_MESSAGES_MAX {
            push(&mut sender, A, 0);
        }
        assert_eq!(sender.push(A, Bytes::new()), Err(PushError::Full));
        push(&mut sender, B, 0);
        while let Some(next) = sender.take_next() {
            assert_eq!(receiver.arrived(next.stream, next.number), Arrival::New);
        }
        // Arrived, but nobody took it: still full.
        sender.received(&receiver.report());
        assert_eq!(sender.push(A, Bytes::new()), Err(PushError::Full));
        receiver.taken(A, 1);
        sender.received(&receiver.report());
        push(&mut sender, A, 0);
    }

    #[test]
    fn only_the_loss_of_their_link_sends_messages_again() {
        let mut streams = Streams::default();
        push(&mut streams, A, 0);
        assert!(streams.take_next().is_some());
        streams.link_lost(false);
        assert!(streams.take_next().is_none(), "another link was lost");
        streams.link_lost(true);
        assert_eq!(streams.take_next().map(|next| (next.stream, next.number)), Some((A, 0)));
    }

    #[test]
    fn bytes_of_a_channel_are_limited_from_both_sides() {
        let mut streams = Streams::default();
        let mib = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..CHANNEL_BYTES_MAX / mib.len() {
            streams.push(A, mib.clone()).expect("within the limit");
        }
        assert_eq!(streams.push(A, Bytes::from_static(b"x")), Err(PushError::Full));
    }

    #[test]
    fn streams_are_limited() {
        let mut streams = Streams::default();
        push(&mut streams, StreamId::LINK, 0);
        for channel in 0..CHANNELS_MAX as u16 {
            push(&mut streams, StreamId::of_channel(channel), 0);
        }
        let another = StreamId::of_channel(CHANNELS_MAX as u16);
        assert_eq!(streams.push(another, Bytes::new()), Err(PushError::TooManyStreams));
    }

    #[test]
    fn a_gap_or_a_report_of_what_was_not_sent_changes_nothing() {
        let mut streams = Streams::default();
        assert_eq!(streams.arrived(A, 1), Arrival::Violation);
        push(&mut streams, A, 7);
        streams.received(&Received(vec![(A, 100), (B, 3)]));
        assert_eq!(streams.take_next().map(|next| (next.number, next.payload[0])), Some((0, 7)));
    }

    #[test]
    fn what_arrived_over_a_lost_link_is_not_kept_for_ever() {
        let (mut sender, mut receiver) = (Streams::default(), Streams::default());
        push(&mut sender, A, 0);
        let message = sender.take_next().expect("a message");
        assert_eq!(receiver.arrived(message.stream, message.number), Arrival::New);
        receiver.taken(A, 1);
        sender.link_lost(true);
        sender.received(&receiver.report());
        assert!(sender.all_received() && !sender.has_unsent());
    }

    proptest! {
        /// Whatever is lost with links, each stream arrives complete, once and in order.
        #[test]
        fn lost_links_lose_no_message(steps in proptest::collection::vec(0_u8..6, 1..300)) {
            let (mut sender, mut receiver) = (Streams::default(), Streams::default());
            let mut wire: VecDeque<Numbered> = VecDeque::new();
            let (mut pushed, mut got) = ([0_u8; 2], [Vec::new(), Vec::new()]);
            let steps = steps.into_iter().chain(std::iter::repeat_n([2, 3, 4], 400).flatten());
            for step in steps {
                match step {
                    0 | 1 if pushed[usize::from(step)] < 100 => {
                        push(&mut sender, [A, B][usize::from(step)], pushed[usize::from(step)]);
                        pushed[usize::from(step)] += 1;
                    }
                    2 => wire.extend(sender.take_next()),
                    3 => if let Some(message) = wire.pop_front() {
                        match receiver.arrived(message.stream, message.number) {
                            Arrival::New => {
                                got[usize::from(message.stream == B)].push(message.payload[0]);
                                receiver.taken(message.stream, 1);
                            }
                            Arrival::Duplicate => {}
                            Arrival::Violation => prop_assert!(false, "a gap"),
                        }
                    },
                    4 => sender.received(&receiver.report()),
                    5 => { wire.clear(); sender.link_lost(true); receiver.link_lost(true); }
                    _ => {}
                }
            }
            for (got, pushed) in got.iter().zip(pushed) {
                prop_assert_eq!(got, &(0..pushed).collect::<Vec<_>>());
            }
            prop_assert!(sender.all_received());
        }
    }
}
