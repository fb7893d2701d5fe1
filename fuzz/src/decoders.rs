//! One function for each decoder of outside bytes: whatever comes in, it ends, and what it accepts it also writes.
//! Each says whether something was accepted.
//!
//! Inputs are bytes as they come from a peer or a store. Where a checksum stands in front of the parser, the target
//! also tries the input with its checksum put right: a peer with bad intentions can count too.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use xfer::fuzzing;
use xfer_migrate_core::store::journal::{Head, Journal, recover};
use xfer_migrate_core::store::records::{DrainOrder, PeerClaim};
use xfer_migrate_core::store::wire::{self, Answer, Request};
use xfer_migrate_core::store::{Service, ServiceLimits, StateLimits};
use xfer_migrate_core::{Body, GenerationRecord, Manifest, Message, Seal, coverage};
use xfer_transport_core::frame::{FrameError, FrameHeader};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::message::{Greeting, LinkMessage, Received};
use xfer_transport_core::packet::Packet;
use xfer_transport_core::rdma::{INTRODUCTION_BYTES, Opening, PACKET_HEAD_BYTES, RdmaPacket, numbers_of};
use xfer_transport_core::ticket::Ticket;
use xfer_transport_core::{Time, limits};

/// The header in front of everything that crosses a link.
pub fn frame(bytes: &[u8]) -> bool {
    let mut header = bytes.to_vec();
    if let Err(FrameError::Checksum { expected, .. }) = FrameHeader::decode(&header) {
        header[40..44].copy_from_slice(&expected.to_le_bytes());
    }
    let Ok(parsed) = FrameHeader::decode(&header) else { return false };
    assert!(parsed.len_bytes <= parsed.kind.len_bytes_max());
    assert_eq!(parsed.encode()[..], header[..limits::FRAME_HEADER_BYTES], "one header, one way to write it");
    true
}

/// What two ends say to each other that share memory.
pub fn packet(bytes: &[u8]) -> bool {
    let mut packet = bytes.to_vec();
    // A header that lies in it is put right too.
    if let Some(header) = packet.get_mut(1..=limits::FRAME_HEADER_BYTES)
        && let Err(FrameError::Checksum { expected, .. }) = FrameHeader::decode(header)
    {
        header[40..44].copy_from_slice(&expected.to_le_bytes());
    }
    is_rewritten(&packet, Packet::decode(&packet), |decoded| [&decoded.encode_head(), decoded.inline()].concat())
}

/// What two ends say to each other that are connected by queue pairs, and how these are introduced.
pub fn rdma(bytes: &[u8]) -> bool {
    let mut packet = bytes.to_vec();
    if let Some(header) = packet.get_mut(PACKET_HEAD_BYTES..PACKET_HEAD_BYTES + limits::FRAME_HEADER_BYTES)
        && let Err(FrameError::Checksum { expected, .. }) = FrameHeader::decode(header)
    {
        header[40..44].copy_from_slice(&expected.to_le_bytes());
    }
    let decoded = RdmaPacket::decode(&packet);
    if let Ok(decoded) = &decoded {
        assert_eq!(numbers_of(&packet), Some((decoded.taken, decoded.freed)));
    }
    is_rewritten(&packet, decoded, |decoded| [&decoded.encode_head(), decoded.inline()].concat()) | introduction(bytes)
}

fn introduction(bytes: &[u8]) -> bool {
    let Some(first) = bytes.first_chunk::<INTRODUCTION_BYTES>() else { return false };
    let mut sealed = *first;
    let (body, sum) = sealed.split_at_mut(INTRODUCTION_BYTES - 4);
    sum.copy_from_slice(&crc32c(body).to_le_bytes());
    is_rewritten(&sealed, Opening::decode(&sealed), |opening| opening.encode())
}

/// Greetings of links, messages of paths, what beats carry, and what has landed: any of these may be meant.
pub fn link_message(bytes: &[u8]) -> bool {
    is_rewritten(bytes, Greeting::decode(bytes), Greeting::encode)
        | is_rewritten(bytes, LinkMessage::decode(bytes), LinkMessage::encode)
        | is_rewritten(bytes, Received::decode(bytes), Received::encode)
        | comes_back(Landed::decode(bytes).map(|landed| landed.known()), |landed| Landed::decode(&landed.encode()))
}

/// How a process can be reached.
pub fn ticket(bytes: &[u8]) -> bool {
    let again = |ticket: &Ticket| Ticket::decode(&ticket.encode());
    let body = &bytes[..bytes.len().saturating_sub(4)];
    let sealed = [body, &crc32c(body).to_le_bytes()].concat();
    comes_back(Ticket::decode(bytes), again) | comes_back(Ticket::decode(&sealed), again)
}

/// What the two sides of a migration say to each other. Items of an offer go on into a manifest, as a target does.
pub fn message(bytes: &[u8]) -> bool {
    let decoded = Message::decode(bytes);
    if let Ok(Message { body: Body::Offer(offer), .. }) = &decoded
        && let Ok(mut manifest) = Manifest::new(offer.items.clone())
    {
        let all = coverage(&manifest, &manifest.items().iter().map(|item| item.id).collect(), &BTreeSet::new());
        assert!(all.missing.is_empty(), "nothing is missing where everything landed");
        coverage(&manifest, &BTreeSet::new(), &offer.targets.iter().copied().collect());
        if !offer.items.is_empty() {
            assert!(manifest.extend(offer.items.clone()).is_err(), "every item is there already");
        }
    }
    is_rewritten(bytes, decoded, Message::encode)
}

/// The record of who owns what.
pub fn generation(bytes: &[u8]) -> bool {
    is_rewritten(bytes, GenerationRecord::decode(bytes), GenerationRecord::encode)
}

/// A target's word on what landed.
pub fn seal(bytes: &[u8]) -> bool {
    is_rewritten(bytes, Seal::decode(bytes), Seal::encode)
}

/// Requests and answers of the store, what its well-known keys hold, and a whole service that a client talks to.
pub fn store(bytes: &[u8]) -> bool {
    if let Some(welcome) = bytes.first_chunk() {
        let _ = wire::read_welcome(welcome);
    }
    if let Some((&head, rest)) = bytes.split_first_chunk() {
        let _ = wire::body_len_bytes(head);
        let _ = wire::check_body(head, rest);
    }
    talk_to_service(bytes);
    // The same as a request in a frame of its own, since bytes by chance are never their own checksum.
    let frame = [&(bytes.len() as u32).to_le_bytes()[..], &crc32c(bytes).to_le_bytes(), bytes].concat();
    talk_to_service(&[&wire::hello()[..], &frame].concat());
    comes_back(Request::decode(bytes), |request| Request::decode(&body(|out| request.encode(out))))
        | comes_back(Answer::decode(bytes), |answer| Answer::decode(&body(|out| answer.encode(out))))
        | comes_back(PeerClaim::decode(bytes), |claim| PeerClaim::decode(&claim.encode()))
        | comes_back(DrainOrder::decode(bytes), |order| DrainOrder::decode(&order.encode()))
        | matches!(wire::read_hello(bytes), Some(Ok(())))
}

/// The journal of a store: as it is, and as records whose lengths and checksums are put right.
pub fn journal(bytes: &[u8]) -> bool {
    let head = Head { life: 1, clock: [0; 16], ahead_ns: 0 };
    let mut counted = head.encode().to_vec();
    // Each record is preceded by its length and whether all before it was known to be on the disk.
    let mut rest = bytes;
    while let [len, durable, behind @ ..] = rest {
        let (body, next) = behind.split_at(behind.len().min(usize::from(*len)));
        let durable = if durable % 2 == 0 { 0 } else { counted.len() as u64 };
        let summed = [&durable.to_le_bytes()[..], body].concat();
        counted.extend_from_slice(&(body.len() as u32).to_le_bytes());
        counted.extend_from_slice(&crc32c(&summed).to_le_bytes());
        counted.extend_from_slice(&summed);
        rest = next;
    }
    is_recovered(bytes) | (is_recovered(&counted) && !bytes.is_empty())
}

/// Whether bytes are a journal; if so, what it holds is the same after it was written anew.
fn is_recovered(bytes: &[u8]) -> bool {
    let Ok(found) = recover(bytes, StateLimits::default()) else { return false };
    assert!(found.whole_bytes <= bytes.len() as u64);
    let (journal, anew) = Journal::begin(&found.head, &found.state);
    let again = recover(&anew, StateLimits::default()).expect("what was just written");
    assert_eq!(again.whole_bytes, journal.len_bytes());
    assert!(again.state.records().eq(found.state.records()), "a store is the same after it was written anew");
    true
}

/// The manifest file of `xfer plan`. What is accepted can be planned, in finite numbers.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(departure) = xfer_plan::manifest::read(bytes) else { return false };
    if let Ok(planned) = xfer_plan::plan(&departure) {
        assert!(planned.expected().loss_s.is_finite() && planned.bound_s <= planned.expected().loss_s + 1e-6);
        assert_eq!(planned.rows.len(), departure.assets.len(), "everything has a fate");
    }
    true
}

/// What a proxy is given to pass on, in parts of a size that the first byte says.
pub fn proxied(bytes: &[u8]) -> bool {
    bytes.split_first().is_some_and(|(part, stream)| xfer_chaos::fuzzing::cut(stream, usize::from(*part)))
}

/// What says that this machine goes away: a file, a metadata service, an order in the store.
pub fn notice(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    fuzzing::notice_file(bytes)
        | fuzzing::metadata_answer(bytes, 1 + bytes.len() % 7)
        | fuzzing::metadata_body(text)
        | fuzzing::metadata_url(text)
        | fuzzing::drain_order(bytes, Duration::from_secs(bytes.len() as u64))
}

/// What tagged sends and receives say to each other.
pub fn tagged(bytes: &[u8]) -> bool {
    fuzzing::tagged_message(bytes)
}

fn talk_to_service(bytes: &[u8]) {
    let mut service = Service::new(1, ServiceLimits::default());
    let id = service.open(Time::ZERO).expect("a new service has room for one client");
    service.receive(Time::ZERO, id, bytes);
    service.sent(Time::ZERO, id, usize::MAX);
    if let Some(at) = service.poll_timeout() {
        service.handle_timeout(at);
    }
}

/// The body of the one frame that `encode` appends.
fn body(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame);
    frame.split_off(wire::FRAME_HEAD_BYTES)
}

/// Whether bytes were accepted; if so, there is one way to write what they mean, and it is theirs.
fn is_rewritten<T, E, B: AsRef<[u8]>>(bytes: &[u8], decoded: Result<T, E>, encode: impl FnOnce(&T) -> B) -> bool {
    let Ok(value) = decoded else { return false };
    assert_eq!(encode(&value).as_ref(), bytes);
    true
}

/// Whether bytes were accepted; if so, they mean the same after they were written and read again.
fn comes_back<T: Debug + PartialEq, E: Debug + PartialEq>(
    decoded: Result<T, E>,
    again: impl FnOnce(&T) -> Result<T, E>,
) -> bool {
    let Ok(value) = decoded else { return false };
    assert_eq!(again(&value).as_ref(), Ok(&value));
    true
}

/// CRC-32C bit by bit: slow, and written apart from the one that is tested.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}
