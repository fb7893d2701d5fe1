//! One end of a link without a thread or a peer: what another process could send is put on its socket first, and then the
//! production code reads it. For fuzz targets, which need the same input to do the same; no interface for programs.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use xfer_transport_core::limits::CHUNK_BYTES_MIN;
use xfer_transport_core::message::{Hello, LinkRole};
use xfer_transport_core::packet::Packet;
use xfer_transport_core::{BackendId, PeerId, RegionId};

use crate::backend::{shm, tcp};
use crate::beats::Beats;
use crate::config::EndpointConfig;
use crate::error::DownReason;
use crate::grants::Grant;
use crate::greeting::{Accepting, Opening, Side};
use crate::memory::{Region, Segment};
use crate::peers::Peers;
use crate::shared::Shared;
use crate::worker::Worker;

/// The job of the end.
pub const JOB: &str = "job";
/// Who the end is.
pub const OURS: PeerId = PeerId { rank: 0, incarnation: 2 };
/// Who has a grant here, and whom the end calls.
pub const THEIRS: PeerId = PeerId { rank: 1, incarnation: 2 };
/// The process that the end calls, among those that may claim the same identity.
pub const NONCE: u64 = 7;
/// Bytes of each region.
pub const REGION_BYTES: usize = 1024;

/// Turns of a link before it is said to go round in circles: each takes in what is there, which is a few thousand bytes.
const TURNS_MAX: usize = 10_000;

/// What stands in memory that nobody writes.
const UNTOUCHED: u8 = 0x55;

/// One end of a link.
pub struct LinkEnd {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    worker: Arc<Worker>,
    side: Side,
    socket: OwnedFd,
    over: BackendId,
    granted: Grant,
    others: Grant,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whether the other end was let in.
    pub is_introduced: bool,
    /// Bytes that were applied to granted memory.
    pub applied_bytes: u64,
    /// Why it ended.
    pub reason: String,
}

impl LinkEnd {
    /// An end over `over`, which has called or was called.
    pub fn new(over: BackendId, calls: bool) -> io::Result<Self> {
        let mut config = EndpointConfig::new(OURS, JOB.to_owned());
        (config.chunk_bytes, config.links_per_peer) = (CHUNK_BYTES_MIN, 1);
        let shared = Arc::new(Shared::new(&config, 1, Beats::new()?));
        let peers = Arc::new(Peers::new(Arc::clone(&shared)));
        let grant = |to| {
            let region = Region::from_vec(vec![UNTOUCHED; REGION_BYTES]);
            shared.grants.grant(&region, to).map_err(io::Error::other)
        };
        let (granted, others) = (grant(THEIRS)?, grant(PeerId { rank: 2, incarnation: 1 })?);
        let kind = if over == BackendId::Shm { SocketType::SEQPACKET } else { SocketType::STREAM };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, socket) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        let link = match over {
            BackendId::Shm => shm::link_on(ours),
            _ => tcp::link_on(TcpStream::from(ours)),
        };
        let side = if calls {
            let session = peers.session(THEIRS.rank);
            let role = LinkRole::Control;
            let hello = Hello { job: JOB.to_owned(), from: OURS, nonce: 1, session, to: THEIRS, role };
            Side::Opening(Opening { peers: Arc::clone(&peers), hello, nonce: NONCE, done: None })
        } else {
            Side::Accepting(Accepting { peers: Arc::clone(&peers), pending: None })
        };
        let worker = Worker::new(link, &side, &shared)?;
        Ok(Self { shared, peers, worker, side, socket, over, granted, others })
    }

    /// The region that [`THEIRS`] may write, and one that it may not.
    pub fn regions(&self) -> [RegionId; 2] {
        [self.granted.remote().id, self.others.remote().id]
    }

    /// Puts bytes on the socket, as one packet where there are packets; `false` when it is full.
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        match self.over {
            BackendId::Shm => shm::put_packet(&self.socket, bytes, None).is_ok(),
            _ => self.socket.try_clone().map(TcpStream::from).and_then(|mut end| end.write_all(bytes)).is_ok(),
        }
    }

    /// Puts a packet on the socket, and memory of `len_bytes` along; sealed, as it has to be, or not.
    pub fn put_with_memory(&mut self, packet: &[u8], len_bytes: u64, is_sealed: bool) -> io::Result<()> {
        if is_sealed {
            return shm::put_packet(&self.socket, packet, Some(Segment::create(len_bytes)?.as_fd()));
        }
        let file = memfd_create("xfer", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, len_bytes)?;
        shm::put_packet(&self.socket, packet, Some(file.as_fd()))
    }

    /// Shows a mailbox that holds these letters: of each its stamp, after how many packets it comes, how long it says to be,
    /// and its bytes.
    pub fn put_mailbox<'a>(&mut self, letters: impl IntoIterator<Item = ([u64; 3], &'a [u8])>) -> io::Result<()> {
        let content = shm::forged_mailbox(letters);
        let len_bytes = content.len() as u64;
        let segment = Segment::create(len_bytes)?;
        segment.fill(0, &Region::from_vec(content).all(), 0, len_bytes as usize);
        shm::put_packet(&self.socket, &Packet::Mailbox { len_bytes }.encode_head(), Some(segment.as_fd()))
    }

    /// Takes in everything that was put, and then the end of the connection.
    ///
    /// # Panics
    ///
    /// Panics if the link does what it must not, whatever it is sent.
    pub fn finish(mut self) -> Ended {
        let _ = shutdown(&self.socket, Shutdown::Write);
        let reason = (0..TURNS_MAX).find_map(|_| self.worker.step(&mut self.side).err());
        let reason = reason.expect("the other end has closed, so the link ends");
        let is_introduced = self.shared.counters.snapshot().peers_up > 0;
        self.end(reason, is_introduced)
    }

    fn end(self, reason: DownReason, is_introduced: bool) -> Ended {
        let ended = reason.to_string();
        self.worker.end(self.side, reason);
        assert!(self.peers.all().is_empty(), "a peer stays connected without a link");
        let untouched = self.others.region().copy_to_vec();
        assert!(
            untouched.iter().all(|byte| *byte == UNTOUCHED),
            "memory was written that was granted to somebody else"
        );
        let applied_bytes = self.granted.received();
        assert!(is_introduced || applied_bytes == 0, "a stranger wrote");
        Ended { is_introduced, applied_bytes, reason: ended }
    }
}

#[cfg(test)]
mod tests {
    use xfer_transport_core::frame::{FrameHeader, FrameKind};
    use xfer_transport_core::limits::{MESSAGE_BYTES_MAX, SUM_AHEAD_BYTES_MAX};
    use xfer_transport_core::message::Greeting;

    use super::*;

    /// A frame as it goes over `over`.
    fn frame(over: BackendId, header: FrameHeader, payload: &[u8]) -> Vec<u8> {
        match over {
            BackendId::Shm => [&Packet::Frame { header, inline: payload }.encode_head(), payload].concat(),
            _ => [&header.encode()[..], payload].concat(),
        }
    }

    fn greeting(over: BackendId, greeting: &Greeting) -> Vec<u8> {
        let payload = greeting.encode();
        frame(over, FrameHeader::for_payload(FrameKind::Greeting, &payload), &payload)
    }

    fn hello() -> Greeting {
        let role = LinkRole::Control;
        Greeting::Hello(Hello { job: JOB.into(), from: THEIRS, nonce: NONCE, session: 1, to: OURS, role })
    }

    #[test]
    fn who_has_introduced_itself_writes_what_it_was_granted_and_nothing_else() {
        for over in [BackendId::Tcp, BackendId::Shm] {
            for (which, applied_bytes) in [(0, 5), (1, 0)] {
                let mut end = LinkEnd::new(over, false).expect("sockets");
                let region = end.regions()[which].0;
                let chunk = FrameHeader { region, transfer: 1, ..FrameHeader::for_payload(FrameKind::Data, b"chunk") };
                assert!(end.put(&greeting(over, &hello())) && end.put(&frame(over, chunk, b"chunk")));
                let ended = end.finish();
                assert_eq!((ended.is_introduced, ended.applied_bytes), (true, applied_bytes), "{over}: {ended:?}");
            }
        }
    }

    #[test]
    fn letters_are_taken_in_turn_and_a_mailbox_that_lies_ends_the_link() {
        let over = BackendId::Shm;
        let chunk = |end: &LinkEnd, at: u64| {
            let header = FrameHeader {
                region: end.regions()[0].0,
                transfer: 1 + at,
                offset: at,
                ..FrameHeader::for_payload(FrameKind::Data, b"chunk")
            };
            frame(over, header, b"chunk")
        };
        type Letters = Vec<([u64; 3], Vec<u8>)>;
        let end = |letters: &dyn Fn(&LinkEnd) -> Letters| {
            let mut end = LinkEnd::new(over, false).expect("sockets");
            assert!(end.put(&greeting(over, &hello())));
            let letters = letters(&end);
            end.put_mailbox(letters.iter().map(|(numbers, bytes)| (*numbers, &bytes[..]))).expect("memory");
            // The letters come after the two packets before it.
            assert!(end.put(&chunk(&end, 10)));
            end.finish()
        };
        let letter = |stamp: u64, after: u64, bytes: Vec<u8>| ([stamp, after, bytes.len() as u64], bytes);
        let ended =
            end(&|end| vec![letter(1, 2, chunk(end, 0)), letter(2, 2, chunk(end, 5)), letter(3, 3, chunk(end, 15))]);
        assert_eq!((ended.is_introduced, ended.applied_bytes), (true, 20), "{ended:?}");
        let ended = end(&|end| vec![letter(2, 2, chunk(end, 0))]);
        assert_eq!(ended.applied_bytes, 5, "a letter that is not the next is none: {ended:?}");
        let ended = end(&|end| vec![([1, 2, 233], chunk(end, 0))]);
        assert!(ended.reason.contains("longer than any"), "{ended:?}");
        let ended = end(&|end| vec![letter(1, 4, chunk(end, 0))]);
        assert!(ended.reason.contains("packets which were not sent"), "{ended:?}");
        let ended = end(&|_| vec![letter(1, 2, vec![99])]);
        assert!(ended.reason.contains("unknown kind of packet"), "{ended:?}");
    }

    #[test]
    fn a_sum_that_follows_belongs_to_the_chunk_that_awaits_it() {
        let over = BackendId::Shm;
        let ended = |packets: &[Packet<'_>]| {
            let mut end = LinkEnd::new(over, false).expect("sockets");
            assert!(end.put(&greeting(over, &hello())));
            for packet in packets {
                assert!(end.put(&[&packet.encode_head(), packet.inline()].concat()));
            }
            end.finish()
        };
        let sum = Packet::Sum { crc32c: 1 };
        let short = Packet::Frame { header: FrameHeader::for_payload(FrameKind::Data, b"chunk"), inline: b"chunk" };
        let long = FrameHeader { len_bytes: SUM_AHEAD_BYTES_MAX + 1, ..FrameHeader::for_payload(FrameKind::Data, b"") };
        let [begun, more] = [Packet::Frame { header: long, inline: &[] }, Packet::More(&[0; 100])];
        for packets in [&[sum][..], &[short, sum], &[begun, sum], &[begun, more, sum], &[begun, Packet::Abandon, sum]] {
            let ended = ended(packets);
            assert!(ended.reason.contains("the sum of no chunk"), "{packets:?}: {ended:?}");
        }
        let abandoned = ended(&[begun, more, Packet::Abandon, short]);
        assert!(abandoned.is_introduced && !abandoned.reason.contains("violation"), "{abandoned:?}");
    }

    #[test]
    fn who_is_called_is_let_in_by_its_name() {
        for (nonce, is_introduced) in [(NONCE, true), (NONCE + 1, false)] {
            let mut end = LinkEnd::new(BackendId::Tcp, true).expect("sockets");
            assert!(end.put(&greeting(BackendId::Tcp, &Greeting::Welcome { id: THEIRS, nonce, session: 1 })));
            assert_eq!(end.finish().is_introduced, is_introduced);
        }
    }

    #[test]
    fn a_stranger_is_turned_away_at_the_header_of_anything_but_a_greeting() {
        for over in [BackendId::Tcp, BackendId::Shm] {
            for kind in [FrameKind::Message, FrameKind::Link, FrameKind::Beat] {
                let mut end = LinkEnd::new(over, false).expect("sockets");
                let len_bytes = MESSAGE_BYTES_MAX.min(kind.len_bytes_max());
                let header = FrameHeader { len_bytes, ..FrameHeader::for_payload(kind, b"") };
                assert!(end.put(&frame(over, header, b"")));
                let refused = end.worker.step(&mut end.side).expect_err("it is no greeting");
                assert!(refused.to_string().contains("before the greeting"), "{over}: {refused}");
                end.end(refused, false);
            }
        }
    }
}
