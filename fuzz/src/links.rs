//! A process that says whatever it likes on one link, over TCP or shared memory, before and after it has introduced itself.
//!
//! The first byte says which: its lowest bit takes shared memory, the next makes us the caller. Then come records, as in
//! `sessions.rs`. What a caller would have to count right is put right here: checksums, lengths, the number of a grant.

use xfer_transport::BackendId;
use xfer_transport::fuzzing::{JOB, LinkEnd, NONCE, OURS, REGION_BYTES, THEIRS};
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::limits::PACKET_INLINE_BYTES_MAX;
use xfer_transport_core::message::{Greeting, Hello, LinkRole, RejectReason};
use xfer_transport_core::packet::Packet;
use xfer_transport_core::{Lane, PeerId};

use super::sessions::Records;

/// Records of an input; more fit in no socket.
const RECORDS_MAX: usize = 64;

/// One link from its first byte to its end. It says whether the other end was let in.
pub fn link(bytes: &[u8]) -> bool {
    let Some((&way, rest)) = bytes.split_first() else { return false };
    let over = if way & 1 == 0 { BackendId::Tcp } else { BackendId::Shm };
    let Ok(mut end) = LinkEnd::new(over, way & 2 != 0) else { return false };
    for (kind, payload) in Records(rest).take(RECORDS_MAX) {
        put(&mut end, over, kind, payload);
    }
    let ended = end.finish();
    assert!(ended.applied_bytes == 0 || ended.is_introduced);
    ended.is_introduced
}

fn put(end: &mut LinkEnd, over: BackendId, kind: u8, payload: &[u8]) {
    let at = |index: usize| payload.get(index).copied().unwrap_or_default();
    if kind == MAILBOX {
        return put_mailbox(end, payload);
    }
    match kind % 8 {
        0 => {
            let _ = end.put(payload);
        }
        1 => {
            let (head, inline) = payload.split_at(payload.len().min(HEAD_BYTES));
            let header = header(end, head, inline);
            put_frame(end, over, header, inline);
        }
        2 => {
            let greeting = greeting(payload).encode();
            put_frame(end, over, FrameHeader::for_payload(FrameKind::Greeting, &greeting), &greeting);
        }
        // The rest is about memory that is shown.
        3 => show(end, &Packet::Segment { id: at(0).into(), len_bytes: length(at(1)) }, at(2)),
        4 => show(end, &Packet::Ring { len_bytes: length(at(1)) }, at(2)),
        5 => {
            let (header, segment, from) = (header(end, payload, &[]), u64::from(at(5)), u64::from(at(6)) * 16);
            let _ = end.put(&Packet::Lent { header, segment, at: from }.encode_head());
        }
        6 => {
            let (from, len_bytes) = (u64::from(at(0)) * 16, u32::from(at(1)) * 4);
            let _ = end.put(&Packet::Staged { at: from, len_bytes }.encode_head());
        }
        _ => {
            let packet = match at(0) % 4 {
                0 => Packet::Abandon,
                1 => Packet::Forget { id: at(1).into() },
                2 => Packet::Freed { len_bytes: length(at(1)) },
                _ => Packet::More(payload.get(1..).unwrap_or_default()),
            };
            let _ = end.put(&[&packet.encode_head(), packet.inline()].concat());
        }
    }
}

/// The kind of a record that is a mailbox.
const MAILBOX: u8 = 0x48;

/// Shows a mailbox of letters that are a record each: what is wrong with one, and what it holds.
fn put_mailbox(end: &mut LinkEnd, payload: &[u8]) {
    let made = Records(payload).enumerate().map(|(number, (kind, payload))| {
        let bytes = if kind & 4 == 0 {
            let (head, inline) = payload.split_at(payload.len().min(HEAD_BYTES));
            let header = FrameHeader { len_bytes: inline.len() as u32, ..header(end, head, inline) };
            let header =
                FrameHeader { payload_crc32c: FrameHeader::for_payload(header.kind, inline).payload_crc32c, ..header };
            [&Packet::Frame { header, inline }.encode_head(), inline].concat()
        } else {
            payload.to_vec()
        };
        let stamp = number as u64 + u64::from(kind & 1 == 0);
        let after = u64::from(kind >> 4);
        let len = if kind & 2 == 0 { bytes.len() as u64 } else { u64::MAX - bytes.len() as u64 };
        ([stamp, after, len], bytes)
    });
    let letters: Vec<([u64; 3], Vec<u8>)> = made.collect();
    let _ = end.put_mailbox(letters.iter().map(|(numbers, bytes)| (*numbers, &bytes[..])));
}

/// Bytes of a record that describe a frame's header.
const HEAD_BYTES: usize = 8;

/// The header of a frame that begins with `payload`, and goes on with zeros, which memory that is shown is full of.
fn header(end: &LinkEnd, head: &[u8], payload: &[u8]) -> FrameHeader {
    let at = |index: usize| head.get(index).copied().unwrap_or_default();
    let kinds = [FrameKind::Data, FrameKind::Message, FrameKind::Link, FrameKind::Greeting, FrameKind::Beat];
    let kind = kinds[usize::from(at(0)) % kinds.len()];
    let [ours, others] = end.regions();
    let region = match (kind, at(1) % 4) {
        (FrameKind::Data, 0 | 1) => ours.0,
        (FrameKind::Data, 2) => others.0,
        (_, number) => u64::from(number) << (at(1) / 4 % 32),
    };
    let lane = Lane::ALL[usize::from(at(2)) % Lane::ALL.len()];
    let offset = u64::from(at(3)) * (REGION_BYTES as u64 / 128);
    let (attempt, transfer) = (at(7) & 3, u64::from(at(7) >> 2));
    let whole = [payload, &vec![0; usize::from(at(4)) * 4]].concat();
    FrameHeader { lane, region, offset, attempt, transfer, ..FrameHeader::for_payload(kind, &whole) }
}

fn put_frame(end: &mut LinkEnd, over: BackendId, header: FrameHeader, payload: &[u8]) {
    if over == BackendId::Tcp {
        let _ = end.put(&[&header.encode(), payload].concat());
        return;
    }
    let (inline, more) = payload.split_at(payload.len().min(PACKET_INLINE_BYTES_MAX));
    let _ = end.put(&[&Packet::Frame { header, inline }.encode_head(), inline].concat());
    if !more.is_empty() {
        let _ = end.put(&[&Packet::More(more).encode_head(), more].concat());
    }
}

fn greeting(payload: &[u8]) -> Greeting {
    let at = |index: usize| payload.get(index).copied().unwrap_or_default();
    let peer = |rank: u8, incarnation: u8| PeerId {
        rank: THEIRS.rank.wrapping_add(rank.into()),
        incarnation: THEIRS.incarnation.wrapping_add(incarnation.into()),
    };
    match at(0) % 4 {
        0 => Greeting::Hello(Hello {
            job: if at(1) == 0 { JOB.to_owned() } else { "another".to_owned() },
            from: peer(at(2), at(3)),
            nonce: NONCE.wrapping_add(at(4).into()),
            session: at(5).into(),
            to: if at(6) == 0 { OURS } else { peer(at(6), 0) },
            role: if at(7) == 0 { LinkRole::Control } else { LinkRole::Data },
        }),
        1 => {
            Greeting::Welcome { id: peer(at(1), at(2)), nonce: NONCE.wrapping_add(at(3).into()), session: at(4).into() }
        }
        2 => Greeting::Reject(RejectReason::Busy, "later".to_owned()),
        _ => Greeting::Bye,
    }
}

/// Shows memory: as much as is said, or less, and sealed or not.
fn show(end: &mut LinkEnd, packet: &Packet<'_>, how: u8) {
    let said = match packet {
        Packet::Segment { len_bytes, .. } | Packet::Ring { len_bytes } => *len_bytes,
        _ => 0,
    };
    let there = if how & 2 == 0 { said } else { said / 2 };
    let _ = match how & 4 {
        0 if (1..=1 << 24).contains(&there) => end.put_with_memory(&packet.encode_head(), there, how & 1 == 0),
        _ => {
            end.put(&packet.encode_head());
            Ok(())
        }
    };
}

/// Lengths around those that matter: none, a page, a ring, and far too much.
fn length(number: u8) -> u64 {
    [0, 1, 4096, 4097, 1 << 20, (1 << 20) + 1, 1 << 40, u64::MAX][usize::from(number) % 8]
}
