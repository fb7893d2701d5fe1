//! What becomes of the messages that have arrived on a link.

use std::sync::Arc;

use bytes::Bytes;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::link::{Event, State};
use xfer_transport_core::message::{Greeting, LinkMessage, Received};
use xfer_transport_core::stream::{Arrival, StreamId};
use xfer_transport_core::{DecodeError, Time};

use super::Inside;
use crate::error::{DownReason, LoanError};
use crate::hub::Channel;
use crate::loans::Loans;
use crate::peer::Peer;

impl Inside {
    /// Deals with what arrived. What introduces the other end is handed back: admitting it takes other locks.
    pub(super) fn take_in(&mut self, now: Time) -> Result<Option<Greeting>, DownReason> {
        if let Some(peer) = &self.peer
            && !(self.intake.acks.is_empty() && self.intake.replies.is_empty())
        {
            let mut path = peer.path();
            self.intake.acks.drain(..).for_each(|ack| path.acknowledge(ack));
            self.intake.replies.drain(..).for_each(|reply| path.reply(&reply));
        }
        let mut introduction = None;
        for (header, payload) in std::mem::take(&mut self.intake.messages) {
            if header.kind == FrameKind::Greeting {
                let greeting = Greeting::decode(&payload).map_err(|error| violation("greeting", &error))?;
                match (self.machine.state(), greeting) {
                    (State::Greeting, greeting) => introduction = Some(greeting),
                    (_, Greeting::Bye) => {
                        let left = self.machine.handle(Event::Bye, now);
                        return Err(
                            left.map_or_else(|error| DownReason::Violation(error.to_string()), |_| DownReason::Left)
                        );
                    }
                    (state, _) => return Err(DownReason::Violation(format!("a greeting on a link that is {state:?}"))),
                }
                continue;
            }
            let Some(peer) = &self.peer else {
                return Err(DownReason::Violation(format!("a {:?} frame before the greeting", header.kind)));
            };
            take_message(peer, &header, payload, now)?;
        }
        Ok(introduction)
    }
}

fn take_message(peer: &Arc<Peer>, header: &FrameHeader, payload: Bytes, now: Time) -> Result<(), DownReason> {
    let number = header.transfer;
    match header.kind {
        FrameKind::Beat => {
            let report = Received::decode(&payload).map_err(|error| violation("beat", &error))?;
            peer.path().received(&report);
        }
        FrameKind::Link => {
            {
                let mut path = peer.path();
                if !is_new(path.arrived(StreamId::LINK, number))? {
                    return Ok(());
                }
                path.taken(StreamId::LINK, payload.len());
            }
            match LinkMessage::decode(&payload).map_err(|error| violation("link message", &error))? {
                LinkMessage::Fence(transfer) => peer.fence(transfer),
                LinkMessage::Ended(transfers) => transfers.into_iter().for_each(|id| _ = peer.stop_writing(id)),
                LinkMessage::Lend(loan) => Loans::offered(peer, loan),
                LinkMessage::Returned(loan) => peer.loans.ended(loan, Ok(()), &peer.shared.counters),
                LinkMessage::LoanRefused { loan, refusal } => {
                    peer.loans.ended(loan, Err(LoanError::Refused { by: peer.id(), refusal }), &peer.shared.counters);
                }
                message => peer.path().handle(&message, now),
            }
        }
        FrameKind::Message => {
            let channel = u16::try_from(header.region)
                .map_err(|_| DownReason::Violation(format!("a message for channel {}", header.region)))?;
            // Under one lock: a second link must not put a later message before this one.
            let mut path = peer.path();
            if is_new(path.arrived(StreamId::of_channel(channel), number))?
                && !peer.backlog.push(Channel(channel), payload)
            {
                return Err(DownReason::Violation(format!("too many messages on channel {channel}")));
            }
        }
        FrameKind::Data | FrameKind::Greeting => {
            return Err(DownReason::Violation(format!("a {:?} frame as a message", header.kind)));
        }
    }
    Ok(())
}

fn is_new(arrival: Arrival) -> Result<bool, DownReason> {
    match arrival {
        Arrival::New => Ok(true),
        Arrival::Duplicate => Ok(false),
        Arrival::Violation => Err(DownReason::Violation("a message out of order".into())),
    }
}

fn violation(what: &str, error: &DecodeError) -> DownReason {
    DownReason::Violation(format!("malformed {what}: {error}"))
}
