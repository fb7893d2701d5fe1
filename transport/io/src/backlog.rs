//! Messages of one peer that have arrived and that nobody has taken yet.
//!
//! They are reported as received only when a subscriber takes them, so the peer's own limits bound what lies here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use xfer_transport_core::limits::{CHANNEL_BYTES_MAX, CHANNEL_MESSAGES_MAX};
use xfer_transport_core::stream::StreamId;

use crate::hub::{Channel, Incoming, Offer};
use crate::peer::Peer;
use crate::stats::add;

/// Messages by channel.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<BTreeMap<Channel, Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// Whether its subscriber was behind when it was last offered something.
    stuck: bool,
}

impl Backlog {
    /// A message has arrived. `false` if the peer sends more than it may.
    pub(crate) fn push(&self, channel: Channel, payload: Bytes) -> bool {
        let mut channels = self.lock();
        let waiting = channels.entry(channel).or_default();
        waiting.bytes += payload.len();
        waiting.messages.push_back(payload);
        waiting.bytes <= CHANNEL_BYTES_MAX && waiting.messages.len() <= CHANNEL_MESSAGES_MAX
    }

    /// Whether something should be offered again soon.
    pub(crate) fn is_stuck(&self) -> bool {
        self.lock().values().any(|waiting| waiting.stuck)
    }

    /// Hands what waits to the subscribers, all channels or one.
    pub(crate) fn offer(peer: &Peer, only: Option<Channel>) {
        let mut taken: Vec<(Channel, usize)> = Vec::new();
        {
            // Held while offering: two links must not overtake each other.
            let mut channels = peer.backlog.lock();
            let all = channels.iter_mut().filter(|(channel, _)| only.is_none_or(|only| **channel == only));
            for (channel, waiting) in all {
                waiting.stuck = false;
                while let Some(payload) = waiting.messages.front() {
                    let incoming = Incoming { from: peer.id(), payload: payload.clone() };
                    match peer.shared.hub.offer(*channel, incoming) {
                        Offer::Taken => {}
                        Offer::Full => {
                            waiting.stuck = true;
                            break;
                        }
                        Offer::Nobody => break,
                    }
                    let len = waiting.messages.pop_front().map_or(0, |payload| payload.len());
                    waiting.bytes -= len;
                    taken.push((*channel, len));
                }
            }
        }
        if taken.is_empty() {
            return;
        }
        add(&peer.shared.counters.messages_received, taken.len() as u64);
        let mut path = peer.path();
        for (channel, len) in taken {
            path.taken(StreamId::of_channel(channel.0), len);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Channel, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
