//! Bytes that a sender had sent before it was killed are not sent again: not by its next life, and not by another process that
//! holds the same.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use xfer_transport::conformance::{PATIENCE, eventually, pattern};
use xfer_transport::{
    BackendId, Channel, Endpoint, EndpointConfig, Grant, Incoming, Landed, Lane, PeerEvent, PeerId, Place, Region,
    RegionId, RemoteRegion,
};

const LEN_BYTES: u64 = 24 << 20;
/// What is asked for: the grant, which bytes, and what is there.
const ORDERS: Channel = Channel(1);
/// How many bytes were sent for it.
const SENT: Channel = Channel(2);

fn config(rank: u32, incarnation: u32, over: BackendId) -> EndpointConfig {
    let mut config = EndpointConfig::new(PeerId { rank, incarnation }, "resume");
    config.transports = Some(vec![over]);
    config
}

fn source() -> Region {
    Region::from_vec(pattern(LEN_BYTES, 1))
}

/// The process that is killed: does what it is told, in an environment that says who it is.
#[test]
fn sender() {
    let Ok(words) = std::env::var("XFER_TEST_SENDER") else { return };
    let [rank, incarnation, bytes_per_s, over, ticket] = words.split(' ').collect::<Vec<_>>()[..] else { return };
    let over = if over == "shm" { BackendId::Shm } else { BackendId::Tcp };
    let mut config = config(rank.parse().unwrap(), incarnation.parse().unwrap(), over);
    config.egress_bytes_per_s = bytes_per_s.parse().ok();
    let endpoint = Endpoint::start(config).unwrap();
    let orders = endpoint.subscribe(ORDERS);
    let ticket: Vec<u8> = ticket.as_bytes().chunks(2).map(unhex).collect();
    endpoint.connect(&ticket, PATIENCE).unwrap();
    let source = source();
    // Until the receiver goes, or the process is killed.
    while let Ok(Incoming { from, payload }) = orders.recv_timeout(PATIENCE) {
        let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
        let (id, start, end) = (RegionId(number(0)), number(8), number(16));
        let landed = Landed::decode(&payload[24..]).unwrap();
        let remote = RemoteRegion { id, len_bytes: LEN_BYTES, place: Place::Host };
        let (from_here, to) = (source.slice(start..end).unwrap(), remote.slice(start, end - start).unwrap());
        let writes = endpoint.write_rest(from, &from_here, to, &landed, Lane::Rescue, None);
        let sent: u64 = writes.iter().map(|write| write.wait(Some(PATIENCE)).unwrap().bytes).sum();
        endpoint.send(from, SENT, Bytes::copy_from_slice(&sent.to_le_bytes())).unwrap();
    }
}

fn unhex(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
}

struct Sender {
    id: PeerId,
    child: Child,
}

impl Sender {
    fn start(receiver: &Endpoint, rank: u32, incarnation: u32, bytes_per_s: Option<u64>, over: BackendId) -> Self {
        let ticket: String = receiver.ticket().iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes_per_s = bytes_per_s.map_or("-".to_owned(), |limit| limit.to_string());
        let words = format!("{rank} {incarnation} {bytes_per_s} {over} {ticket}");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sender", "--nocapture"]).env("XFER_TEST_SENDER", words).stdout(Stdio::null());
        let child = command.spawn().expect("a process");
        let id = PeerId { rank, incarnation };
        eventually("the sender is connected", || receiver.peer(rank) == Some(id));
        Self { id, child }
    }

    /// Asks it for what is missing of a range.
    fn order(&self, receiver: &Endpoint, grant: &Grant, [start, end]: [u64; 2], landed: &Landed) {
        let numbers = [grant.remote().id.0, start, end].map(u64::to_le_bytes).concat();
        receiver.send(self.id, ORDERS, [&numbers[..], &landed.encode()].concat().into()).expect("it is connected");
    }

    /// Kills it, and waits until nothing of it lands any more.
    fn kill(mut self, events: &Receiver<PeerEvent>) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while !matches!(events.recv_timeout(PATIENCE), Ok(PeerEvent::Down { peer, .. }) if peer == self.id) {}
    }

    fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn sent(answers: &Receiver<Incoming>) -> u64 {
    let answer = answers.recv_timeout(PATIENCE).expect("it is done");
    u64::from_le_bytes(answer.payload[..].try_into().unwrap())
}

#[test]
fn a_sender_that_was_killed_and_started_again_sends_the_rest() {
    for over in [BackendId::Shm, BackendId::Tcp] {
        let receiver = Endpoint::start(config(0, 1, over)).unwrap();
        let (events, answers) = (receiver.events(), receiver.subscribe(SENT));
        let region = Region::allocate(LEN_BYTES).unwrap();
        let first = Sender::start(&receiver, 1, 1, Some(16 << 20), over);
        let grant = receiver.grant(&region, first.id).unwrap();
        first.order(&receiver, &grant, [0, LEN_BYTES], &Landed::default());
        eventually("some of it has landed", || region.landed().bytes() >= LEN_BYTES / 4);
        first.kill(&events);
        drop(grant);

        let landed = region.landed();
        assert!((LEN_BYTES / 4..LEN_BYTES).contains(&landed.bytes()), "{} bytes", landed.bytes());
        let second = Sender::start(&receiver, 1, 2, None, over);
        let grant = receiver.grant(&region, second.id).unwrap();
        second.order(&receiver, &grant, [0, LEN_BYTES], &landed);
        assert_eq!(sent(&answers), LEN_BYTES - landed.bytes(), "nothing goes twice");
        assert_eq!(grant.received(), LEN_BYTES - landed.bytes());
        assert_eq!(region.landed().ranges().collect::<Vec<_>>(), [(0..LEN_BYTES, source().crc32c())]);
        assert!(region.copy_to_vec() == source().copy_to_vec());
        second.end();
    }
}

#[test]
fn two_sources_share_an_item_and_one_takes_over_from_the_other() {
    let over = BackendId::Shm;
    let receiver = Endpoint::start(config(0, 1, over)).unwrap();
    let (events, answers) = (receiver.events(), receiver.subscribe(SENT));
    let region = Region::allocate(LEN_BYTES).unwrap();
    let slow = Sender::start(&receiver, 1, 1, Some(8 << 20), over);
    let other = Sender::start(&receiver, 2, 1, None, over);
    let grants = [&slow, &other].map(|sender| receiver.grant(&region, sender.id).unwrap());
    slow.order(&receiver, &grants[0], [0, LEN_BYTES / 2], &Landed::default());
    other.order(&receiver, &grants[1], [LEN_BYTES / 2, LEN_BYTES], &Landed::default());
    assert_eq!(sent(&answers), LEN_BYTES / 2, "the other is done first");
    eventually("the slow one has sent some", || grants[0].received() >= 1 << 20);
    slow.kill(&events);

    let landed = region.landed();
    let missing: u64 = landed.missing(0..LEN_BYTES).iter().map(|gap| gap.end - gap.start).sum();
    assert!(landed.bytes() > LEN_BYTES / 2 && missing > 0, "{} bytes landed", landed.bytes());
    other.order(&receiver, &grants[1], [0, LEN_BYTES], &landed);
    assert_eq!(sent(&answers), missing);
    assert!(region.copy_to_vec() == source().copy_to_vec());
    other.end();
}
