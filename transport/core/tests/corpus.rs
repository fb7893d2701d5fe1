//! Replays the seed inputs of the fuzz targets: no input makes a parser panic, and what parses survives a round trip.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::message::{Ack, Greeting, Hello, LinkMessage, LinkRole, Received, Refusal, RejectReason};
use xfer_transport_core::path::TransferId;
use xfer_transport_core::stream::StreamId;
use xfer_transport_core::ticket::Ticket;
use xfer_transport_core::{BackendId, Lane, PeerId, frame};

const ME: PeerId = PeerId { rank: 3, incarnation: 2 };

fn frame(bytes: &[u8]) -> bool {
    let Ok(header) = FrameHeader::decode(bytes) else { return false };
    assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
    assert!(header.len_bytes <= header.kind.len_bytes_max());
    true
}

/// The first byte says which of the three kinds of messages the others are.
fn link_message(bytes: &[u8]) -> bool {
    match bytes.split_first() {
        Some((0, rest)) => LinkMessage::decode(rest).is_ok_and(|message| {
            assert_eq!(LinkMessage::decode(&message.encode()), Ok(message));
            true
        }),
        Some((1, rest)) => Greeting::decode(rest).is_ok_and(|greeting| {
            assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
            true
        }),
        Some((2, rest)) => Received::decode(rest).is_ok_and(|received| {
            assert_eq!(Received::decode(&received.encode()), Ok(received));
            true
        }),
        _ => false,
    }
}

fn ticket(bytes: &[u8]) -> bool {
    let Ok(ticket) = Ticket::decode(bytes) else { return false };
    assert_eq!(Ticket::decode(&ticket.encode()), Ok(ticket));
    true
}

/// The seeds that are good: the corpus holds them, and things near them.
fn good_frames() -> Vec<(&'static str, Vec<u8>)> {
    let data = FrameHeader {
        lane: Lane::Rescue,
        attempt: 1,
        region: 0x0123_4567_89ab_cdef,
        offset: 1 << 20,
        transfer: 7,
        len_bytes: 1 << 20,
        payload_crc32c: 0xdead_beef,
        ..FrameHeader::for_payload(FrameKind::Data, b"")
    };
    vec![
        ("data", data.encode().to_vec()),
        ("message", FrameHeader::for_payload(FrameKind::Message, b"hello").encode().to_vec()),
        ("beat", FrameHeader::for_payload(FrameKind::Beat, b"").encode().to_vec()),
    ]
}

fn good_link_messages() -> Vec<(&'static str, Vec<u8>)> {
    let with = |kind: u8, bytes: Bytes| [&[kind], &bytes[..]].concat();
    let ack = |transfer, offset| Ack { transfer: TransferId(transfer), offset, crc32c: 9 };
    let hello =
        Hello { job: "job".into(), from: ME, nonce: 1, session: 2, to: PeerId { rank: 0, ..ME }, role: LinkRole::Data };
    let refused = LinkMessage::Refused { transfer: TransferId(5), refusal: Refusal::OutOfBounds };
    vec![
        ("acks", with(0, LinkMessage::Acks(vec![ack(1, 0), ack(1, 4096), ack(2, 0)]).encode())),
        ("damaged", with(0, LinkMessage::Damaged { transfer: TransferId(5), offset: 4096 }.encode())),
        ("refused", with(0, refused.encode())),
        ("fence", with(0, LinkMessage::Fence(TransferId(u64::MAX)).encode())),
        ("fenced", with(0, LinkMessage::Fenced(TransferId(0)).encode())),
        ("ended", with(0, LinkMessage::Ended(vec![TransferId(1), TransferId(2)]).encode())),
        ("hello", with(1, Greeting::Hello(hello).encode())),
        ("welcome", with(1, Greeting::Welcome { id: ME, nonce: 1, session: 2 }.encode())),
        ("reject", with(1, Greeting::Reject(RejectReason::Claimed, "rank 3 is already claimed".into()).encode())),
        ("bye", with(1, Greeting::Bye.encode())),
        ("received", with(2, Received(vec![(StreamId::LINK, 4), (StreamId::of_channel(7), u64::MAX)]).encode())),
    ]
}

fn good_tickets() -> Vec<(&'static str, Vec<u8>)> {
    let addresses =
        vec![(BackendId::Tcp, Bytes::from_static(b"127.0.0.1:4000")), (BackendId::Sim, Bytes::from_static(&[1]))];
    let ticket = Ticket { version: frame::VERSION, job: "job".into(), id: ME, nonce: u64::MAX, addresses };
    let bare = Ticket { job: String::new(), addresses: Vec::new(), ..ticket.clone() };
    vec![("two_addresses", ticket.encode().to_vec()), ("bare", bare.encode().to_vec())]
}

/// Every seed file, and every seed with one byte changed or its end cut off, goes through `parse`; those that this
/// version writes must be in the corpus as they are.
fn replay(target: &str, good: &[(&str, Vec<u8>)], parse: impl Fn(&[u8]) -> bool) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    for (name, bytes) in good {
        assert!(parse(bytes), "{name} doesn't parse");
        let path = folder.join(name);
        if std::env::var_os("XFER_BLESS").is_some() {
            fs::write(&path, bytes).expect("the corpus can be written");
        }
        let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(&kept, bytes, "{name}: the format has changed; raise the version, and bless with XFER_BLESS=1");
    }
    let mut seeds = 0;
    for file in fs::read_dir(&folder).expect("the corpus is there") {
        let seed = fs::read(file.expect("an entry").path()).expect("a file");
        parse(&seed);
        for len in 0..seed.len() {
            parse(&seed[..len]);
            let mut changed = seed.clone();
            for value in [0, 1, 0x7f, 0xff, seed[len] ^ 1, seed[len].wrapping_add(1)] {
                changed[len] = value;
                parse(&changed);
            }
        }
        seeds += 1;
    }
    assert!(seeds >= good.len());
}

#[test]
fn frames() {
    replay("frame", &good_frames(), frame);
}

#[test]
fn link_messages() {
    replay("link_message", &good_link_messages(), link_message);
}

#[test]
fn tickets() {
    replay("ticket", &good_tickets(), ticket);
}
