//! Whoever connects without being a peer: bounded in time and number, and no harm to those who are.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use xfer_transport::conformance::{PATIENCE, eventually, pattern};
use xfer_transport::core::frame::{FrameHeader, FrameKind, VERSION};
use xfer_transport::core::limits::HANDSHAKES_MAX;
use xfer_transport::core::message::{Greeting, Hello, LinkRole, RejectReason};
use xfer_transport::core::ticket::Ticket;
use xfer_transport::{BackendId, Endpoint, EndpointConfig, Lane, PeerId, Region, StartError};

const STRANGER: PeerId = PeerId { rank: 7, incarnation: 1 };

fn endpoint(rank: u32) -> Endpoint {
    let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, "job");
    config.transports = Some(vec![BackendId::Tcp]);
    Endpoint::start(config).expect("an endpoint")
}

/// A connection to `endpoint` that has said nothing.
fn connection(endpoint: &Endpoint) -> TcpStream {
    let ticket = Ticket::decode(&endpoint.ticket()).expect("its own ticket");
    let address = std::str::from_utf8(&ticket.addresses[0].1).expect("an address");
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn frame(greeting: &Greeting) -> Vec<u8> {
    let payload = greeting.encode();
    [&FrameHeader::for_payload(FrameKind::Greeting, &payload).encode()[..], &payload].concat()
}

fn hello(to: &Endpoint) -> Hello {
    Hello { job: "job".into(), from: STRANGER, nonce: 1, session: 2, to: to.id(), role: LinkRole::Control }
}

/// What is answered before the connection is closed.
fn answer(stream: &mut TcpStream) -> Option<Greeting> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes);
    let header = FrameHeader::decode(&bytes).ok()?;
    let payload = bytes.get(48..48 + header.len_bytes as usize)?;
    Greeting::decode(payload).ok()
}

/// The reason with which `bytes`, said first, are refused.
fn refusal(endpoint: &Endpoint, bytes: &[u8]) -> Option<(RejectReason, String)> {
    let mut stream = connection(endpoint);
    stream.write_all(bytes).expect("sent");
    match answer(&mut stream) {
        Some(Greeting::Reject(reason, sentence)) => Some((reason, sentence)),
        None => None,
        other => panic!("{other:?}"),
    }
}

/// The endpoint still does what it is there for.
fn expect_service(endpoint: &Endpoint) {
    let peer = self::endpoint(1);
    peer.connect(&endpoint.ticket(), PATIENCE).expect("connected");
    let source = Region::from_vec(pattern(100_000, 1));
    let destination = Region::allocate(100_000).expect("memory");
    let grant = endpoint.grant(&destination, peer.id()).expect("a grant");
    let write = peer.write(endpoint.id(), source.all(), grant.remote().all(), Lane::Step, None);
    write.wait(Some(PATIENCE)).expect("applied and verified");
    assert_eq!(destination.crc32c(), source.crc32c());
}

#[test]
fn garbage_is_refused_by_name() {
    let endpoint = endpoint(0);
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n";
    let (reason, sentence) = refusal(&endpoint, http).expect("an answer");
    assert_eq!(reason, RejectReason::Malformed);
    assert_eq!(sentence, "not an xfer frame (it starts with 0x20544547)");
    // Far more than anybody reads of a stranger.
    let mut stream = connection(&endpoint);
    let flood = pattern(8 << 20, 1);
    let _ = stream.write_all(&flood);
    let _ = answer(&mut stream);
    eventually("both are counted", || endpoint.stats().handshakes_refused == 2);
    expect_service(&endpoint);
}

#[test]
fn another_version_is_refused_by_name() {
    let endpoint = endpoint(0);
    let mut bytes = frame(&Greeting::Hello(hello(&endpoint)));
    bytes[4] = VERSION + 1;
    let (reason, sentence) = refusal(&endpoint, &bytes).expect("an answer");
    assert_eq!(reason, RejectReason::Version);
    assert_eq!(sentence, "wire version 2, this build speaks 1: run the same xfer on all ranks");
    expect_service(&endpoint);
}

#[test]
fn frames_that_are_no_hello_are_refused() {
    let endpoint = endpoint(0);
    let data = FrameHeader { len_bytes: 4096, ..FrameHeader::for_payload(FrameKind::Data, b"") };
    let data = [&data.encode()[..], &[0; 4096]].concat();
    refusal(&endpoint, &data);
    refusal(&endpoint, &frame(&Greeting::Bye));
    refusal(&endpoint, &frame(&Greeting::Welcome { id: STRANGER, nonce: 1, session: 1 }));
    refusal(&endpoint, &FrameHeader::for_payload(FrameKind::Beat, b"").encode());
    // A header that promises more than a greeting can have.
    let mut long = FrameHeader::for_payload(FrameKind::Greeting, b"");
    long.len_bytes = u32::MAX;
    let (reason, _) = refusal(&endpoint, &long.encode()).expect("an answer");
    assert_eq!(reason, RejectReason::Malformed);
    // A payload that isn't what the header's checksum says.
    let mut damaged = frame(&Greeting::Hello(hello(&endpoint)));
    *damaged.last_mut().expect("a payload") ^= 1;
    refusal(&endpoint, &damaged);
    eventually("all are counted", || endpoint.stats().handshakes_refused == 6);
    assert_eq!((endpoint.stats().peers_up, endpoint.peer(STRANGER.rank)), (0, None));
    expect_service(&endpoint);
}

#[test]
fn whoever_says_nothing_has_three_seconds() {
    let endpoint = endpoint(0);
    let started = Instant::now();
    let mut silent = connection(&endpoint);
    let mut slow = connection(&endpoint);
    slow.write_all(&frame(&Greeting::Hello(hello(&endpoint)))[..20]).expect("sent");
    assert_eq!((answer(&mut silent), answer(&mut slow)), (None, None));
    assert!(started.elapsed() >= Duration::from_secs(3) - Duration::from_millis(100));
    assert_eq!(endpoint.stats().handshakes_refused, 2);
    expect_service(&endpoint);
}

#[test]
fn no_more_than_so_many_strangers_at_once() {
    let endpoint = endpoint(0);
    let strangers: Vec<TcpStream> = (0..2 * HANDSHAKES_MAX).map(|_| connection(&endpoint)).collect();
    eventually("those above the limit are refused at once", || {
        endpoint.stats().handshakes_refused >= HANDSHAKES_MAX as u64
    });
    assert_eq!(endpoint.stats().handshakes_refused, HANDSHAKES_MAX as u64);
    drop(strangers);
    eventually("those that left are forgotten", || endpoint.stats().handshakes_refused == 2 * HANDSHAKES_MAX as u64);
    expect_service(&endpoint);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_cut_off() {
    let endpoint = endpoint(0);
    let mut stream = connection(&endpoint);
    stream.write_all(&frame(&Greeting::Hello(hello(&endpoint)))).expect("sent");
    eventually("it is a peer", || endpoint.peer(STRANGER.rank) == Some(STRANGER));
    // A numbered message without those before it.
    let payload = b"out of order";
    let mut header = FrameHeader::for_payload(FrameKind::Message, payload);
    header.transfer = 5;
    stream.write_all(&[&header.encode()[..], payload].concat()).expect("sent");
    eventually("it is cut off", || endpoint.peer(STRANGER.rank).is_none());
    expect_service(&endpoint);
}

#[test]
fn only_this_machine_may_connect_unless_told_otherwise() {
    let mut config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job");
    config.bind = ([0, 0, 0, 0], 0).into();
    let error = Endpoint::start(config).expect_err("exposed");
    assert!(matches!(error, StartError::Exposed(_)), "{error}");
}
