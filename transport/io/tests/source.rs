//! A peer that is only a socket sees every byte that leaves: after a cancel, none of the source.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use xfer_transport::backend::tcp::ZeroCopy;
use xfer_transport::conformance::{PATIENCE, Random, eventually, seed};
use xfer_transport::core::frame::{FrameHeader, FrameKind};
use xfer_transport::core::message::{Greeting, Hello, LinkMessage, LinkRole, Received};
use xfer_transport::core::ticket::Ticket;
use xfer_transport::{
    BackendId, Cancelled, Endpoint, EndpointConfig, Lane, PeerId, Place, Region, RegionId, RemoteRegion,
};

const LEN_BYTES: u64 = 64 << 20;
const BEFORE: u8 = 1;
const AFTER: u8 = 2;

/// The other end of a link, which answers fences and applies nothing.
struct Wiretap {
    stream: TcpStream,
    number: u64,
}

impl Wiretap {
    fn connect(endpoint: &Endpoint, id: PeerId, role: LinkRole) -> Self {
        let ticket = Ticket::decode(&endpoint.ticket()).expect("its own ticket");
        let address = std::str::from_utf8(&ticket.addresses[0].1).expect("an address");
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut tap = Self { stream, number: 0 };
        let to = endpoint.id();
        let hello = Hello { job: "job".into(), from: id, nonce: 1, session: 2, to, role };
        tap.say(FrameKind::Greeting, 0, &Greeting::Hello(hello).encode());
        let (header, _) = tap.frame().expect("an answer");
        assert_eq!(header.kind, FrameKind::Greeting);
        tap
    }

    fn say(&mut self, kind: FrameKind, number: u64, payload: &[u8]) {
        let mut header = FrameHeader::for_payload(kind, payload);
        header.transfer = number;
        // Fails only when the other end is gone, which reading shows too.
        let _ = self.stream.write_all(&[&header.encode()[..], payload].concat());
    }

    fn frame(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).ok()?;
        let header = FrameHeader::decode(&header).expect("a frame");
        let mut payload = vec![0; header.len_bytes as usize];
        self.stream.read_exact(&mut payload).ok()?;
        Some((header, payload))
    }

    /// Reads all there is, answers fences, and counts the bytes of chunks that are too late.
    fn run(mut self) -> u64 {
        let mut leaked = 0;
        while let Some((header, payload)) = self.frame() {
            match header.kind {
                FrameKind::Data => leaked += payload.iter().filter(|byte| **byte == AFTER).count() as u64,
                FrameKind::Link => {
                    if let Ok(LinkMessage::Fence(transfer)) = LinkMessage::decode(&payload) {
                        let number = self.number;
                        self.number += 1;
                        self.say(FrameKind::Link, number, &LinkMessage::Fenced(transfer).encode());
                    }
                }
                FrameKind::Beat => self.say(FrameKind::Beat, 0, &Received::default().encode()),
                FrameKind::Message | FrameKind::Greeting => {}
            }
        }
        leaked
    }
}

#[test]
fn nothing_of_a_cancelled_source_leaves() {
    no_byte_is_late(ZeroCopy::Off);
}

/// The kernel reads the source until the other end has taken it, which this one doesn't: so the connection has to end.
#[test]
fn nothing_of_a_cancelled_source_leaves_that_the_kernel_has_not_copied() {
    no_byte_is_late(ZeroCopy::Always(1));
}

/// Cancels in the middle of a chunk, with the socket full, overwrites the source, and looks at all that left.
fn no_byte_is_late(zerocopy: ZeroCopy) {
    // In a machine that has two network cards, over these.
    let bind = std::env::var("XFER_TEST_CARDS").ok().and_then(|cards| cards.split(',').next()?.parse().ok());
    let mut random = Random(seed());
    for _ in 0..8 {
        let mut config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job");
        config.chunk_bytes = 16 << 20;
        config.transports = Some(vec![BackendId::Tcp]);
        config.zerocopy = zerocopy;
        config.bind.set_ip(bind.unwrap_or(config.bind.ip()));
        let endpoint = Endpoint::start(config).expect("an endpoint");
        let id = PeerId { rank: 1, incarnation: 1 };
        let [control, data] = [LinkRole::Control, LinkRole::Data].map(|role| Wiretap::connect(&endpoint, id, role));
        let control = std::thread::spawn(move || control.run());
        let source = Region::from_vec(vec![BEFORE; LEN_BYTES as usize]);
        let remote = RemoteRegion { id: RegionId(7), len_bytes: LEN_BYTES, place: Place::Host };
        let write = endpoint.write(id, source.all(), remote.all(), Lane::Step, None);
        eventually("the socket is being filled", || endpoint.stats().lane(Lane::Step).sent_bytes > 0);
        random.pause(Duration::from_millis(5));
        assert_eq!(write.cancel(), Cancelled::Fenced);
        source.write_at(0, &vec![AFTER; LEN_BYTES as usize]).expect("inside");
        // Only now is the data link read: what of the chunk had not left then is read from somewhere else.
        let data = std::thread::spawn(move || data.run());
        endpoint.shutdown();
        let leaked = data.join().expect("no panic") + control.join().expect("no panic");
        assert_eq!(leaked, 0, "{leaked} bytes were read from the source after its cancel");
    }
}
