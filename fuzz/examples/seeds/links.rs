//! Links, as records that `fuzz/src/links.rs` reads.

use super::{Seeds, header, link_messages, record};
use xfer_transport_core::frame::FrameKind;

/// The first byte of an input: what the link goes over, and whether we are the caller.
const TCP: u8 = 0;
const SHM: u8 = 1;
const CALLS: u8 = 2;

pub(crate) fn links() -> Seeds {
    let mut all = Vec::new();
    for (way, name) in [(TCP, "tcp"), (SHM, "shm")] {
        let mut put = |what: &str, way: u8, records: &[Vec<u8>]| {
            all.push((format!("{name}-{what}"), [vec![way], records.concat()].concat()));
        };
        let not_granted = [hello(), chunk(2, 0, 4), chunk(3, 0, 4), chunk(0, 127, 4)];
        put("write", way, &[hello(), chunk(0, 0, 4), chunk(0, 2, 4), message(0, b"hi"), beat()]);
        put("not-granted", way, &not_granted);
        put("stranger-writes", way, &[chunk(0, 0, 4)]);
        put("stranger-speaks", way, &[message(0, b"hi")]);
        let messages = [message(0, b"a"), message(1, b"b"), message(1, b"b"), acks(), beat(), record(2, [3])];
        put("messages", way, &[hello(), messages.concat()]);
        put("other-job", way, &[record(2, [0, 1, 0, 0, 0, 0, 0, 0])]);
        put("hello-twice", way, &[hello(), hello()]);
        put("calls", way | CALLS, &[record(2, [1]), chunk(0, 0, 4), beat()]);
        put("calls-refused", way | CALLS, &[record(2, [2])]);
    }
    let begun = frame([0, 0, 2, 0, 4, 0, 0, 4], b"begun");
    let next = frame([0, 0, 2, 3, 0, 0, 0, 8], b"next");
    let ring = record(4, [0, 4, 0]);
    let nothing_inline = frame([0, 0, 2, 0, 4, 0, 0, 4], b"");
    for (name, way, records) in [
        ("tcp-http", TCP, vec![record(0, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")]),
        ("tcp-chunk-cut-off", TCP, vec![hello(), begun.clone()]),
        (
            "tcp-chunk-in-parts",
            TCP,
            vec![hello(), frame([0, 0, 2, 0, 1, 0, 0, 4], b"begun"), record(0, [0; 4]), next.clone()],
        ),
        ("shm-lent", SHM, vec![hello(), segment(0), lent(0), record(7, [1, 5])]),
        ("shm-beyond-the-end", SHM, vec![hello(), segment(0), lent(255)]),
        ("shm-unsealed", SHM, vec![hello(), segment(1)]),
        ("shm-less-than-said", SHM, vec![hello(), segment(2)]),
        ("shm-no-descriptor", SHM, vec![hello(), segment(4)]),
        ("shm-ring", SHM, vec![hello(), ring.clone(), nothing_inline.clone(), record(6, [1, 4])]),
        ("shm-ring-beyond", SHM, vec![hello(), ring.clone(), nothing_inline, record(6, [255, 255])]),
        ("shm-ring-before-hello", SHM, vec![ring.clone(), hello()]),
        ("shm-inline-then-ring", SHM, vec![hello(), ring, begun.clone(), record(6, [1, 2]), record(6, [9, 2])]),
        ("shm-abandon", SHM, vec![hello(), begun, record(7, [0]), next]),
        ("shm-more", SHM, vec![hello(), frame([0, 0, 2, 0, 1, 0, 0, 4], b"begun"), record(7, [3, 0, 0, 0, 0])]),
        (
            "shm-mailbox",
            SHM,
            vec![
                hello(),
                mailbox(&[letter(0x20, chunk(0, 0, 4)), letter(0x20, chunk(0, 2, 8)), letter(0x30, chunk(0, 4, 12))]),
                chunk(0, 6, 16),
            ],
        ),
        ("shm-mailbox-before-hello", SHM, vec![mailbox(&[letter(0x10, chunk(0, 0, 4))]), hello()]),
        ("shm-mailbox-too-long", SHM, vec![hello(), mailbox(&[letter(0x22, chunk(0, 0, 4))])]),
        ("shm-mailbox-later", SHM, vec![hello(), mailbox(&[letter(0x50, chunk(0, 0, 4))])]),
        ("shm-mailbox-not-the-next", SHM, vec![hello(), mailbox(&[letter(0x21, chunk(0, 0, 4))]), chunk(0, 6, 16)]),
        ("shm-mailbox-garbage", SHM, vec![hello(), mailbox(&[record(0x24, b"\x63garbage")])]),
        ("shm-mailbox-twice", SHM, vec![hello(), mailbox(&[]), mailbox(&[])]),
        ("shm-freed", SHM, vec![hello(), record(7, [2, 2])]),
    ] {
        all.push((name.to_owned(), [vec![way], records.concat()].concat()));
    }
    ("link", all)
}

/// Streams that a proxy cuts: the size of parts, then bytes.
pub(crate) fn proxied() -> Seeds {
    let message = header(FrameKind::Message).encode();
    let greeting = header(FrameKind::Greeting).encode();
    let mut damaged = message;
    damaged[47] = 1;
    let all = vec![
        ("frame-then-frame", [&[7], &message[..], b"payload", &greeting, b"payload"].concat()),
        ("frame-cut-off", [&[48], &header(FrameKind::Data).encode()[..], b"pa"].concat()),
        ("damaged", [&[8], &damaged[..], b"payload"].concat()),
        ("store", b"\x01xfer store".to_vec()),
    ];
    ("proxied", super::named(all))
}

fn hello() -> Vec<u8> {
    record(2, [0; 8])
}

fn frame(head: [u8; 8], payload: &[u8]) -> Vec<u8> {
    record(1, [&head, payload].concat())
}

/// A whole chunk for a place of one of the regions.
fn chunk(region: u8, offset: u8, number: u8) -> Vec<u8> {
    frame([0, region, 2, offset, 0, 0, 0, number], b"chunk of bytes")
}

fn message(number: u8, payload: &[u8]) -> Vec<u8> {
    frame([1, 1, 0, 0, 0, 0, 0, number << 2], payload)
}

fn acks() -> Vec<u8> {
    frame([2, 0, 0, 0, 0, 0, 0, 0], &link_message("acks"))
}

fn beat() -> Vec<u8> {
    frame([4, 0, 0, 0, 0, 0, 0, 0], &link_message("received"))
}

fn link_message(name: &str) -> Vec<u8> {
    link_messages().into_iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes).expect("a seed of that name")
}

/// A mailbox of letters.
fn mailbox(letters: &[Vec<u8>]) -> Vec<u8> {
    record(0x48, letters.concat())
}

/// A frame as a letter: after how many packets it comes is in the upper bits of `what`, what is wrong with it in the lower.
fn letter(what: u8, frame: Vec<u8>) -> Vec<u8> {
    record(what, &frame[3..])
}

/// A segment of a page; `how` it is shown is told by bits.
fn segment(how: u8) -> Vec<u8> {
    record(3, [5, 2, how])
}

/// 64 bytes of that segment, from `at` times 16 on.
fn lent(at: u8) -> Vec<u8> {
    record(5, [0, 0, 2, 0, 16, 5, at, 4])
}
