//! Signs of life have a link and a thread of their own: what holds up all others is not taken for death.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::backend::{Backend, Capabilities, Interest, Link, LinkError, Op};
use xfer_transport::conformance::{JOB, PATIENCE, eventually};
use xfer_transport::core::limits::DEAD_AFTER;
use xfer_transport::{
    BackendId, Channel, DownReason, Endpoint, EndpointConfig, Intake, Lane, PeerEvent, PeerId, Region, TransferError,
};

/// Links that come before the one for signs of life: one for control, two for data.
const CARRYING: usize = 3;

/// TCP whose threads can be held up in the middle of a call, and whose listener can be made deaf.
struct Holding {
    tcp: TcpBackend,
    accepted: AtomicUsize,
    shared: Arc<Hold>,
}

#[derive(Default)]
struct Hold {
    held: Mutex<bool>,
    released: Condvar,
    /// Links that are being held up just now.
    waiting: AtomicUsize,
    /// The links that carry something are broken, and none can be opened.
    cut: AtomicBool,
}

impl Hold {
    fn hold(&self, hold: bool) {
        *self.held.lock().expect("not poisoned") = hold;
        self.released.notify_all();
    }
}

impl Holding {
    fn new() -> (Arc<Self>, Arc<Hold>) {
        let shared = Arc::<Hold>::default();
        let tcp = TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        (Arc::new(Self { tcp, accepted: AtomicUsize::new(0), shared: Arc::clone(&shared) }), shared)
    }
}

impl Backend for Holding {
    fn id(&self) -> BackendId {
        self.tcp.id()
    }

    fn capabilities(&self) -> Capabilities {
        self.tcp.capabilities()
    }

    fn address(&self) -> Bytes {
        self.tcp.address()
    }

    fn open(&self, address: &[u8], timeout: Duration) -> io::Result<Box<dyn Link>> {
        self.tcp.open(address, timeout)
    }

    fn accept(&self, timeout: Duration) -> io::Result<Option<Box<dyn Link>>> {
        let Some(link) = self.tcp.accept(timeout)? else { return Ok(None) };
        if self.shared.cut.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let carries = self.accepted.fetch_add(1, Ordering::SeqCst) < CARRYING;
        Ok(Some(if carries { Box::new(HeldLink { link, shared: Arc::clone(&self.shared) }) } else { link }))
    }

    fn describe(&self, address: &[u8]) -> String {
        self.tcp.describe(address)
    }

    fn close(&self) {
        self.tcp.close();
    }
}

struct HeldLink {
    link: Box<dyn Link>,
    shared: Arc<Hold>,
}

impl Link for HeldLink {
    fn backend(&self) -> BackendId {
        self.link.backend()
    }

    fn has_room(&self) -> bool {
        self.link.has_room()
    }

    fn submit(&mut self, op: Op) -> Result<(), Op> {
        self.link.submit(op)
    }

    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        if self.shared.cut.load(Ordering::SeqCst) {
            return Err(LinkError::Closed);
        }
        let held = self.shared.held.lock().expect("not poisoned");
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        let held = self.shared.released.wait_while(held, |held| *held).expect("not poisoned");
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(held);
        self.link.poll(intake)
    }

    fn is_drained(&self) -> bool {
        self.link.is_drained()
    }

    fn readiness(&self) -> Arc<dyn AsFd + Send + Sync> {
        self.link.readiness()
    }

    fn interest(&self) -> Interest {
        self.link.interest()
    }

    fn finish(&mut self) {
        self.link.finish();
    }
}

/// Two endpoints; the second one's links can be held up.
fn pair() -> (Endpoint, Endpoint, Arc<Hold>) {
    let (backend, hold) = Holding::new();
    let start = |rank, backend: Arc<dyn Backend>| {
        let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, JOB);
        config.backends = vec![backend];
        Endpoint::start(config).expect("an endpoint")
    };
    let plain = Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"));
    let (one, other) = (start(0, plain), start(1, backend));
    one.connect(&other.ticket(), PATIENCE).expect("connected");
    (one, other, hold)
}

#[test]
fn a_process_whose_links_are_all_held_up_is_alive_and_loses_no_link() {
    let (one, other, hold) = pair();
    let events = one.events();
    let messages = other.subscribe(Channel(1));
    hold.hold(true);
    // Pokes make the threads come around.
    eventually("all threads are held up", || {
        let _ = one.send(other.id(), Channel(1), Bytes::from_static(b"early"));
        hold.waiting.load(Ordering::SeqCst) == CARRYING
    });
    let quiet = events.recv_timeout(DEAD_AFTER * 5 / 2);
    assert_eq!(quiet, Err(RecvTimeoutError::Timeout), "nothing was heard of its other links for so long");
    hold.hold(false);
    assert_eq!(messages.recv_timeout(PATIENCE).expect("it goes on").payload, Bytes::from_static(b"early"));
    assert_eq!((one.stats().links_lost, other.stats().links_lost), (0, 0));
    assert_eq!((one.stats().peers_down, other.stats().peers_down), (0, 0));
}

#[test]
fn a_process_that_lives_but_can_not_be_reached_any_more_is_given_up_and_its_transfers_end() {
    let (one, other, hold) = pair();
    let destination = Region::allocate(64 << 20).expect("memory");
    let grant = other.grant(&destination, one.id()).expect("a grant");
    let source = Region::allocate(64 << 20).expect("memory");
    one.set_egress_limit(Some(64 << 20));
    let write = one.write(other.id(), source.all(), grant.remote().all(), Lane::Bulk, None);
    hold.cut.store(true, Ordering::SeqCst);
    let outcome = write.wait(Some(PATIENCE)).expect_err("nothing carries it");
    // Whichever end gives up first closes the link on which the other one heard it.
    assert!(matches!(&outcome, TransferError::PeerGone { reason: DownReason::Lost(_), .. }), "{outcome}");
    eventually("it is gone", || one.peer(1).is_none());
}

#[test]
fn the_link_for_signs_of_life_carries_nothing_else_and_is_said_goodbye_on() {
    let (one, other, _hold) = pair();
    let events = one.events();
    let route = one.route(other.id()).expect("connected");
    assert_eq!(route.links, 2, "of data");
    other.shutdown();
    let down = events.recv_timeout(PATIENCE);
    assert_eq!(down, Ok(PeerEvent::Down { peer: other.id(), reason: DownReason::Left }));
}
