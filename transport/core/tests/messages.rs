//! Messages and tickets survive a round trip, and are bounded whatever is received.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use xfer_transport_core::limits::{
    ACKS_PER_MESSAGE_MAX, ADDRESS_BYTES_MAX, ADDRESSES_MAX, CHANNELS_MAX, ENDED_PER_MESSAGE_MAX, GREETING_BYTES_MAX,
    JOB_BYTES_MAX, LINK_MESSAGE_BYTES_MAX, REASON_BYTES_MAX, TICKET_BYTES_MAX,
};
use xfer_transport_core::message::{
    Ack, Greeting, Hello, LinkMessage, LinkRole, Loan, LoanId, LoanRefusal, Received, Refusal, RejectReason,
};
use xfer_transport_core::path::TransferId;
use xfer_transport_core::stream::StreamId;
use xfer_transport_core::ticket::{Ticket, TicketError};
use xfer_transport_core::{BackendId, DecodeError, PeerId, frame};

fn peer() -> impl Strategy<Value = PeerId> {
    any::<(u32, u32)>().prop_map(|(rank, incarnation)| PeerId { rank, incarnation })
}

fn transfer() -> impl Strategy<Value = TransferId> {
    any::<u64>().prop_map(TransferId)
}

fn loan() -> impl Strategy<Value = Loan> {
    let place = (any::<u64>(), any::<u64>(), any::<u64>());
    (any::<u64>(), any::<u16>(), place, any::<Option<u32>>()).prop_map(
        |(id, channel, (segment, at, len_bytes), crc32c)| Loan {
            id: LoanId(id),
            channel,
            segment,
            at,
            len_bytes,
            crc32c,
        },
    )
}

fn link_message() -> impl Strategy<Value = LinkMessage> {
    let ack = (transfer(), any::<u64>(), any::<u32>());
    let ack = ack.prop_map(|(transfer, offset, crc32c)| Ack { transfer, offset, crc32c });
    let refusal = prop_oneof![Just(Refusal::NotGranted), Just(Refusal::OutOfBounds)];
    let loan_refusal = prop_oneof![Just(LoanRefusal::NotSeen), Just(LoanRefusal::Nobody), Just(LoanRefusal::Behind)];
    prop_oneof![
        vec(ack, 0..=ACKS_PER_MESSAGE_MAX).prop_map(LinkMessage::Acks),
        (transfer(), any::<u64>()).prop_map(|(transfer, offset)| LinkMessage::Damaged { transfer, offset }),
        (transfer(), refusal).prop_map(|(transfer, refusal)| LinkMessage::Refused { transfer, refusal }),
        transfer().prop_map(LinkMessage::Fence),
        transfer().prop_map(LinkMessage::Fenced),
        vec(transfer(), 0..=ENDED_PER_MESSAGE_MAX).prop_map(LinkMessage::Ended),
        loan().prop_map(LinkMessage::Lend),
        any::<u64>().prop_map(|loan| LinkMessage::Returned(LoanId(loan))),
        (any::<u64>(), loan_refusal)
            .prop_map(|(loan, refusal)| LinkMessage::LoanRefused { loan: LoanId(loan), refusal }),
    ]
}

fn reject_reason() -> impl Strategy<Value = RejectReason> {
    use RejectReason::{Busy, Claimed, Job, Leaving, Malformed, NotMe, Superseded, Version};
    proptest::sample::select(vec![Version, Job, Claimed, Superseded, NotMe, Busy, Leaving, Malformed])
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let role = prop_oneof![Just(LinkRole::Control), Just(LinkRole::Data), Just(LinkRole::Beat)];
    let hello = (".{0,40}", peer(), any::<u64>(), any::<u64>(), peer(), role);
    prop_oneof![
        hello.prop_map(|(job, from, nonce, session, to, role)| {
            Greeting::Hello(Hello { job: cut(job, JOB_BYTES_MAX), from, nonce, session, to, role })
        }),
        (peer(), any::<u64>(), any::<u64>()).prop_map(|(id, nonce, session)| Greeting::Welcome { id, nonce, session }),
        (reject_reason(), ".{0,80}").prop_map(|(reason, text)| Greeting::Reject(reason, cut(text, REASON_BYTES_MAX))),
        Just(Greeting::Bye),
    ]
}

fn ticket() -> impl Strategy<Value = Ticket> {
    let backend = prop_oneof![Just(BackendId::Tcp), Just(BackendId::Sim)];
    let address = (backend, vec(any::<u8>(), 0..=ADDRESS_BYTES_MAX).prop_map(Bytes::from));
    (".{0,40}", peer(), any::<u64>(), vec(address, 0..=ADDRESSES_MAX)).prop_map(|(job, id, nonce, addresses)| Ticket {
        version: frame::VERSION,
        job: cut(job, JOB_BYTES_MAX),
        id,
        nonce,
        addresses,
    })
}

/// The longest beginning of `text` within `limit` bytes.
fn cut(text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

proptest! {
    #[test]
    fn link_messages_survive(message in link_message()) {
        let bytes = message.encode();
        prop_assert!(bytes.len() <= LINK_MESSAGE_BYTES_MAX as usize);
        let lends = if let LinkMessage::Lend(loan) = &message { Some(loan.id) } else { None };
        prop_assert_eq!(LinkMessage::lends(&bytes), lends);
        prop_assert_eq!(LinkMessage::decode(&bytes), Ok(message));
    }

    #[test]
    fn greetings_survive(greeting in greeting()) {
        let bytes = greeting.encode();
        prop_assert!(bytes.len() <= GREETING_BYTES_MAX as usize);
        prop_assert_eq!(Greeting::decode(&bytes), Ok(greeting));
    }

    #[test]
    fn reports_survive(report in vec((any::<u32>().prop_map(StreamId), any::<u64>()), 0..=CHANNELS_MAX + 1)) {
        let report = Received(report);
        prop_assert_eq!(Received::decode(&report.encode()), Ok(report));
    }

    #[test]
    fn tickets_survive_and_their_damage_is_noticed(ticket in ticket(), at in any::<usize>(), bit in 0..8_u8) {
        let bytes = ticket.encode();
        prop_assert!(bytes.len() <= TICKET_BYTES_MAX);
        prop_assert_eq!(Ticket::decode(&bytes), Ok(ticket));
        let mut damaged = bytes.to_vec();
        damaged[at % bytes.len()] ^= 1_u8 << bit;
        prop_assert!(Ticket::decode(&damaged).is_err());
    }

    #[test]
    fn garbage_is_parsed_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = LinkMessage::decode(&bytes);
        let _ = Greeting::decode(&bytes);
        let _ = Received::decode(&bytes);
        prop_assert!(Ticket::decode(&bytes).is_err());
    }

    #[test]
    fn nothing_may_follow_a_message(message in link_message(), greeting in greeting(), extra in vec(any::<u8>(), 1..9)) {
        let longer = |bytes: Bytes| [&bytes[..], &extra].concat();
        let too_many = DecodeError::Trailing(extra.len());
        prop_assert_eq!(LinkMessage::decode(&longer(message.encode())), Err(too_many));
        prop_assert_eq!(Greeting::decode(&longer(greeting.encode())), Err(too_many));
    }
}

#[test]
fn counts_are_limited_before_anything_is_read() {
    let acks = |count: u16, items: usize| [&[1], &count.to_le_bytes()[..], &vec![0; items * 20]].concat();
    let most = ACKS_PER_MESSAGE_MAX as u16;
    assert!(LinkMessage::decode(&acks(most, usize::from(most))).is_ok());
    let limit = u64::from(most);
    let too_many = DecodeError::TooMany { what: "acks", count: limit + 1, limit };
    assert_eq!(LinkMessage::decode(&acks(most + 1, usize::from(most) + 1)), Err(too_many));
    // A count that promises more than is there.
    assert_eq!(LinkMessage::decode(&acks(most, 1)), Err(DecodeError::Short("acks")));
}

#[test]
fn a_ticket_of_another_version_is_refused_by_name() {
    let mut bytes =
        Ticket { version: 7, job: "job".into(), id: PeerId { rank: 0, incarnation: 1 }, nonce: 0, addresses: vec![] }
            .encode()
            .to_vec();
    assert_eq!(Ticket::decode(&bytes), Err(TicketError::Version(7)));
    // Whatever else that version may have changed.
    bytes.truncate(6);
    assert_eq!(Ticket::decode(&bytes), Err(TicketError::Version(7)));
    assert_eq!(Ticket::decode(&[0; TICKET_BYTES_MAX + 1]), Err(TicketError::TooLong(TICKET_BYTES_MAX + 1)));
}
