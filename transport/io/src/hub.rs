//! Who listens: subscribers of channels and of events.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use xfer_transport_core::PeerId;

use crate::error::DownReason;
use crate::limits::{EVENTS_MAX, SUBSCRIBER_MESSAGES_MAX};
use crate::loans::Borrowed;
use crate::stats::Counters;

/// A number under which messages are sent and received; what it means is up to its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(pub u16);

/// A message that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Who sent it.
    pub from: PeerId,
    /// Its bytes.
    pub payload: Bytes,
}

/// A peer came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// It is connected.
    Up(PeerId),
    /// It is gone. From here on nothing of it lands in our memory.
    Down {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
}

/// What became of a message that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Taken,
    /// The subscriber is behind: offer it again.
    Full,
    /// Nobody listens: it is asked for when somebody does.
    Nobody,
}

/// All subscribers of an endpoint.
#[derive(Debug)]
pub(crate) struct Hub {
    channels: Mutex<HashMap<Channel, SyncSender<Incoming>>>,
    loans: Mutex<HashMap<Channel, SyncSender<Borrowed>>>,
    events: Mutex<Vec<SyncSender<PeerEvent>>>,
    counters: Arc<Counters>,
}

impl Hub {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { channels: Mutex::default(), loans: Mutex::default(), events: Mutex::default(), counters }
    }

    pub(crate) fn subscribe(&self, channel: Channel) -> Receiver<Incoming> {
        let (sender, receiver) = sync_channel(SUBSCRIBER_MESSAGES_MAX);
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).insert(channel, sender);
        receiver
    }

    pub(crate) fn offer(&self, channel: Channel, incoming: Incoming) -> Offer {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = channels.get(&channel) else { return Offer::Nobody };
        match sender.try_send(incoming) {
            Ok(()) => Offer::Taken,
            Err(TrySendError::Full(_)) => Offer::Full,
            Err(TrySendError::Disconnected(_)) => {
                channels.remove(&channel);
                Offer::Nobody
            }
        }
    }

    pub(crate) fn borrow(&self, channel: Channel) -> Receiver<Borrowed> {
        let (sender, receiver) = sync_channel(SUBSCRIBER_MESSAGES_MAX);
        self.loans.lock().unwrap_or_else(PoisonError::into_inner).insert(channel, sender);
        receiver
    }

    /// Hands over what was borrowed, or back with the reason.
    pub(crate) fn lend(&self, channel: Channel, borrowed: Borrowed) -> Result<(), (Offer, Borrowed)> {
        let mut loans = self.loans.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = loans.get(&channel) else { return Err((Offer::Nobody, borrowed)) };
        match sender.try_send(borrowed) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(borrowed)) => Err((Offer::Full, borrowed)),
            Err(TrySendError::Disconnected(borrowed)) => {
                loans.remove(&channel);
                Err((Offer::Nobody, borrowed))
            }
        }
    }

    pub(crate) fn subscribe_events(&self) -> Receiver<PeerEvent> {
        let (sender, receiver) = sync_channel(EVENTS_MAX);
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    pub(crate) fn tell(&self, event: &PeerEvent) {
        let mut subscribers = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| match subscriber.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.counters.events_dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
    }

    /// Nobody is told anything any more: receivers see the end.
    pub(crate) fn close(&self) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.loans.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
