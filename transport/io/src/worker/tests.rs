//! Who is told of what arrives, while somebody looks and afterwards. No thread serves the link here: what one would be told of can be
//! asked at any moment.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use xfer_transport_core::PeerId;
use xfer_transport_core::frame::FrameKind;

use super::send::message;
use super::{Looking, Worker};
use crate::EndpointConfig;
use crate::backend::{Op, tcp};
use crate::beats::Beats;
use crate::conformance::PATIENCE;
use crate::error::DownReason;
use crate::greeting::{Accepting, Side, role_of};
use crate::hub::{Channel, Incoming};
use crate::peer::{Identity, Peer};
use crate::peers::Peers;
use crate::shared::Shared;

const PEER: PeerId = PeerId { rank: 1, incarnation: 1 };

/// A link to a peer that is nothing but a socket.
struct Scene {
    worker: Arc<Worker>,
    peer: Arc<Peer>,
    other: TcpStream,
    incoming: Receiver<Incoming>,
    sent: u64,
}

impl Scene {
    fn new() -> Self {
        Self::with(Duration::ZERO)
    }

    fn with(busy_poll: Duration) -> Self {
        let mut config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "job");
        config.busy_poll = busy_poll;
        let shared = Arc::new(Shared::new(&config, 1, Beats::new().expect("a descriptor")));
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let other = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (ours, _) = listener.accept().expect("called");
        ours.set_nonblocking(true).expect("a socket");
        let peers = Arc::new(Peers::new(Arc::clone(&shared)));
        let side = Side::Accepting(Accepting { peers, pending: None });
        let worker = Worker::new(tcp::link_on(ours), &side, &shared).expect("descriptors");
        let identity = Identity { id: PEER, nonce: 2, session: 3 };
        let peer = Arc::new(Peer::new(identity, Arc::clone(&shared), Weak::new()));
        assert!(peer.adopt(&worker));
        worker.open(&peer, role_of(0), None);
        worker.tell(&mut worker.lock());
        let incoming = shared.hub.subscribe(Channel(1));
        Self { worker, peer, other, incoming, sent: 0 }
    }

    /// The other end sends the next message: its number.
    fn send(&mut self) {
        let payload = Bytes::copy_from_slice(&self.sent.to_le_bytes());
        let Op::Message { header, payload, .. } = message(FrameKind::Message, 1, self.sent, payload) else {
            unreachable!("it is a message")
        };
        self.other.write_all(&[&header.encode()[..], &payload].concat()).expect("room");
        self.sent += 1;
    }

    fn look(&self) -> Looking {
        Looking::at(Arc::clone(&self.worker), Arc::clone(&self.peer)).expect("there is something to look at")
    }

    /// Whether the link's thread would be woken now. What is sent on loopback has arrived when the call for it returns.
    fn is_told(&self) -> bool {
        self.worker.watch.wait(Duration::ZERO)
    }

    /// The messages that have been taken in since the last time.
    fn taken(&self) -> Vec<u64> {
        let number = |incoming: Incoming| u64::from_le_bytes(incoming.payload[..].try_into().expect("a number"));
        self.incoming.try_iter().map(number).collect()
    }
}

#[test]
fn who_looks_takes_what_arrives_and_nobody_else_is_told_of_it() {
    let mut scene = Scene::new();
    assert!(!scene.is_told());
    let looking = scene.look();
    scene.send();
    scene.send();
    assert!(!scene.is_told(), "it would be in the way");
    looking.once();
    assert_eq!(scene.taken(), [0, 1]);
    looking.once();
    assert!(scene.taken().is_empty() && !scene.is_told());
    drop(looking);
    assert!(!scene.is_told(), "nothing is left");
}

#[test]
fn what_nobody_has_seen_is_told_as_soon_as_nobody_looks() {
    let mut scene = Scene::new();
    let looking = scene.look();
    scene.send();
    drop(looking);
    assert!(scene.worker.watch.wait(PATIENCE));
    assert!(scene.taken().is_empty());
    // And what arrives from then on.
    let mut news = false;
    scene.worker.turn(&mut news).expect("no end");
    assert!(news && !scene.is_told());
    scene.send();
    assert!(scene.worker.watch.wait(PATIENCE));
}

#[test]
fn the_last_of_several_who_look_gives_back_what_they_took() {
    let mut scene = Scene::new();
    let (first, second) = (scene.look(), scene.look());
    scene.send();
    drop(first);
    assert!(!scene.is_told(), "the second still looks");
    second.once();
    assert_eq!(scene.taken(), [0]);
    scene.send();
    drop(second);
    assert!(scene.is_told());
}

#[test]
fn a_thread_that_goes_to_sleep_meanwhile_is_not_told_either() {
    let mut scene = Scene::new();
    let looking = scene.look();
    // What every sleep begins with.
    scene.worker.tell(&mut scene.worker.lock());
    scene.send();
    assert!(!scene.is_told());
    drop(looking);
    assert!(scene.is_told());
}

#[test]
fn who_was_told_to_look_leaves_what_comes_later_to_a_thread_that_comes_by() {
    let mut scene = Scene::with(Duration::from_micros(50));
    let looking = scene.look();
    assert!(scene.worker.watch.wake.is_asked(), "it slept until it is told");
    scene.worker.watch.wake.clear();
    scene.worker.waits_beside.store(true, Ordering::SeqCst);
    drop(looking);
    let looking = scene.look();
    assert!(!scene.worker.watch.wake.is_asked());
    drop(looking);
    scene.send();
    assert!(!scene.is_told(), "it comes by");
    // Who finds nothing sleeps, and so may it.
    let looking = scene.look();
    looking.give_up();
    drop(looking);
    assert!(scene.is_told());
}

#[test]
fn the_end_of_a_link_that_somebody_looks_at_is_told_to_its_thread() {
    let mut scene = Scene::new();
    let looking = scene.look();
    scene.send();
    scene.other.shutdown(std::net::Shutdown::Both).expect("a socket");
    looking.once();
    looking.once();
    assert_eq!(scene.taken(), [0], "the words before it count");
    assert!(scene.is_told() && scene.worker.watch.wake.is_asked());
    assert!(scene.worker.lock().over.is_some());
    let mut news = false;
    scene.worker.turn(&mut news).expect_err("it is over");
}

#[test]
fn who_shuts_down_has_shut_down_whichever_link_the_other_end_closes_first() {
    for stops in [false, true] {
        let scene = Scene::new();
        if stops {
            scene.peer.shared.stop();
        }
        scene.other.shutdown(std::net::Shutdown::Both).expect("a socket");
        let mut news = false;
        let reason = scene.worker.turn(&mut news).expect_err("it is over");
        assert!(matches!(reason, DownReason::Lost(_)), "{reason:?}");
        scene.peer.link_closed(&scene.worker, reason);
        let down = scene.peer.down_reason().expect("its last link is gone");
        assert_eq!(*down == DownReason::ShutDown, stops, "{down:?}");
    }
}

#[test]
fn what_was_seen_and_not_taken_in_is_not_forgotten() {
    let mut scene = Scene::new();
    let looking = scene.look();
    scene.send();
    assert!(scene.worker.lock().link.peek());
    assert!(scene.worker.lock().link.interest().at_once, "it is off the socket by now");
    drop(looking);
    assert!(scene.is_told(), "and nothing but this tells of it");
    let mut news = false;
    scene.worker.turn(&mut news).expect("no end");
    assert!(news);
}

#[test]
fn room_to_send_is_told_while_somebody_looks() {
    let mut scene = Scene::new();
    let looking = scene.look();
    {
        // More than the sockets of both ends hold.
        let payload = Bytes::from(vec![0; 64 << 20]);
        let mut inside = scene.worker.lock();
        let sent = inside.link.submit(message(FrameKind::Message, 1, 0, payload));
        assert!(sent.is_ok() && !inside.link.is_drained());
        scene.worker.wake_if_waiting(&mut inside);
    }
    assert!(!scene.is_told(), "there is no room");
    let mut taken = vec![0; 64 << 10];
    let told = (0..512).any(|_| {
        scene.other.read_exact(&mut taken).expect("what was sent");
        scene.is_told()
    });
    assert!(told && !scene.worker.watch.wake.is_asked());
    drop(looking);
}
