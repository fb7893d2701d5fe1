//! Writes the inputs that fuzzing starts from, in today's formats: `cargo run --example seeds` in `fuzz/`.
//!
//! Those of `store` are kept by hand, since they are bytes that clients in the field would send; and those of targets that
//! read text, since text is what they are.

mod jobs;
mod journals;
mod links;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use bytes::Bytes;
use xfer_migrate_core::seal::{Leaf, root};
use xfer_migrate_core::{
    Body, Cut, GenerationKind, GenerationRecord, GroupId, Item, ItemClass, ItemId, Message, MigrationId, Offer,
    RecomputeCost, Refusal, Seal,
};
use xfer_transport_core::frame::{FrameHeader, FrameKind, VERSION};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::message::{
    Ack, Greeting, Hello, LinkMessage, LinkRole, Loan, LoanId, LoanRefusal, Received, RejectReason,
};
use xfer_transport_core::packet::Packet;
use xfer_transport_core::path::TransferId;
use xfer_transport_core::rdma::{self, Introduction, Opening, RdmaPacket};
use xfer_transport_core::stream::StreamId;
use xfer_transport_core::ticket::Ticket;
use xfer_transport_core::{BackendId, Lane, PeerId, Place, RegionId, RemoteRegion, message};

const MIGRATION: MigrationId = MigrationId { source: peer(0), generation: 0, attempt: 1 };

/// A target's name and its inputs by name.
type Seeds = (&'static str, Vec<(String, Vec<u8>)>);

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let seals = vec![("with-cut", first_seal().encode().into()), ("without-cut", empty_seal().encode().into())];
    let all: [Seeds; 15] = [
        ("frame", named(frames())),
        ("packet", named(packets())),
        ("rdma", named(rdma())),
        ("link_message", named(link_messages())),
        ("ticket", named(tickets())),
        ("message", named(messages())),
        ("seal", named(seals)),
        ("generation", named(generations())),
        journals::journals(),
        ("source_session", named(source_sessions())),
        ("target_session", named(target_sessions())),
        links::links(),
        links::proxied(),
        jobs::jobs(),
        jobs::tagged(),
    ];
    for (target, seeds) in all {
        fs::create_dir_all(corpus.join(target))?;
        for (name, bytes) in seeds {
            fs::write(corpus.join(target).join(name), bytes)?;
        }
    }
    Ok(())
}

fn named(seeds: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

const fn peer(rank: u32) -> PeerId {
    PeerId { rank, incarnation: 1 }
}

fn header(kind: FrameKind) -> FrameHeader {
    FrameHeader {
        lane: Lane::Rescue,
        region: 7,
        offset: 4096,
        transfer: 9,
        ..FrameHeader::for_payload(kind, b"payload")
    }
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut version = header(FrameKind::Data).encode();
    version[4] = VERSION + 1;
    let too_long = FrameHeader { len_bytes: u32::MAX, ..header(FrameKind::Data) };
    vec![
        ("data", header(FrameKind::Data).encode().into()),
        ("message", header(FrameKind::Message).encode().into()),
        ("greeting", header(FrameKind::Greeting).encode().into()),
        ("next-version", version.into()),
        ("length-4gib", too_long.encode().into()),
        ("http", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:29501\r\nAccept: */*\r\n\r\n".into()),
    ]
}

fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let (header, inline) = (header(FrameKind::Data), &b"inline"[..]);
    let whole = |packet: Packet<'_>| [&packet.encode_head(), packet.inline()].concat();
    let lent = whole(Packet::Lent { header, segment: 7, at: 1 << 20 });
    vec![
        ("frame", whole(Packet::Frame { header, inline })),
        ("more", whole(Packet::More(inline))),
        ("staged", whole(Packet::Staged { at: 4096, len_bytes: 65_536 })),
        ("staged-too-long", [&[3][..], &0_u64.to_le_bytes(), &(1_u64 << 32).to_le_bytes()].concat()),
        ("lent-cut-short", lent[..lent.len() - 8].into()),
        ("lent", lent),
        ("plain", whole(Packet::Plain { header, at: 1 << 46 })),
        ("probe", whole(Packet::Probe { at: 1 << 46, number: u64::MAX })),
        ("probed", whole(Packet::Probed { errno: 1 })),
        ("sum", whole(Packet::Sum { crc32c: u32::MAX })),
        ("abandon", whole(Packet::Abandon)),
        ("segment", whole(Packet::Segment { id: 7, len_bytes: 64 << 20 })),
        ("ring", whole(Packet::Ring { len_bytes: 1 << 20 })),
        ("mailbox", whole(Packet::Mailbox { len_bytes: 16_512 })),
        ("rung", whole(Packet::Rung)),
        ("forget", whole(Packet::Forget { id: 7 })),
        ("freed", whole(Packet::Freed { len_bytes: 65_536 })),
        ("kind-99", [&[99][..], &1_u64.to_le_bytes()].concat()),
    ]
}

fn rdma() -> Vec<(&'static str, Vec<u8>)> {
    let (header, inline) = (header(FrameKind::Data), &b"inline"[..]);
    let whole = |body: rdma::Body<'_>| {
        let packet = RdmaPacket { taken: 1, freed: 16, body };
        [&packet.encode_head(), packet.inline()].concat()
    };
    let exposed = whole(rdma::Body::Exposed { header, at: 1 << 46, key: 7 });
    let (queue_pair, psn, gid) = (17, 0x12_3456, std::array::from_fn(|at| at as u8));
    let hello = Introduction { queue_pair, psn, gid, mtu_bytes: 4096, reads: 16, rail: 0, room: 32 };
    vec![
        ("nothing", whole(rdma::Body::Nothing)),
        ("frame", whole(rdma::Body::Frame { header, inline })),
        ("more", whole(rdma::Body::More(inline))),
        ("exposed-cut-short", exposed[..exposed.len() - 4].into()),
        ("exposed", exposed),
        ("abandon", whole(rdma::Body::Abandon)),
        ("unread", whole(rdma::Body::Unread { errno: 12 })),
        ("kind-99", vec![99, 0, 0, 0]),
        ("hello", Opening::Hello(hello).encode().into()),
        ("refusal", Opening::Refusal { len_bytes: 200 }.encode().into()),
    ]
}

fn link_messages() -> Vec<(&'static str, Vec<u8>)> {
    let hello = Hello { job: "job".into(), from: peer(0), nonce: 5, session: 1, to: peer(1), role: LinkRole::Data };
    let ack = Ack { transfer: TransferId(1), offset: 1 << 20, crc32c: 7 };
    let loan = Loan { id: LoanId(1), channel: 3, segment: 7, at: 4096, len_bytes: 1 << 20, crc32c: Some(9) };
    let refused = LinkMessage::Refused { transfer: TransferId(1), refusal: message::Refusal::NotGranted };
    vec![
        ("hello", Greeting::Hello(hello).encode().into()),
        ("welcome", Greeting::Welcome { id: peer(1), nonce: 6, session: 1 }.encode().into()),
        ("reject", Greeting::Reject(RejectReason::Superseded, "a later life is here".into()).encode().into()),
        ("acks", LinkMessage::Acks(vec![ack; 3]).encode().into()),
        ("damaged", LinkMessage::Damaged { transfer: TransferId(1), offset: 0 }.encode().into()),
        ("refused", refused.encode().into()),
        ("ended", LinkMessage::Ended(vec![TransferId(1), TransferId(2)]).encode().into()),
        ("lend", LinkMessage::Lend(loan).encode().into()),
        ("returned", LinkMessage::Returned(loan.id).encode().into()),
        ("loan-refused", LinkMessage::LoanRefused { loan: loan.id, refusal: LoanRefusal::Nobody }.encode().into()),
        ("received", Received(vec![(StreamId(0), 8), (StreamId(1), 9)]).encode().into()),
        ("acks-count-lies", vec![1, 0xff, 0xff, 1, 2]),
    ]
}

fn tickets() -> Vec<(&'static str, Vec<u8>)> {
    let addresses = vec![(BackendId::Tcp, Bytes::from_static(b"127.0.0.1:4000")), (BackendId::Sim, Bytes::new())];
    let ticket = Ticket { version: VERSION, job: "job".into(), id: peer(3), nonce: 1, addresses };
    let whole: Vec<u8> = ticket.encode().into();
    let mut version = whole.clone();
    version[4] = VERSION + 1;
    vec![
        ("cut-short", whole[..whole.len() - 6].into()),
        ("two-addresses", whole),
        ("next-version", version),
        ("no-address", Ticket { addresses: Vec::new(), ..ticket }.encode().into()),
    ]
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let mut cycle = items();
    cycle[0].cost = RecomputeCost::Compute { time: Duration::from_secs(1), from: vec![ItemId(1)] };
    let refusal = Refusal::OutOfMemory { rank: 1, needed_bytes: 9, available_bytes: 8 };
    vec![
        ("offer-terms", encoded(terms())),
        ("offer-items", encoded(offered(items()))),
        ("offer-cycle", encoded(offered(cycle))),
        ("grants", encoded(grants(1, &items()[..2]))),
        ("kept", encoded(kept(&[(0, 0..64), (1, 0..2048), (1, 2048..4000)]))),
        ("refuse", encoded(Body::Refuse { refusal })),
        ("sent", encoded(sent(0, 1))),
        ("landed", encoded(landed(0, 1))),
        ("cut", encoded(Body::Cut(cut()))),
        ("finished", encoded(Body::Finished { skipped: vec![ItemId(1)] })),
        ("deadline", encoded(Body::Deadline { time_left: Duration::from_secs(1) })),
    ]
}

fn generations() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("initial", generation(GenerationKind::Initial).encode().into()),
        ("handoff", generation(GenerationKind::Handoff).encode().into()),
        ("restore", generation(GenerationKind::Restore).encode().into()),
        ("withdrawn", generation(GenerationKind::Withdrawn).encode().into()),
    ]
}

/// Records as `fuzz/src/sessions/source.rs` reads them.
fn source_sessions() -> Vec<(&'static str, Vec<u8>)> {
    let agreed = [record(0, encoded(grants(0, &[]))), record(1, encoded(grants(0, &[])))].concat();
    let granted = [
        record(4, vec![0]),
        record(0, encoded(grants(1, &items()[..2]))),
        record(1, encoded(grants(1, &items()[2..]))),
    ]
    .concat();
    let streaming = [agreed.clone(), granted.clone()].concat();
    // All of the first item is there, and a part of the second one.
    let has_some = record(0, encoded(kept(&[(0, 0..64), (1, 0..2048)])));
    let resumed = [agreed.clone(), record(4, vec![0]), has_some, granted.clone()].concat();
    let all_landed: Vec<u8> = (0..4).flat_map(|item| record(u8::from(item > 1), encoded(landed(item, 1)))).collect();
    let committed = record(5, generation(GenerationKind::Handoff).encode());
    let restored = record(5, generation(GenerationKind::Restore).encode());
    let damaged = record(0, encoded(Body::Damaged { item: ItemId(0), send: 1 }));
    vec![
        ("handoff", [streaming.clone(), record(6, vec![0]), all_landed.clone(), committed.clone()].concat()),
        ("resumed", [resumed, record(6, vec![0]), all_landed, committed].concat()),
        ("damaged", [streaming.clone(), damaged, record(0, encoded(landed(0, 2)))].concat()),
        ("target-gone", [streaming.clone(), record(3, vec![2])].concat()),
        ("withdrawn", [streaming.clone(), record(6, vec![1])].concat()),
        ("slow-link", [streaming.clone(), record(6, vec![3; 40]), record(2, vec![90]), record(6, vec![0])].concat()),
        ("writes-fail", [agreed, record(7, vec![1]), granted].concat()),
        ("expired", [streaming, record(2, vec![101]), record(6, vec![2]), restored].concat()),
    ]
}

/// Records as `fuzz/src/sessions/target.rs` reads them.
fn target_sessions() -> Vec<(&'static str, Vec<u8>)> {
    let says = |body| record(0, encoded(body));
    let begun = [says(terms()), says(offered(items())), says(sent(0, 1))].concat();
    let ended = [says(Body::Cut(cut())), says(Body::Finished { skipped: vec![ItemId(1)] })].concat();
    let other_seal = record(4, second_seal().encode());
    let again = [says(terms()), says(offered(items())), record(7, vec![2]), says(sent(0, 1)), record(7, vec![0])];
    vec![
        ("handoff", [begun.clone(), ended.clone(), other_seal.clone()].concat()),
        ("resumed", [record(7, vec![4]), begun.clone(), ended.clone(), other_seal.clone()].concat()),
        ("damaged-then-again", [again.concat(), says(sent(0, 2)), ended.clone(), other_seal].concat()),
        ("source-gone", [begun.clone(), record(1, vec![0]), record(4, empty_seal().encode())].concat()),
        ("source-and-target-gone", [begun.clone(), record(1, vec![0]), record(1, vec![2])].concat()),
        ("deadline-passes", [begun.clone(), record(2, vec![99]), record(2, vec![60])].concat()),
        ("withdrawn", [begun.clone(), record(5, generation(GenerationKind::Withdrawn).encode())].concat()),
        ("own-notice", [begun.clone(), record(3, vec![])].concat()),
        ("no-memory", [says(terms()), record(7, vec![1]), says(offered(items()))].concat()),
        ("store-lost", [begun, ended, record(6, vec![])].concat()),
    ]
}

fn record(kind: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let len_bytes = u16::try_from(payload.as_ref().len()).expect("seeds are short");
    [&[kind], &len_bytes.to_le_bytes()[..], payload.as_ref()].concat()
}

fn encoded(body: Body) -> Vec<u8> {
    Message { migration: MIGRATION, body }.encode().into()
}

fn terms() -> Body {
    Body::Offer(Offer {
        sequence: 0,
        time_left: Duration::from_secs(10),
        targets: vec![1, 2],
        owners_after: vec![("a".into(), 1), ("b".into(), 2)],
        items: Vec::new(),
    })
}

fn offered(items: Vec<Item>) -> Body {
    let (targets, owners_after) = (Vec::new(), Vec::new());
    Body::Offer(Offer { sequence: 1, time_left: Duration::from_secs(9), targets, owners_after, items })
}

/// Two items for each of two targets, as the source of `fuzz/src/sessions/source.rs` has them.
fn items() -> Vec<Item> {
    let compute = |from: Vec<ItemId>| RecomputeCost::Compute { time: Duration::from_millis(5), from };
    let item = |id: u64, target, bytes, cost| Item {
        id: ItemId(id),
        name: format!("layer {id}").into(),
        class: ItemClass::Saved,
        bytes,
        version: 1,
        target,
        group: GroupId::ALONE,
        cost,
    };
    vec![
        item(0, 1, 64, RecomputeCost::Irreplaceable),
        item(1, 1, 4096, compute(vec![ItemId(0)])),
        item(2, 2, 1, RecomputeCost::Fetch { from: 1 }),
        item(3, 2, 1 << 20, compute(vec![])),
    ]
}

fn grants(sequence: u32, items: &[Item]) -> Body {
    let region = |item: &Item| RemoteRegion { id: RegionId(item.id.0), len_bytes: item.bytes, place: Place::Host };
    Body::Grants { sequence, grants: items.iter().map(|item| (item.id, region(item))).collect() }
}

/// What a target has of an earlier attempt.
fn kept(ranges: &[(u64, Range<u64>)]) -> Body {
    let mut items: Vec<(ItemId, Landed)> = Vec::new();
    for (item, range) in ranges {
        match items.last_mut() {
            Some((last, landed)) if last.0 == *item => landed.insert(range.clone(), 7),
            _ => {
                let mut landed = Landed::default();
                landed.insert(range.clone(), 7);
                items.push((ItemId(*item), landed));
            }
        }
    }
    Body::Kept { items }
}

fn sent(item: u64, send: u32) -> Body {
    Body::Sent { item: ItemId(item), version: 1, crc32c: 0, send }
}

fn landed(item: u64, send: u32) -> Body {
    Body::Landed { item: ItemId(item), send }
}

fn cut() -> Cut {
    Cut { total_items: 4, record: Bytes::from_static(b"step 3") }
}

fn first_seal() -> Seal {
    let leaves = [Leaf { id: ItemId(0), version: 1, bytes: 64, crc32c: 0 }];
    let (landed, missing) = (vec![ItemId(0)], vec![ItemId(1)]);
    Seal { migration: MIGRATION, target: peer(1), root: root(&leaves), landed, missing, cut: Some(cut()) }
}

fn second_seal() -> Seal {
    Seal { landed: vec![ItemId(3)], missing: vec![ItemId(2)], cut: Some(cut()), ..empty_seal() }
}

fn empty_seal() -> Seal {
    let missing = vec![ItemId(2), ItemId(3)];
    Seal { migration: MIGRATION, target: peer(2), root: root(&[]), landed: Vec::new(), missing, cut: None }
}

fn generation(kind: GenerationKind) -> GenerationRecord {
    let first = GenerationRecord::initial(vec![("a".into(), 0), ("b".into(), 1)]);
    let next = GenerationRecord { generation: 1, base: 0, kind, source: Some(peer(0)), attempt: 1, ..first.clone() };
    let landed = vec![ItemId(0), ItemId(3)];
    match kind {
        GenerationKind::Initial => first,
        GenerationKind::Withdrawn => next,
        GenerationKind::Handoff => {
            let roots = vec![(1, first_seal().root), (2, second_seal().root)];
            GenerationRecord { roots, landed, recompute: vec![ItemId(1), ItemId(2)], record: cut().record, ..next }
        }
        GenerationKind::Restore => {
            let (missing, reason) = (vec!["layer 0".into()], "rank 2 is gone".into());
            GenerationRecord { landed, missing, reason, ..next }
        }
    }
}
