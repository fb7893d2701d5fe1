//! Replays the seed inputs of the fuzz targets, and everything near them: no input makes a parser panic, and what
//! parses means the same after it was written and read again.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use xfer_transport_core::frame::{FrameError, FrameHeader};
use xfer_transport_core::message::{Greeting, LinkMessage, Received};
use xfer_transport_core::packet::Packet;
use xfer_transport_core::rdma::{INTRODUCTION_BYTES, Opening, RdmaPacket};
use xfer_transport_core::ticket::Ticket;

fn frame(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    // A peer with bad intentions can compute a checksum too.
    if let Err(FrameError::Checksum { expected, .. }) = FrameHeader::decode(&bytes) {
        bytes[40..44].copy_from_slice(&expected.to_le_bytes());
    }
    let Ok(header) = FrameHeader::decode(&bytes) else { return false };
    assert!(header.len_bytes <= header.kind.len_bytes_max());
    comes_back(Ok(header), |header| FrameHeader::decode(&header.encode()))
}

fn packet(bytes: &[u8]) -> bool {
    let Ok(packet) = Packet::decode(bytes) else { return false };
    assert_eq!([&packet.encode_head(), packet.inline()].concat(), bytes);
    true
}

fn rdma(bytes: &[u8]) -> bool {
    let opening = bytes.try_into().is_ok_and(|bytes: &[u8; INTRODUCTION_BYTES]| {
        comes_back(Opening::decode(bytes), |opening| Opening::decode(&opening.encode()))
    });
    let Ok(packet) = RdmaPacket::decode(bytes) else { return opening };
    assert_eq!([&packet.encode_head(), packet.inline()].concat(), bytes);
    true
}

fn link_message(bytes: &[u8]) -> bool {
    comes_back(Greeting::decode(bytes), |greeting| Greeting::decode(&greeting.encode()))
        | comes_back(LinkMessage::decode(bytes), |message| LinkMessage::decode(&message.encode()))
        | comes_back(Received::decode(bytes), |received| Received::decode(&received.encode()))
}

fn ticket(bytes: &[u8]) -> bool {
    comes_back(Ticket::decode(bytes), |ticket| Ticket::decode(&ticket.encode()))
}

fn comes_back<T: Debug + PartialEq, E: Debug + PartialEq>(
    decoded: Result<T, E>,
    again: impl FnOnce(&T) -> Result<T, E>,
) -> bool {
    let Ok(value) = decoded else { return false };
    assert_eq!(again(&value).as_ref(), Ok(&value));
    true
}

/// Every seed as it is, cut off at every length, and with every byte changed.
fn replay(target: &str, parse: impl Fn(&[u8]) -> bool) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut parsed = 0;
    for file in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let seed = fs::read(file.expect("an entry").path()).expect("a file");
        parsed += usize::from(parse(&seed));
        for at in 0..seed.len() {
            parse(&seed[..at]);
            let mut changed = seed.clone();
            for value in [0, 1, 0x7f, 0xff, seed[at] ^ 1, seed[at].wrapping_add(1)] {
                changed[at] = value;
                parse(&changed);
            }
        }
    }
    assert!(parsed > 0, "no seed of {target} is in today's format");
}

#[test]
fn frames() {
    replay("frame", frame);
}

#[test]
fn packets() {
    replay("packet", packet);
}

#[test]
fn packets_of_queue_pairs() {
    replay("rdma", rdma);
}

#[test]
fn link_messages() {
    replay("link_message", link_message);
}

#[test]
fn tickets() {
    replay("ticket", ticket);
}
